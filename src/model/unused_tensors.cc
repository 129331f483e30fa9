// SPDX-License-Identifier: Apache-2.0
#include "model/unused_tensors.h"

#include <charconv>
#include <string_view>

#include "base/log.h"

namespace halfmoon::model {
namespace {

/// The number that stands for {L} in `pattern` if `name` begins like it; -1 otherwise.
int LayerOf(std::string_view pattern, std::string_view name) {
  const std::string_view prefix = pattern.substr(0, pattern.find("{L}"));
  if (!name.starts_with(prefix)) return -1;
  int layer = -1;
  const char* begin = name.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
  return error == std::errc() && end != begin ? layer : -1;
}

bool MayBeLeftAside(const ModelDescription& description, std::string_view name) {
  const TensorNames& names = description.names;
  if (LayerOf(names.attention_norm, name) >= description.num_layers()) return true;
  if (description.tied_embeddings && name == names.lm_head + ".weight") return true;
  // Frequencies: buffers of old exports, and the factors of GGUF, which are read by themselves.
  return name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight";
}

}  // namespace

std::vector<std::string> FindUnusedTensors(const checkpoint::Checkpoint& checkpoint,
                                           const ModelDescription& description,
                                           const std::set<std::string, std::less<>>& used) {
  std::vector<std::string> unused;
  for (std::string& name : checkpoint.Names()) {
    if (used.contains(name) || MayBeLeftAside(description, name)) continue;
    unused.push_back(std::move(name));
  }
  return unused;
}

Status HandleUnusedTensors(const std::vector<std::string>& names, UnusedTensors handling) {
  if (names.empty()) return {};
  const std::string more =
      names.size() == 1 ? "" : " (and " + std::to_string(names.size() - 1) + " more)";
  if (handling == UnusedTensors::kRefuse) {
    return Error(ErrorCode::kUnsupported,
                 "tensor '" + names.front() + "'" + more +
                     " belongs to no part of the description: it is a part that is not known, or "
                     "one that the description leaves out");
  }
  HM_LOG_WARN("tensor '{}'{} is not used by this model", names.front(), more);
  return {};
}

}  // namespace halfmoon::model
