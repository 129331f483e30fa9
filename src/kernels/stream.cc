// SPDX-License-Identifier: Apache-2.0
#include "kernels/stream.h"

#include "kernels/registry.h"

namespace halfmoon::kernels {

Stream::Stream(ThreadPool& pool, Isa isa) : pool_(pool), isa_(isa), table_(KernelsFor(isa)) {}

}  // namespace halfmoon::kernels
