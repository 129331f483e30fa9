// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dot_dotprod.h"
#include "kernels/cpu/dotprod.h"
#include "kernels/cpu/matmul_int8_impl.h"
#include "kernels/cpu/matmul_table.h"

namespace halfmoon::kernels::dotprod {

constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return impl::MatMulInt8<Dot, F>; });

}  // namespace halfmoon::kernels::dotprod
