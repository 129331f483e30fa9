// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/matmul_f32_impl.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/neon.h"
#include "kernels/cpu/vec_neon.h"

namespace halfmoon::kernels::neon {

constinit const MatMulTable kMatMulF32 =
    MakeMatMulTable([]<WeightFormat F>() -> MatMulTilesFn { return impl::MatMulF32<Vec, F>; });

}  // namespace halfmoon::kernels::neon
