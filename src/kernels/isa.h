// SPDX-License-Identifier: Apache-2.0
// kernels: arithmetic on rows, packed weights and KV pages, once per instruction set. It knows
// shapes, never model families; each op's contract is in its header, `<op>_generic.cc` is the
// reference, and registry.cc is the one table of who does what. Threads: only those of the Stream's
// pool.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::kernels {

/// Instruction sets with kernels of their own, weakest first.
enum class Isa {
  kGeneric,     ///< plain loops, the reference; any CPU
  kAvx2,        ///< AVX2, FMA, F16C
  kAvx512,      ///< AVX-512 F, BW, DQ, VL and VNNI
  kAvx512Bf16,  ///< the same with products of bfloat16 pairs (AVX512_BF16, VBMI), in their own sums
  kNeon,        ///< AArch64 as such: Advanced SIMD of ARMv8.0
  kDotprod,     ///< the same with the dot products of bytes of ARMv8.2 (FEAT_DotProd)
};

/// "generic", "avx2", "avx512", "avx512bf16", "neon", "dotprod"
std::string_view IsaName(Isa isa);

/// Instruction sets that this CPU and this build can run, weakest first; never empty.
std::vector<Isa> AvailableIsas();

/// The strongest of AvailableIsas().
Isa BestIsa();

/// "auto" or a name of IsaName. Errors: kInvalidArgument for another name, kUnsupported where this
/// CPU or build lacks it; both list what is there.
Result<Isa> ParseIsa(std::string_view name);

}  // namespace halfmoon::kernels
