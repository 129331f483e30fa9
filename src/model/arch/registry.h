// SPDX-License-Identifier: Apache-2.0
// Which description function reads which model_type. One visible table; no self-registration.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "model/description.h"

namespace halfmoon::model {

/// Chooses the family by config's model_type and builds its description. Errors: kUnsupported
/// naming an unknown model_type and the known ones; kInvalidArgument naming the field.
Result<ModelDescription> Describe(const json::object& config);

/// One per family, each in arch/<family>.cc (models.md sections 1 to 8).
Result<ModelDescription> DescribeLlama(const json::object& config);
Result<ModelDescription> DescribeQwen3(const json::object& config);
Result<ModelDescription> DescribeQwen3Moe(const json::object& config);
Result<ModelDescription> DescribeMixtral(const json::object& config);
Result<ModelDescription> DescribeDeepseekV3(const json::object& config);
Result<ModelDescription> DescribeDeepseekV32(const json::object& config);
Result<ModelDescription> DescribeKimiK2(const json::object& config);
Result<ModelDescription> DescribeMinimaxM2(const json::object& config);
Result<ModelDescription> DescribeBailingMoeV2(const json::object& config);

}  // namespace halfmoon::model
