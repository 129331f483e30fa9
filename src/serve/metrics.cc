// SPDX-License-Identifier: Apache-2.0
#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>
#include <vector>

namespace halfmoon::serve {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

// Upper bounds in seconds. From a small model on a desktop to a long prefill of a large one.
const prometheus::Histogram::BucketBoundaries kFirstTokenBuckets = {
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1,     2.5,  5,    7.5,  10,   20,   40,  80,   160, 640};
const prometheus::Histogram::BucketBoundaries kTokenBuckets = {
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5};
const prometheus::Histogram::BucketBoundaries kRequestBuckets = {
    0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960};
const prometheus::Histogram::BucketBoundaries kLengthBuckets = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

struct Alias {
  std::string_view name;
  std::string_view vllm_name;
};
constexpr Alias kAliases[] = {
    {"halfmoon_requests_running", "vllm:num_requests_running"},
    {"halfmoon_requests_waiting", "vllm:num_requests_waiting"},
    {"halfmoon_kv_usage_ratio", "vllm:kv_cache_usage_perc"},
    {"halfmoon_prefix_cache_queried_tokens_total", "vllm:prefix_cache_queries_total"},
    {"halfmoon_prefix_cache_hit_tokens_total", "vllm:prefix_cache_hits_total"},
    {"halfmoon_preemptions_total", "vllm:num_preemptions_total"},
    {"halfmoon_drafts_total", "vllm:spec_decode_num_drafts_total"},
    {"halfmoon_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"},
    {"halfmoon_accepted_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"},
    {"halfmoon_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"halfmoon_generated_tokens_total", "vllm:generation_tokens_total"},
    {"halfmoon_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"halfmoon_time_per_output_token_seconds", "vllm:time_per_output_token_seconds"},
    {"halfmoon_time_per_output_token_seconds", "vllm:inter_token_latency_seconds"},
    {"halfmoon_request_seconds", "vllm:e2e_request_latency_seconds"},
    {"halfmoon_request_prompt_tokens", "vllm:request_prompt_tokens"},
    {"halfmoon_request_generated_tokens", "vllm:request_generation_tokens"},
    {"halfmoon_requests_finished_total", "vllm:request_success_total"},
};

MetricFamily EngineValue(std::string name, std::string help, MetricType type, double value) {
  MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  prometheus::ClientMetric metric;
  (type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  family.metric.push_back(std::move(metric));
  return family;
}

// Of both tiers of the KV store: one family, a value a tier.
MetricFamily TierValue(const char* name, const char* help, MetricType type,
                       const store::StoreStats& stats, uint64_t store::TierStats::* field) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  const auto add = [&](const char* tier, const store::TierStats& of) {
    if (of.budget_bytes == 0) return;
    prometheus::ClientMetric metric;
    metric.label.push_back({.name = "tier", .value = tier});
    (type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) =
        static_cast<double>(of.*field);
    family.metric.push_back(std::move(metric));
  };
  add("dram", stats.dram);
  add("disk", stats.disk);
  return family;
}

void AddStore(const engine::EngineStats& engine, std::vector<MetricFamily>& families) {
  const store::StoreStats& stats = *engine.store;
  const auto gauge = [&](const char* name, const char* help, uint64_t store::TierStats::* field) {
    families.push_back(TierValue(name, help, MetricType::Gauge, stats, field));
  };
  const auto counter = [&](const char* name, const char* help, uint64_t store::TierStats::* field) {
    families.push_back(TierValue(name, help, MetricType::Counter, stats, field));
  };
  using Tier = store::TierStats;
  gauge("halfmoon_kv_store_budget_bytes", "Most that a tier may take.", &Tier::budget_bytes);
  gauge("halfmoon_kv_store_used_bytes", "Bytes of KV blocks in a tier.", &Tier::used_bytes);
  gauge("halfmoon_kv_store_blocks", "KV blocks in a tier.", &Tier::blocks);
  counter("halfmoon_kv_store_hits_total", "Blocks that a tier gave back.", &Tier::hits);
  counter("halfmoon_kv_store_evictions_total", "Blocks that made room for others.",
          &Tier::evictions);
  counter("halfmoon_kv_store_read_bytes_total", "Bytes of blocks read.", &Tier::read_bytes);
  counter("halfmoon_kv_store_write_bytes_total", "Bytes of blocks written.", &Tier::write_bytes);
  counter("halfmoon_kv_store_read_us_total", "Microseconds in which blocks were being read.",
          &Tier::read_us);
  counter("halfmoon_kv_store_write_us_total", "Microseconds in which blocks were being written.",
          &Tier::write_us);
  counter("halfmoon_kv_store_read_errors_total", "Reads that the system refused.",
          &Tier::read_errors);
  counter("halfmoon_kv_store_write_errors_total", "Writes that the system refused.",
          &Tier::write_errors);
  counter("halfmoon_kv_store_corrupt_blocks_total",
          "Blocks whose checksum was wrong: dropped, and computed.", &Tier::corrupt_blocks);
  const auto plain = [&](const char* name, const char* help, MetricType type, uint64_t value) {
    families.push_back(EngineValue(name, help, type, static_cast<double>(value)));
  };
  plain("halfmoon_kv_store_misses_total", "Blocks that had gone when they were to be read.",
        MetricType::Counter, stats.misses);
  plain("halfmoon_kv_store_dropped_total",
        "Blocks that are not kept in the lowest tier for want of room or time.",
        MetricType::Counter, stats.dropped_puts + stats.stale_puts + engine.unoffered_blocks);
  plain("halfmoon_kv_store_pending_blocks", "Blocks on their way into the store.",
        MetricType::Gauge, stats.pending_puts + static_cast<uint64_t>(engine.waiting_offers));
  plain("halfmoon_kv_store_loading_requests", "Requests whose KV is being read back.",
        MetricType::Gauge, static_cast<uint64_t>(engine.loading));
  plain("halfmoon_kv_store_loaded_blocks_total", "Blocks read back in place of computing them.",
        MetricType::Counter, engine.loaded_blocks);
  plain("halfmoon_kv_store_failed_blocks_total",
        "Blocks that could not be read back and were computed.", MetricType::Counter,
        engine.failed_blocks);
  plain("halfmoon_kv_store_load_wait_us_total",
        "Microseconds from the start of loads to their end, summed over requests.",
        MetricType::Counter, engine.load_wait_us);
}

/// The engine counts these itself; a snapshot is printed as it is.
void AddEngine(const engine::EngineStats& stats, std::vector<MetricFamily>& families) {
  const auto gauge = [&](const char* name, const char* help, double value) {
    families.push_back(EngineValue(name, help, MetricType::Gauge, value));
  };
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    families.push_back(EngineValue(name, help, MetricType::Counter, static_cast<double>(value)));
  };
  const auto pages = static_cast<double>(std::max<int64_t>(1, stats.pages_total));
  gauge("halfmoon_requests_running", "Sequences in the batch.", stats.running);
  gauge("halfmoon_requests_waiting", "Sequences waiting for a place in the batch.", stats.queued);
  gauge("halfmoon_kv_pages", "KV pages in all.", static_cast<double>(stats.pages_total));
  gauge("halfmoon_kv_pages_in_use", "KV pages held by sequences.",
        static_cast<double>(stats.pages_in_use));
  gauge("halfmoon_kv_pages_cached", "KV pages kept for reuse, free to evict.",
        static_cast<double>(stats.pages_cached));
  gauge("halfmoon_kv_usage_ratio", "Share of KV pages held by sequences, 0 to 1.",
        static_cast<double>(stats.pages_in_use) / pages);
  counter("halfmoon_prompt_tokens_total", "Prompt tokens, cached ones included.",
          stats.prompt_tokens);
  counter("halfmoon_generated_tokens_total", "Tokens generated.", stats.generated_tokens);
  counter("halfmoon_prefix_cache_queried_tokens_total",
          "Prompt tokens looked up in the prefix cache.", stats.prompt_tokens);
  counter("halfmoon_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.",
          stats.cached_prompt_tokens);
  counter("halfmoon_engine_steps_total", "Steps of the engine.", stats.steps);
  counter("halfmoon_preemptions_total", "Sequences that had to give their pages back.",
          stats.preemptions);
  counter("halfmoon_prompt_wait_steps_total",
          "Steps in which prompts waited so that running answers keep their share of time.",
          stats.prompt_wait_steps);
  gauge("halfmoon_prompt_chunk_tokens",
        "Tokens of a prompt that one step reads beside running answers; 0: not measured yet.",
        stats.prompt_chunk_tokens);
  gauge("halfmoon_decode_step_seconds", "Time of a step without prompt tokens, as measured.",
        stats.decode_step_us * 1e-6);
  const model::ExpertStats& experts = stats.experts;
  counter("halfmoon_expert_hits_total", "Experts of a layer and step found in memory.",
          experts.hits);
  counter("halfmoon_expert_misses_total", "Experts of a layer and step that were on disk.",
          experts.misses);
  counter("halfmoon_experts_prefetched_total", "Experts read because they were foretold.",
          experts.prefetched);
  counter("halfmoon_experts_prefetched_used_total", "Foretold experts that were then used.",
          experts.prefetched_used);
  counter("halfmoon_expert_read_bytes_total", "Bytes of experts read from disk.",
          experts.bytes_read);
  counter("halfmoon_expert_wait_us_total", "Microseconds that steps stood still for the disk.",
          experts.wait_us);
  counter("halfmoon_expert_errors_total", "Steps that failed for want of an expert.",
          experts.errors);
  counter("halfmoon_drafts_total", "Steps of a sequence in which guesses were checked.",
          stats.drafts);
  counter("halfmoon_draft_tokens_total", "Tokens guessed and checked.", stats.draft_tokens);
  counter("halfmoon_accepted_draft_tokens_total", "Guesses that came true.",
          stats.accepted_draft_tokens);
  if (stats.store.has_value()) AddStore(stats, families);
}

std::string_view OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kStop:
      return "stop";
    case Outcome::kLength:
      return "length";
    case Outcome::kCancelled:
      return "abort";
    case Outcome::kError:
      return "error";
  }
  return "error";
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& http =
      prometheus::BuildCounter()
          .Name("halfmoon_http_requests_total")
          .Help("HTTP requests answered, by route and status.")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& finished =
      prometheus::BuildCounter()
          .Name("halfmoon_requests_finished_total")
          .Help("Generation requests that ended, by reason.")
          .Register(registry);
  prometheus::Histogram& first_token =
      AddHistogram("halfmoon_time_to_first_token_seconds",
                   "From the arrival of a request to its first token.", kFirstTokenBuckets);
  prometheus::Histogram& token = AddHistogram("halfmoon_time_per_output_token_seconds",
                                              "Between two tokens of a request.", kTokenBuckets);
  prometheus::Histogram& request = AddHistogram(
      "halfmoon_request_seconds", "From the arrival of a request to its end.", kRequestBuckets);
  prometheus::Histogram& prompt_tokens = AddHistogram(
      "halfmoon_request_prompt_tokens", "Prompt length of finished requests.", kLengthBuckets);
  prometheus::Histogram& generated_tokens =
      AddHistogram("halfmoon_request_generated_tokens", "Tokens generated for finished requests.",
                   kLengthBuckets);

  mutable std::mutex mutex;
  double recent_request_s = 1;  // GUARDED_BY(mutex): moving average over finished requests

  prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                      const prometheus::Histogram::BucketBoundaries& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  // A counter that appears with its first event hides that event from rate().
  for (const Outcome outcome :
       {Outcome::kStop, Outcome::kLength, Outcome::kCancelled, Outcome::kError}) {
    impl_->finished.Add({{"finished_reason", std::string(OutcomeName(outcome))}});
  }
}

Metrics::~Metrics() = default;

void Metrics::CountHttp(std::string_view route, int status) {
  impl_->http.Add({{"route", std::string(route)}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::ObserveFirstToken(double seconds) { impl_->first_token.Observe(seconds); }

void Metrics::ObserveTokens(double seconds, int64_t count) {
  for (int64_t i = 0; i < count; ++i) impl_->token.Observe(seconds / static_cast<double>(count));
}

void Metrics::ObserveEnd(Outcome outcome, double seconds, int64_t prompt_tokens,
                         int64_t completion_tokens) {
  impl_->finished.Add({{"finished_reason", std::string(OutcomeName(outcome))}}).Increment();
  if (outcome != Outcome::kStop && outcome != Outcome::kLength) return;
  impl_->request.Observe(seconds);
  impl_->prompt_tokens.Observe(static_cast<double>(prompt_tokens));
  impl_->generated_tokens.Observe(static_cast<double>(completion_tokens));
  std::lock_guard lock(impl_->mutex);
  impl_->recent_request_s += 0.1 * (seconds - impl_->recent_request_s);
}

int Metrics::RetryAfterSeconds(const engine::EngineStats& stats) const {
  constexpr int kMostSeconds = 120;
  if (stats.retry_after_s > 0) return std::min(stats.retry_after_s, kMostSeconds);
  double recent_s = 1;
  {
    std::lock_guard lock(impl_->mutex);
    recent_s = impl_->recent_request_s;
  }
  const double waves = static_cast<double>(stats.queued) / std::max(1, stats.running);
  return static_cast<int>(std::clamp(std::ceil(recent_s * waves), 1.0, double{kMostSeconds}));
}

std::string Metrics::Print(const std::optional<engine::EngineStats>& stats,
                           const std::string& model) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  if (stats) AddEngine(*stats, families);
  for (MetricFamily& family : families) {
    for (prometheus::ClientMetric& metric : family.metric) {
      metric.label.push_back({"model_name", model});
    }
  }
  const size_t own = families.size();
  for (const Alias& alias : kAliases) {
    for (size_t i = 0; i < own; ++i) {
      if (families[i].name != alias.name) continue;
      MetricFamily copy = families[i];
      copy.name = alias.vllm_name;
      families.push_back(std::move(copy));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace halfmoon::serve
