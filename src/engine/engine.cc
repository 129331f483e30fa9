// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <climits>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "engine/kv_export.h"
#include "engine/local_pages.h"
#include "engine/make_drafter.h"
#include "engine/speculator.h"
#include "engine/step_loop.h"

namespace halfmoon::engine {
namespace {

constexpr int32_t kMaxLogprobs = 20;
// A row of logits is 600 kB for a vocabulary of 150 k, and each guess that is checked has one. That
// keeps their buffer in tens of megabytes.
constexpr int32_t kMaxDraftTokens = 64;

class Handle final : public RequestHandle {
 public:
  explicit Handle(std::shared_ptr<EventStream> stream) : stream_(std::move(stream)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() override {
    // What `notify` refers to may go together with the handle.
    stream_->SetNotify(nullptr);
    stream_->Cancel();
  }

  std::optional<Event> TryNext() override { return stream_->TryNext(); }
  std::optional<Event> Next() override { return stream_->Next(); }
  void SetNotify(std::function<void()> notify) override { stream_->SetNotify(std::move(notify)); }
  void Cancel() override { stream_->Cancel(); }

 private:
  const std::shared_ptr<EventStream> stream_;
};

class EngineImpl final : public Engine, public LocalPages {
 public:
  EngineImpl(std::unique_ptr<StepModel> model, const Clock* clock, const EngineOptions& options,
             const StepLoop::Config& config, store::PageMemory memory,
             std::unique_ptr<Speculator> speculator)
      : model_(std::move(model)),
        options_(options),
        max_request_tokens_(config.max_request_tokens),
        max_context_(model_->max_context()),
        vocab_size_(model_->vocab_size()),
        mailbox_(options.max_queued),
        loop_(model_.get(), clock, config, std::move(memory), std::move(speculator), &mailbox_),
        thread_([this] { loop_.Run(); }) {}
  EngineImpl(const EngineImpl&) = delete;
  EngineImpl& operator=(const EngineImpl&) = delete;
  ~EngineImpl() override { Shutdown(); }

  Result<std::unique_ptr<RequestHandle>> Submit(Request request) override {
    HM_TRY(Check(request));
    if (mailbox_.queued.fetch_add(1) >= options_.max_queued) {
      mailbox_.queued.fetch_sub(1);
      return Error(
          ErrorCode::kResourceExhausted,
          "the queue is full: " + std::to_string(options_.max_queued) + " requests are waiting");
    }
    auto stream = std::make_shared<EventStream>(options_.stream_capacity, mailbox_.wake);
    // Never full: it has room for as many as may be queued.
    if (!mailbox_.submissions.TryPush({.request = std::move(request), .stream = stream})) {
      mailbox_.queued.fetch_sub(1);
      return Error(ErrorCode::kUnavailable, "the engine is shutting down");
    }
    mailbox_.wake->Raise();
    return std::unique_ptr<RequestHandle>(std::make_unique<Handle>(std::move(stream)));
  }

  EngineStats Stats() const override {
    EngineStats stats;
    {
      std::lock_guard lock(mailbox_.stats_mutex);
      stats = mailbox_.stats;
    }
    stats.queued = mailbox_.queued.load();
    if (options_.store != nullptr) stats.store = options_.store->Stats();
    return stats;
  }

  LocalPages* local_pages() override { return this; }
  PageMemoryView page_memory() override {
    const kernels::KvLayout& layout = model_->kv_layout();
    return {.bytes = loop_.memory().bytes(),
            .file = loop_.memory().file(),
            .page_bytes = layout.page_bytes(),
            .layer_bytes = layout.layer_bytes(),
            .num_layers = layout.num_layers};
  }
  int block_size() const override { return model_->kv_layout().block_size; }
  kv::BlockKey SeedKey(std::string_view cache_salt) const override {
    return loop_.SeedKey(cache_salt);
  }

  BlockChanges TakeBlockChanges() override {
    std::unordered_map<kv::BlockKey, bool> blocks;
    {
      std::lock_guard lock(mailbox_.blocks_mutex);
      blocks.swap(mailbox_.blocks);
    }
    BlockChanges changes;
    for (const auto& [key, there] : blocks) {
      (there ? changes.added : changes.removed).push_back(key);
    }
    return changes;
  }

  int32_t max_request_tokens() const override { return max_request_tokens_; }

  void Drain() override { mailbox_.submissions.Close(); }

  void Shutdown() override {
    Drain();
    mailbox_.stop.store(true, std::memory_order_release);
    mailbox_.wake->Raise();
    std::call_once(joined_, [this] { thread_.join(); });
  }

 private:
  Status Check(const Request& request) const {
    const auto invalid = [](std::string message) {
      return Error(ErrorCode::kInvalidArgument, std::move(message));
    };
    if (request.prompt_ids.empty()) return invalid("the prompt is empty");
    for (int32_t id : request.prompt_ids) {
      if (id < 0 || id >= vocab_size_) {
        return invalid("the prompt has token id " + std::to_string(id) + ", the vocabulary has " +
                       std::to_string(vocab_size_));
      }
    }
    if (request.max_tokens < 0) {
      return invalid("max_tokens is " + std::to_string(request.max_tokens));
    }
    if (request.num_logprobs < -1 || request.num_logprobs > kMaxLogprobs) {
      return invalid("logprobs is " + std::to_string(request.num_logprobs) + ", must be at most " +
                     std::to_string(kMaxLogprobs));
    }
    if (request.kv_export != nullptr && request.max_tokens > 0) {
      return invalid("a request that exports KV generates nothing");
    }
    if (request.kv_export != nullptr) {
      const KvExport::Options& wanted = request.kv_export->options();
      if (wanted.first_block < 0 || wanted.num_blocks < 0 ||
          (wanted.first_block > 0 && !wanted.cached_only)) {
        return invalid("an export of " + std::to_string(wanted.num_blocks) + " blocks from " +
                       std::to_string(wanted.first_block) + " on that is " +
                       (wanted.cached_only ? "looked up" : "computed"));
      }
    }
    if (request.resumed_tokens != 0 &&
        (request.resumed_tokens < 0 ||
         static_cast<size_t>(request.resumed_tokens) >= request.prompt_ids.size() ||
         request.resumed_tokens >= request.max_tokens)) {
      return invalid(std::to_string(request.resumed_tokens) + " resumed tokens of a prompt of " +
                     std::to_string(request.prompt_ids.size()) + " and an output of at most " +
                     std::to_string(request.max_tokens));
    }
    HM_TRY(CheckSampling(request.sampling, vocab_size_));
    const size_t needed = request.prompt_ids.size() + (request.max_tokens > 0 ? 1 : 0);
    if (needed > static_cast<size_t>(max_context_)) {
      return invalid("the prompt has " + std::to_string(request.prompt_ids.size()) +
                     " tokens, which with its output does not fit the context of " +
                     std::to_string(max_context_));
    }
    if (needed > static_cast<size_t>(max_request_tokens_)) {
      return invalid("the prompt has " + std::to_string(request.prompt_ids.size()) +
                     " tokens, which with its output does not fit the KV memory for " +
                     std::to_string(max_request_tokens_));
    }
    return {};
  }

  const std::unique_ptr<StepModel> model_;
  const EngineOptions options_;
  const int32_t max_request_tokens_;
  const int32_t max_context_;
  const int32_t vocab_size_;
  mutable Mailbox mailbox_;
  StepLoop loop_;  // engine thread only, once that runs
  std::once_flag joined_;
  std::thread thread_;
};

Status CheckAtLeastOne(const char* name, int value) {
  if (value >= 1) return {};
  return Error(ErrorCode::kInvalidArgument,
               std::string(name) + " is " + std::to_string(value) + ", must be at least 1");
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Start(std::unique_ptr<StepModel> model, const Clock* clock,
                                              const EngineOptions& options) {
  HM_ASSIGN(std::unique_ptr<Drafter> drafter, MakeDrafter(options, nullptr));
  return Start(std::move(model), clock, options, std::move(drafter));
}

Result<std::unique_ptr<Engine>> Engine::Start(std::unique_ptr<StepModel> model, const Clock* clock,
                                              const EngineOptions& options,
                                              std::unique_ptr<Drafter> drafter) {
  HM_TRY(CheckAtLeastOne("max_running", options.max_running));
  HM_TRY(CheckAtLeastOne("max_queued", options.max_queued));
  HM_TRY(CheckAtLeastOne("step_tokens", options.step_tokens));
  HM_TRY(CheckAtLeastOne("stream_capacity", options.stream_capacity));
  if (!(options.decode_share >= 0.0 && options.decode_share < 1.0)) {
    return Error(ErrorCode::kInvalidArgument, "decode_share is " +
                                                  std::to_string(options.decode_share) +
                                                  ", must be at least 0 and below 1");
  }
  if (options.max_stall_us < 1) {
    return Error(
        ErrorCode::kInvalidArgument,
        "max_stall_us is " + std::to_string(options.max_stall_us) + ", must be at least 1");
  }
  const SpeculationOptions& speculation = options.speculation;
  HM_TRY(CheckAtLeastOne("speculation.max_tokens", speculation.max_tokens));
  const kernels::KvLayout& layout = model->kv_layout();
  const size_t num_pages =
      std::min(options.kv_bytes / layout.page_bytes(), static_cast<size_t>(INT32_MAX));
  if (num_pages == 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "the KV budget of " + std::to_string(options.kv_bytes) +
                     " bytes does not hold one page of " + std::to_string(layout.page_bytes()));
  }
  HM_ASSIGN(store::PageMemory memory,
            store::PageMemory::Create(
                static_cast<int32_t>(num_pages), layout.page_bytes(),
                options.shared_pages ? store::PageSharing::kShared : store::PageSharing::kPrivate));
  StepLoop::Config config;
  config.table.num_pages = static_cast<int32_t>(num_pages);
  config.table.prefix_cache = options.prefix_cache;
  config.table.track_blocks = options.track_blocks;
  config.share = {.decode_share = options.decode_share,
                  .max_stall_us = static_cast<double>(options.max_stall_us)};
  config.store = options.store;
  sched::Limits& limits = config.table.limits;
  limits.block_size = layout.block_size;
  limits.step_tokens = std::min<int32_t>(options.step_tokens, model->max_step_tokens());
  // Each running sequence can have at least one token of a step.
  limits.max_running = std::min({options.max_running, model->max_sequences(), limits.step_tokens});
  std::unique_ptr<Speculator> speculator;
  if (drafter != nullptr) {
    limits.draft_tokens = std::min(kMaxDraftTokens, limits.step_tokens);
    speculator = std::make_unique<Speculator>(
        std::move(drafter), clock,
        Speculator::Options{.max_depth = std::min(speculation.max_tokens, limits.draft_tokens),
                            .budget_tokens = limits.draft_tokens,
                            .adaptive = speculation.adaptive});
  }
  config.max_request_tokens = static_cast<int32_t>(
      std::min<int64_t>(model->max_context(), int64_t{config.table.num_pages} * layout.block_size));
  return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(
      std::move(model), clock, options, config, std::move(memory), std::move(speculator)));
}

}  // namespace halfmoon::engine
