// SPDX-License-Identifier: Apache-2.0
// Unpacking and its inverse for each format. Callers outside this folder use unpack.h and quant.h.
#pragma once

#include <cstddef>

#include "quant/unpack.h"

namespace halfmoon::quant {

// Groups of 32 with their own d.
void UnpackQ4_0(const std::byte* block, UnpackedBlock* out);
void UnpackQ4_1(const std::byte* block, UnpackedBlock* out);
void UnpackQ5_0(const std::byte* block, UnpackedBlock* out);
void UnpackQ5_1(const std::byte* block, UnpackedBlock* out);
void UnpackQ8_0(const std::byte* block, UnpackedBlock* out);
void PackQ4_0(const UnpackedBlock& in, std::byte* block);
void PackQ4_1(const UnpackedBlock& in, std::byte* block);
void PackQ5_0(const UnpackedBlock& in, std::byte* block);
void PackQ5_1(const UnpackedBlock& in, std::byte* block);
void PackQ8_0(const UnpackedBlock& in, std::byte* block);

// Superblocks of 256.
void UnpackQ4_K(const std::byte* block, UnpackedBlock* out);
void UnpackQ5_K(const std::byte* block, UnpackedBlock* out);
void UnpackQ6_K(const std::byte* block, UnpackedBlock* out);
void PackQ4_K(const UnpackedBlock& in, std::byte* block);
void PackQ5_K(const UnpackedBlock& in, std::byte* block);
void PackQ6_K(const UnpackedBlock& in, std::byte* block);

// Formats that are read only.
void UnpackQ2_K(const std::byte* block, UnpackedBlock* out);
void UnpackQ3_K(const std::byte* block, UnpackedBlock* out);
void UnpackIQ4_NL(const std::byte* block, UnpackedBlock* out);
void UnpackIQ4_XS(const std::byte* block, UnpackedBlock* out);
void UnpackMXFP4(const std::byte* block, UnpackedBlock* out);
void UnpackTQ1_0(const std::byte* block, UnpackedBlock* out);
void UnpackTQ2_0(const std::byte* block, UnpackedBlock* out);

/// Inverse of UnpackBlock. Requires CanEncode(dtype) and q, sc, mn within the format's bits.
void PackBlock(tensor::DType dtype, const UnpackedBlock& in, std::byte* block);

}  // namespace halfmoon::quant
