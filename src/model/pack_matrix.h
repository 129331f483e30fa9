// SPDX-License-Identifier: Apache-2.0
// Stored matrices into kernel layout, without loss.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/packed_matrix.h"
#include "model/matrix_source.h"

namespace halfmoon::model {

/// Memory for a packed matrix of that many bytes, as kernels::PackedMatrix wants it. Empty: the
/// matrix has its own.
using PackMemory = std::function<Result<std::span<std::byte>>(size_t size_bytes)>;

/// That all scales beside the values are numbers, on `pool`. Errors: kCorrupt naming one.
Status CheckScales(const MatrixSource& source, ThreadPool* pool);

/// Packs the rows listed, in that order, on `pool`. Errors: kCorrupt naming a value or scale that
/// is not a number, and those of kernels::NewPacked and of `memory`.
Result<kernels::PackedMatrix> PackMatrix(const MatrixSource& source, std::vector<int64_t> order,
                                         ThreadPool* pool, const PackMemory& memory = {});

/// `from` [rows, cols] in float32 as a matrix of the smallest plain format that holds every value
/// exactly: BF16, F16 or F32. `name` is for messages.
Result<kernels::PackedMatrix> PackExact(std::span<const float> from, int64_t rows, int64_t cols,
                                        const std::string& name, ThreadPool* pool,
                                        const PackMemory& memory = {});

}  // namespace halfmoon::model
