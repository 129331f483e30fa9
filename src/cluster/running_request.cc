// SPDX-License-Identifier: Apache-2.0
#include "cluster/running_request.h"

#include <algorithm>
#include <span>

namespace halfmoon::cluster {

GenerateRequest RestOf(const Running& running) {
  GenerateRequest request = running.request;
  request.prompt_ids.insert(request.prompt_ids.end(), running.generated.begin(),
                            running.generated.end());
  request.resumed_tokens += static_cast<int32_t>(running.generated.size());
  return request;
}

std::optional<FinishReason> EndOf(const Running& running, const std::optional<ServedModel>& model) {
  if (running.generated.empty()) return std::nullopt;
  const GenerateRequest& request = running.request;
  if (std::ranges::find(request.stop_ids, running.generated.back()) != request.stop_ids.end()) {
    return FinishReason::kStop;
  }
  const auto generated = static_cast<int64_t>(running.generated.size());
  const auto known = static_cast<int64_t>(request.prompt_ids.size()) + generated;
  if (request.resumed_tokens + generated >= request.max_tokens ||
      (model.has_value() && known >= model->max_request_tokens)) {
    return FinishReason::kLength;
  }
  return std::nullopt;
}

std::vector<kv::BlockKey> KeysOf(const GenerateRequest& request, const ServedModel& model) {
  std::vector<kv::BlockKey> keys;
  // Logprobs of a prompt need all of it computed where it decodes.
  if (request.prompt_logprobs) return keys;
  const std::span<const int32_t> ids = request.prompt_ids;
  const auto block = static_cast<size_t>(model.block_size);
  kv::BlockKey previous = kv::SeedKey({.model_fingerprint = model.fingerprint,
                                       .kv_format_version = model.kv_format_version,
                                       .block_size = static_cast<uint32_t>(model.block_size),
                                       .tenant_salt = request.cache_salt});
  for (size_t i = 0; (i + 1) * block < ids.size(); ++i) {
    previous = kv::NextKey(previous, ids.subspan(i * block, block));
    keys.push_back(previous);
  }
  return keys;
}

Error RefusalOf(const Rejection& rejection) {
  switch (rejection.reason) {
    case RejectReason::kNoNode:
      return Error(ErrorCode::kUnavailable, "no node of the cluster can take requests now");
    case RejectReason::kTooLong:
      return Error(ErrorCode::kInvalidArgument,
                   "the prompt with its output fits no node's KV memory");
    case RejectReason::kPrefillLoad:
      return Error(ErrorCode::kResourceExhausted,
                   "the cluster is loaded: the first token would take " +
                       std::to_string(rejection.predicted_us / 1000) + " ms");
    case RejectReason::kDecodeLoad:
      return Error(ErrorCode::kResourceExhausted,
                   "the cluster is loaded: each token would take " +
                       std::to_string(rejection.predicted_us / 1000) + " ms");
  }
  return Error(ErrorCode::kInternal, "unknown rejection");
}

}  // namespace halfmoon::cluster
