// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/matmul_f32_impl.h"
#include "kernels/cpu/vec_avx2.h"

namespace halfmoon::kernels::avx2 {

template <WeightFormat F>
void MatMulF32(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  impl::MatMulF32<Vec, F>(args, tile_begin, tile_end);
}

template void MatMulF32<WeightFormat::kF32>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kF16>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kBF16>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kF8>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU4D>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU4DM>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8D>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8DM>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU4K>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8K>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8S>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU4B>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8B>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU8T>(const MatMulArgs&, int64_t, int64_t);
template void MatMulF32<WeightFormat::kU4H>(const MatMulArgs&, int64_t, int64_t);

}  // namespace halfmoon::kernels::avx2
