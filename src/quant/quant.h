// SPDX-License-Identifier: Apache-2.0
// quant: quantised block formats: their layout, plain decoding and encoding. Fast arithmetic on
// them belongs to kernels. Pure functions, no threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::quant {

/// True for the block formats of GGUF (those that TraitsOf of unpack.h knows).
bool IsQuantized(tensor::DType dtype);

/// True for the types that EncodeRow writes; the other block formats are read only.
bool CanEncode(tensor::DType dtype);

/// Decodes `n` consecutive elements at `src` to float32, with the operations of the format's
/// definition in its order, each rounded to float32. Types: F32, F16, BF16 and the block formats.
/// `src` needs no alignment. Errors: kUnsupported for another type, kInvalidArgument where n is
/// negative or not whole blocks. Requires SizeBytes(dtype, {n}) readable bytes at src and n floats
/// at dst.
Status DecodeRow(tensor::DType dtype, const std::byte* src, int64_t n, float* dst);

/// The first of the blocks of `n` elements at `src` whose scale or minimum is not a finite number;
/// nullopt where there is none, and for types without blocks. Cost: two bytes of each block.
std::optional<int64_t> FindBadScale(tensor::DType dtype, const std::byte* src, int64_t n);

/// Encodes `n` floats at `src` into `dst`, choosing scales per block. Not finite values give blocks
/// without meaning, but stay within bounds. Types: those of CanEncode. Errors and sizes as
/// DecodeRow.
Status EncodeRow(tensor::DType dtype, const float* src, int64_t n, std::byte* dst);

}  // namespace halfmoon::quant
