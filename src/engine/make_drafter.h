// SPDX-License-Identifier: Apache-2.0
// Makes the drafter that the options name.
#pragma once

#include <memory>

#include "base/result.h"
#include "engine/drafter.h"

namespace halfmoon::engine {

/// Null for kNone. model: the one to guess for; null where it is no model::Model, which leaves
/// kNgram. Errors: kInvalidArgument where there is not what the source needs.
Result<std::unique_ptr<Drafter>> MakeDrafter(const EngineOptions& options, model::Model* model);

}  // namespace halfmoon::engine
