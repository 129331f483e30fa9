// SPDX-License-Identifier: Apache-2.0
// What attention knows of a query after some splits: the state rows that `attend` writes
// (registry.h), how those of two splits merge, and what they come to in the end. The arithmetic is
// in attention.h.
#pragma once

#include <cstdint>

namespace halfmoon::kernels {

/// to[i] = to[i] merged with the later split from[i], for `rows` state rows of value_dim values.
void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to);

/// out [value_dim] = o / l of one state row.
void StoreState(int64_t value_dim, const float* state, float* out);

}  // namespace halfmoon::kernels
