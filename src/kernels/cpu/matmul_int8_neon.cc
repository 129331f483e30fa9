// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dot_neon.h"
#include "kernels/cpu/matmul_int8_impl.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/neon.h"

namespace halfmoon::kernels::neon {

constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return impl::MatMulInt8<Dot, F>; });

}  // namespace halfmoon::kernels::neon
