// SPDX-License-Identifier: Apache-2.0
// Spreads independent rows over the pool of a stream.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/stream.h"

namespace halfmoon::kernels {

/// Calls task(row) for each row in [0, count); about `row_work` element operations a row decide
/// how many rows are handed out together, and whether threads are woken at all.
template <typename Task>
void ForRows(const Stream& stream, int64_t count, int64_t row_work, const Task& task) {
  // About 4 us of work: several times what handing out a piece to another core costs.
  constexpr int64_t kMinPieceWork = 16 * 1024;
  const int64_t wanted = (count + stream.pool().num_threads() * 4 - 1) /
                         (static_cast<int64_t>(stream.pool().num_threads()) * 4);
  const int64_t rows =
      std::max({int64_t{1}, wanted, kMinPieceWork / std::max<int64_t>(1, row_work)});
  const int64_t pieces = (count + rows - 1) / rows;
  stream.pool().ParallelFor(static_cast<size_t>(std::max<int64_t>(0, pieces)),
                            [&](size_t piece, int) {
                              const int64_t begin = static_cast<int64_t>(piece) * rows;
                              const int64_t end = std::min(count, begin + rows);
                              for (int64_t row = begin; row < end; ++row) task(row);
                            });
}

}  // namespace halfmoon::kernels
