// SPDX-License-Identifier: Apache-2.0
// Llama and models of its shape (SmolLM2): models.md section 1.
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeLlama(const json::object& config) {
  HM_ASSIGN(ModelDescription model, ReadCommonWithGroupedAttention(config, "llama"));
  HM_ASSIGN(model.ffn_bias, ReadBoolOr(config, "mlp_bias", false));
  return model;
}

}  // namespace halfmoon::model
