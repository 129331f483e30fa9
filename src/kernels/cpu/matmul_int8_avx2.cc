// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/dot_avx2.h"
#include "kernels/cpu/matmul_int8_impl.h"
#include "kernels/cpu/matmul_table.h"

namespace halfmoon::kernels::avx2 {

constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return impl::MatMulInt8<Dot, F>; });

}  // namespace halfmoon::kernels::avx2
