// SPDX-License-Identifier: Apache-2.0
#include "sim/run_options.h"

#include <array>
#include <charconv>
#include <cmath>

namespace halfmoon::sim {
namespace {

constexpr size_t kMaxRuns = 10'000;
constexpr int32_t kMaxNodes = 20'000;

constexpr std::array<OptionName, 21> kNames{{
    {"prefill", "nodes that prefill"},
    {"decode", "nodes that decode"},
    {"coupled", "nodes that do both, as vLLM 0.5.1: prompts first, whole, no prefix kept"},
    {"coupled-chunk", "tokens of a step of coupled nodes, prompts in chunks; 0: prompts first"},
    {"coupled-cache", "1: coupled nodes keep prefixes"},
    {"policy", "random, load, local, global or slack"},
    {"balance",
     "a prefix is fetched where it is more than so many times the node's own; 0: by cost"},
    {"first-token", "prefill or decode: the node that gives it, in place of the policy's"},
    {"rate", "arrivals, times those of the trace"},
    {"copies", "of the trace at once, which share nothing"},
    {"jitter", "arrivals are later by up to so many seconds (traces have steps of 3)"},
    {"ttft", "limit of the time to the first token, seconds"},
    {"tbt", "limit of the time between tokens (mean of a request's longest 10 %), milliseconds"},
    {"dram", "tokens of the KV pool in the DRAM of each node"},
    {"ssd", "tokens of the KV pool on the SSD of each node"},
    {"nic", "network of each node, Gbit/s; 0: as in the cost model"},
    {"reject", "none, late, early or predictive"},
    {"output-known", "0: the conductor is not told how long answers get"},
    {"headroom", "part of a limit that predictions may fill"},
    {"detailed", "1: steps planned by the nodes' own scheduler over pages; slow, for small cases"},
    {"seed", "of choices between equals and of jitter"},
}};

Error Wrong(std::string_view name, std::string_view value, std::string_view expected) {
  return Error(ErrorCode::kInvalidArgument, std::string(name) + ": \"" + std::string(value) +
                                                "\" is not " + std::string(expected));
}

Result<double> Number(std::string_view name, std::string_view value, double least, double most) {
  double number = 0.0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(number) ||
      number < least || number > most) {
    char range[64];
    std::snprintf(range, sizeof(range), "a number from %g to %g", least, most);
    return Wrong(name, value, range);
  }
  return number;
}

template <typename T>
Status Set(std::string_view name, std::string_view value, double least, double most, double unit,
           T* field) {
  HM_ASSIGN(const double number, Number(name, value, least, most));
  *field = static_cast<T>(number * unit);
  return {};
}

Status SetBool(std::string_view name, std::string_view value, bool* field) {
  if (value != "0" && value != "1") return Wrong(name, value, "0 or 1");
  *field = value == "1";
  return {};
}

Status SetPolicy(std::string_view value, SimOptions* options) {
  const cluster::Policy* policy = cluster::FindPolicy(value);
  if (policy == nullptr) {
    std::string names;
    for (const cluster::Policy& known : cluster::Policies()) {
      names += (names.empty() ? "one of " : ", ") + std::string(known.name);
    }
    return Wrong("policy", value, names);
  }
  options->policy = *policy;
  return {};
}

}  // namespace

std::span<const OptionName> OptionNames() { return kNames; }

Status SetOption(std::string_view name, std::string_view value, SimOptions* options) {
  SimOptions& o = *options;
  if (name == "prefill") return Set(name, value, 0, kMaxNodes, 1, &o.prefill_nodes);
  if (name == "decode") return Set(name, value, 0, kMaxNodes, 1, &o.decode_nodes);
  if (name == "coupled") return Set(name, value, 0, kMaxNodes, 1, &o.coupled_nodes);
  if (name == "coupled-chunk") return Set(name, value, 0, 1e6, 1, &o.coupled_chunk_tokens);
  if (name == "coupled-cache") return SetBool(name, value, &o.coupled_cache);
  if (name == "balance") {
    HM_ASSIGN(o.balancing_threshold, Number(name, value, 0, 1e6));
    return {};
  }
  if (name == "first-token") {
    if (value != "prefill" && value != "decode") return Wrong(name, value, "prefill or decode");
    o.first_token =
        value == "decode" ? cluster::FirstToken::kDecode : cluster::FirstToken::kPrefill;
    return {};
  }
  if (name == "detailed") return SetBool(name, value, &o.detailed);
  if (name == "rate") return Set(name, value, 1e-3, 1e3, 1, &o.rate);
  if (name == "copies") return Set(name, value, 1, 10'000, 1, &o.copies);
  if (name == "jitter") return Set(name, value, 0, 1e5, 1e6, &o.jitter_us);
  if (name == "ttft") return Set(name, value, 0, 1e5, 1e6, &o.limits.ttft_us);
  if (name == "tbt") return Set(name, value, 0, 1e6, 1e3, &o.limits.tbt_us);
  if (name == "dram") return Set(name, value, 0, 1e12, 1, &o.dram_tokens);
  if (name == "ssd") return Set(name, value, 0, 1e12, 1, &o.ssd_tokens);
  if (name == "nic") return Set(name, value, 0, 1e5, 1e9 / 8, &o.nic_bytes_per_s);
  if (name == "seed") return Set(name, value, 0, 9e15, 1, &o.seed);
  if (name == "headroom") return Set(name, value, 0.01, 10, 1, &o.headroom);
  if (name == "output-known") return SetBool(name, value, &o.output_known);
  if (name == "policy") return SetPolicy(value, options);
  if (name == "reject") {
    const auto reject = cluster::FindRejectPolicy(value);
    if (!reject.has_value()) return Wrong(name, value, "one of none, late, early, predictive");
    o.reject = *reject;
    return {};
  }
  return Error(ErrorCode::kInvalidArgument, "no option is called \"" + std::string(name) + "\"");
}

Result<std::vector<Assignment>> ExpandSweeps(std::span<const std::string> sweeps) {
  std::vector<Assignment> runs{{}};
  for (const std::string& sweep : sweeps) {
    const size_t equals = sweep.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == sweep.size()) {
      return Error(ErrorCode::kInvalidArgument,
                   "\"" + sweep + "\" is not of the form option=value,value");
    }
    const std::string name = sweep.substr(0, equals);
    std::vector<Assignment> longer;
    for (const Assignment& run : runs) {
      for (size_t begin = equals + 1; begin <= sweep.size();) {
        const size_t end = std::min(sweep.find(',', begin), sweep.size());
        Assignment next = run;
        next.emplace_back(name, sweep.substr(begin, end - begin));
        longer.push_back(std::move(next));
        begin = end + 1;
      }
    }
    if (longer.size() > kMaxRuns) {
      return Error(ErrorCode::kInvalidArgument, "more than 10,000 runs");
    }
    runs = std::move(longer);
  }
  return runs;
}

Status CheckOptions(const SimOptions& options) {
  const int64_t nodes =
      int64_t{options.prefill_nodes} + options.decode_nodes + options.coupled_nodes;
  if (nodes == 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "no node: give --prefill N and --decode M, or --coupled K");
  }
  if (nodes > kMaxNodes) return Error(ErrorCode::kInvalidArgument, "more than 20,000 nodes");
  if (options.prefill_nodes > 0 && options.decode_nodes == 0) {
    return Error(ErrorCode::kInvalidArgument, "--prefill without --decode: nothing could decode");
  }
  return {};
}

}  // namespace halfmoon::sim
