// SPDX-License-Identifier: Apache-2.0
// Qwen3 dense: models.md section 1. Llama with an RMSNorm over each q and k head.
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeQwen3(const json::object& config) {
  HM_ASSIGN(ModelDescription model, ReadCommonWithGroupedAttention(config, "qwen3"));
  model.attention.qk_norm = QkNorm::kPerHead;
  // Layers from max_window_layers on use the window, and only when it is switched on.
  HM_ASSIGN(const bool use_window, ReadBoolOr(config, "use_sliding_window", false));
  if (use_window) {
    HM_ASSIGN(const int64_t window, ReadIntOr(config, "sliding_window", 1, INT32_MAX, 0));
    HM_ASSIGN(const int64_t first, ReadIntOr(config, "max_window_layers", 0, INT32_MAX, 0));
    for (int64_t i = first; i < model.num_layers(); ++i) {
      model.layers[static_cast<size_t>(i)].sliding_window = static_cast<int>(window);
    }
  }
  return model;
}

}  // namespace halfmoon::model
