// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most with one instruction set: the limits that benchmarks and
// `halfmoon doctor` compare with.
#pragma once

#include <cstddef>

#include "kernels/stream.h"

namespace halfmoon::kernels {

struct MachineLimits {
  double read_bytes_per_s = 0;  ///< all threads reading memory, several streams each
  double int8_ops_per_s = 0;    ///< multiplies and adds of int8 products summed in int32
  double f32_flops_per_s = 0;   ///< multiplies and adds of fused multiply-add
  double bf16_flops_per_s = 0;  ///< the same of bfloat16 summed in float32; 0: the ISA has none
};

struct ProbeOptions {
  size_t memory_bytes = size_t{512} << 20;  ///< must exceed the caches
  int repeats = 5;                          ///< the best one counts: this is a limit
};

/// Measures on all threads of the stream's pool. Takes about half a second with the defaults.
MachineLimits MeasureLimits(const Stream& stream, const ProbeOptions& options);

}  // namespace halfmoon::kernels
