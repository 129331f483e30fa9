// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/matmul_f32_impl.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/vec_avx2.h"

namespace halfmoon::kernels::avx2 {

constinit const MatMulTable kMatMulF32 =
    MakeMatMulTable([]<WeightFormat F>() -> MatMulTilesFn { return impl::MatMulF32<Vec, F>; });

}  // namespace halfmoon::kernels::avx2
