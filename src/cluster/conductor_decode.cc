// SPDX-License-Identifier: Apache-2.0
// Who decodes, and what is refused.
#include <algorithm>
#include <limits>

#include "cluster/conductor.h"

namespace halfmoon::cluster {
namespace {

constexpr TimeUs kMinRetryUs = 1'000'000;  // what Retry-After can say

}  // namespace

/// Of the sequences there now, their tokens aside: enough to tell how far they have come.
double Conductor::StepUs(const Node& node) {
  const DecodeCost& cost = node.costs().decode;
  const double us = cost.Us(std::max(1, node.num_decoding), node.decoding_tokens);
  return std::max(1.0, us);
}

// A sequence is taken to have made a token a step, with steps as they are now.
Conductor::DecodeLoad Conductor::LoadOf(const Node& node, TimeUs now, Count count) const {
  const double elapsed_us = static_cast<double>(node.num_decoding) * static_cast<double>(now) -
                            static_cast<double>(node.sum_started_us);
  const double made =
      std::clamp(elapsed_us / StepUs(node), 0.0, static_cast<double>(node.output_tokens));
  const bool placed = count == Count::kPlaced;
  return {.sequences = node.more_decoding +
                       (placed ? static_cast<int32_t>(node.decodes.size()) : node.num_decoding),
          .kv_tokens = node.more_kv_tokens + static_cast<int64_t>(made) +
                       (placed ? node.prompt_tokens : node.decoding_tokens)};
}

// What was there when this conductor came is taken to stay.
Conductor::DecodeLoad Conductor::LoadAt(const Node& node, TimeUs now, TimeUs joins_until,
                                        TimeUs leaves_until) const {
  DecodeLoad load{.sequences = node.more_decoding, .kv_tokens = node.more_kv_tokens};
  const double step_us = StepUs(node);
  for (const RequestId request : node.decodes) {
    const Tracked& tracked = requests_.at(request);
    const TimeUs start_us =
        tracked.stage == Stage::kDecoding ? tracked.started_us : std::max(now, tracked.ready_us);
    if (start_us > joins_until) continue;
    const double made = static_cast<double>(leaves_until - start_us) / step_us;
    if (made >= tracked.output_tokens) continue;
    ++load.sequences;
    load.kv_tokens += tracked.prompt_tokens + static_cast<int64_t>(std::max(0.0, made));
  }
  return load;
}

double Conductor::TbtUs(const Context& context, const Node& node, const DecodeLoad& load) const {
  return node.costs().decode.Us(load.sequences + 1, load.kv_tokens + context.request.prompt_tokens);
}

bool Conductor::Fits(const Node& node, int64_t tokens, TimeUs now) const {
  const DecodeLoad load = LoadOf(node, now, Count::kPlaced);
  if (node.info.max_running > 0 && load.sequences >= node.info.max_running) return false;
  return node.info.kv_tokens <= 0 || load.kv_tokens + tokens <= node.info.kv_tokens;
}

// By load: the node whose steps are shortest with it. A node that is full queues it, so those come
// last; one that could never hold it does not come at all.
std::optional<Conductor::Chosen> Conductor::ChooseDecode(const Context& context) {
  const int64_t tokens = int64_t{context.request.prompt_tokens} + context.output_tokens;
  std::optional<Chosen> best;
  double best_score = std::numeric_limits<double>::max();
  bool best_fits = false;
  uint64_t equals = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const auto slot = static_cast<NodeSlot>(i);
    const Node& node = nodes_[i];
    if (!node.serving() || !Decodes(node.info.role)) continue;
    if (node.info.kv_tokens > 0 && tokens > node.info.kv_tokens) continue;
    const bool fits = Fits(node, tokens, context.now_us);
    const double score = TbtUs(context, node, LoadOf(node, context.now_us, Count::kPlaced));
    if (best.has_value() && (fits < best_fits || (fits == best_fits && score > best_score))) {
      continue;
    }
    const bool equal = best.has_value() && fits == best_fits && score == best_score;
    equals = equal ? equals + 1 : 1;
    if (equals > 1 && Draw() % equals != 0) continue;
    best = Chosen{.slot = slot, .tbt_us = score};
    best_score = score;
    best_fits = fits;
  }
  return best;
}

std::optional<Rejection> Conductor::Refuse(const Context& context, const Prefill& prefill,
                                           const Chosen& decode) const {
  if (options_.reject == RejectPolicy::kNone) return std::nullopt;
  const ServiceLimits& limits = context.request.limits;
  const double ttft_limit = TtftLimitUs(context);
  if (limits.ttft_us > 0 && (prefill.late || prefill.ttft_us > ttft_limit)) {
    return Rejection{
        .reason = RejectReason::kPrefillLoad,
        .retry_after_us = std::max(kMinRetryUs, ToTimeUs(prefill.ttft_us - ttft_limit)),
        .predicted_us = ToTimeUs(prefill.ttft_us)};
  }
  if (limits.tbt_us <= 0 || options_.reject == RejectPolicy::kLate) return std::nullopt;
  const Node& node = nodes_[decode.slot];
  // Places that others leave are taken by requests that are not known yet, the more of them the
  // longer one looks ahead. So nobody counts on more leaving than in the time that a request
  // usually takes to get here: else long prompts would be let in where short ones are refused.
  const auto joins_until = context.now_us + ToTimeUs(prefill.ttft_us);
  const auto leaves_until = context.now_us + ToTimeUs(std::min(prefill.ttft_us, mean_ttft_us_));
  const DecodeLoad load = options_.reject == RejectPolicy::kEarly
                              ? LoadOf(node, context.now_us, Count::kDecoding)
                              : LoadAt(node, context.now_us, joins_until, leaves_until);
  const double tbt_us = TbtUs(context, node, load);
  if (tbt_us <= static_cast<double>(limits.tbt_us) * options_.headroom) return std::nullopt;
  return Rejection{.reason = RejectReason::kDecodeLoad,
                   .retry_after_us = DecodeRetryUs(node, context.now_us),
                   .predicted_us = ToTimeUs(tbt_us)};
}

bool Conductor::IsDecodeOverloaded(RequestId request, TimeUs now) const {
  const auto found = requests_.find(request);
  if (found == requests_.end() || options_.reject != RejectPolicy::kLate) return false;
  const Tracked& tracked = found->second;
  if (tracked.tbt_limit_us <= 0) return false;
  const Node& node = nodes_[tracked.decode];
  const DecodeLoad load = LoadOf(node, std::max(now, now_), Count::kDecoding);
  return node.costs().decode.Us(load.sequences + 1, load.kv_tokens + tracked.prompt_tokens) >
         static_cast<double>(tracked.tbt_limit_us) * options_.headroom;
}

/// Until the first of its sequences is expected to end.
TimeUs Conductor::DecodeRetryUs(const Node& node, TimeUs now) const {
  const double step_us = StepUs(node);
  double first_us = std::numeric_limits<double>::max();
  for (const RequestId request : node.decodes) {
    const Tracked& tracked = requests_.at(request);
    const TimeUs start_us =
        tracked.stage == Stage::kDecoding ? tracked.started_us : std::max(now, tracked.ready_us);
    first_us =
        std::min(first_us, static_cast<double>(start_us - now) + step_us * tracked.output_tokens);
  }
  if (node.decodes.empty()) return kMinRetryUs;
  return std::max(kMinRetryUs, ToTimeUs(first_us));
}

}  // namespace halfmoon::cluster
