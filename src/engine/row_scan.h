// SPDX-License-Identifier: Apache-2.0
// Single passes over a row of logits.
#pragma once

#include <cstdint>
#include <span>

#include "engine/engine.h"

namespace halfmoon::engine {

struct RowMax {
  float value = 0;
  int32_t index = 0;          ///< the lowest of equals
  int32_t not_a_number = -1;  ///< the lowest index of a NaN, which leaves the rest without meaning
};

/// Requires at least one value.
RowMax FindMax(std::span<const float> row);

/// What TokenEvent reports of `id`: its log-softmax over `logits` and the `num_top` best, best
/// first, the lowest id of equals first. Computed in double. Requires `id` in range.
TokenEvent DescribeToken(std::span<const float> logits, int32_t id, int32_t num_top);

}  // namespace halfmoon::engine
