// SPDX-License-Identifier: Apache-2.0
#include "kernels/registry.h"

#include "base/check.h"
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/generic.h"

namespace halfmoon::kernels {
namespace {

// Columns as in WeightFormat: kF32, kF16, kBF16, kF8, kU4D, kU4DM, kU8D, kU8DM, kU4K, kU8K, kU8S,
// kU4B, kU8B, kU8T, kU4H.
constexpr KernelTable kGenericTable = {
    .matmul_f32 = {generic::MatMulF32<WeightFormat::kF32>, generic::MatMulF32<WeightFormat::kF16>,
                   generic::MatMulF32<WeightFormat::kBF16>, generic::MatMulF32<WeightFormat::kF8>,
                   generic::MatMulF32<WeightFormat::kU4D>, generic::MatMulF32<WeightFormat::kU4DM>,
                   generic::MatMulF32<WeightFormat::kU8D>, generic::MatMulF32<WeightFormat::kU8DM>,
                   generic::MatMulF32<WeightFormat::kU4K>, generic::MatMulF32<WeightFormat::kU8K>,
                   generic::MatMulF32<WeightFormat::kU8S>, generic::MatMulF32<WeightFormat::kU4B>,
                   generic::MatMulF32<WeightFormat::kU8B>, generic::MatMulF32<WeightFormat::kU8T>,
                   generic::MatMulF32<WeightFormat::kU4H>},
    .matmul_int8 =
        {nullptr, nullptr, nullptr, nullptr, generic::MatMulInt8<WeightFormat::kU4D>,
         generic::MatMulInt8<WeightFormat::kU4DM>, generic::MatMulInt8<WeightFormat::kU8D>,
         generic::MatMulInt8<WeightFormat::kU8DM>, generic::MatMulInt8<WeightFormat::kU4K>,
         generic::MatMulInt8<WeightFormat::kU8K>, generic::MatMulInt8<WeightFormat::kU8S>,
         generic::MatMulInt8<WeightFormat::kU4B>, generic::MatMulInt8<WeightFormat::kU8B>,
         generic::MatMulInt8<WeightFormat::kU8T>, generic::MatMulInt8<WeightFormat::kU4H>},
    .quantize_row = generic::QuantizeRow,
    .rms_norm = generic::RmsNorm,
    .add = generic::Add,
    .silu_mul = generic::SiluMul,
    .rope_half = generic::RopeHalf,
    .softmax = generic::Softmax,
    .sigmoid = generic::Sigmoid,
    .scaled_add = generic::ScaledAdd,
    .attend = generic::Attend,
    .merge_states = generic::MergeStates,
    .store_state = generic::StoreState,
    .store_kv = generic::StoreKv,
    .store_latent = generic::StoreLatent,
    .stage_heads = generic::StageHeads,
    .stage_latent = generic::StageLatent,
    .index_scores = generic::IndexScores,
    .probe_int8 = generic::ProbeInt8,
    .probe_f32 = generic::ProbeF32,
    .probe_read = generic::ProbeRead,
};

#ifdef HALFMOON_X86
constexpr KernelTable kAvx2Table = {
    .matmul_f32 = {avx2::MatMulF32<WeightFormat::kF32>, avx2::MatMulF32<WeightFormat::kF16>,
                   avx2::MatMulF32<WeightFormat::kBF16>, avx2::MatMulF32<WeightFormat::kF8>,
                   avx2::MatMulF32<WeightFormat::kU4D>, avx2::MatMulF32<WeightFormat::kU4DM>,
                   avx2::MatMulF32<WeightFormat::kU8D>, avx2::MatMulF32<WeightFormat::kU8DM>,
                   avx2::MatMulF32<WeightFormat::kU4K>, avx2::MatMulF32<WeightFormat::kU8K>,
                   avx2::MatMulF32<WeightFormat::kU8S>, avx2::MatMulF32<WeightFormat::kU4B>,
                   avx2::MatMulF32<WeightFormat::kU8B>, avx2::MatMulF32<WeightFormat::kU8T>,
                   avx2::MatMulF32<WeightFormat::kU4H>},
    .matmul_int8 = {nullptr, nullptr, nullptr, nullptr, avx2::MatMulInt8<WeightFormat::kU4D>,
                    avx2::MatMulInt8<WeightFormat::kU4DM>, avx2::MatMulInt8<WeightFormat::kU8D>,
                    avx2::MatMulInt8<WeightFormat::kU8DM>, avx2::MatMulInt8<WeightFormat::kU4K>,
                    avx2::MatMulInt8<WeightFormat::kU8K>, avx2::MatMulInt8<WeightFormat::kU8S>,
                    avx2::MatMulInt8<WeightFormat::kU4B>, avx2::MatMulInt8<WeightFormat::kU8B>,
                    avx2::MatMulInt8<WeightFormat::kU8T>, avx2::MatMulInt8<WeightFormat::kU4H>},
    .quantize_row = avx2::QuantizeRow,
    .rms_norm = avx2::RmsNorm,
    .add = avx2::Add,
    .silu_mul = avx2::SiluMul,
    .rope_half = avx2::RopeHalf,
    .softmax = avx2::Softmax,
    .sigmoid = avx2::Sigmoid,
    .scaled_add = avx2::ScaledAdd,
    .attend = avx2::Attend,
    .merge_states = avx2::MergeStates,
    .store_state = avx2::StoreState,
    .store_kv = avx2::StoreKv,
    .store_latent = avx2::StoreLatent,
    .stage_heads = avx2::StageHeads,
    .stage_latent = avx2::StageLatent,
    .index_scores = avx2::IndexScores,
    .probe_int8 = avx2::ProbeInt8,
    .probe_f32 = avx2::ProbeF32,
    .probe_read = avx2::ProbeRead,
};

constexpr KernelTable kAvx512Table = {
    .matmul_f32 = {avx512::MatMulF32<WeightFormat::kF32>, avx512::MatMulF32<WeightFormat::kF16>,
                   avx512::MatMulF32<WeightFormat::kBF16>, avx512::MatMulF32<WeightFormat::kF8>,
                   avx512::MatMulF32<WeightFormat::kU4D>, avx512::MatMulF32<WeightFormat::kU4DM>,
                   avx512::MatMulF32<WeightFormat::kU8D>, avx512::MatMulF32<WeightFormat::kU8DM>,
                   avx512::MatMulF32<WeightFormat::kU4K>, avx512::MatMulF32<WeightFormat::kU8K>,
                   avx512::MatMulF32<WeightFormat::kU8S>, avx512::MatMulF32<WeightFormat::kU4B>,
                   avx512::MatMulF32<WeightFormat::kU8B>, avx512::MatMulF32<WeightFormat::kU8T>,
                   avx512::MatMulF32<WeightFormat::kU4H>},
    .matmul_int8 = {nullptr, nullptr, nullptr, nullptr, avx512::MatMulInt8<WeightFormat::kU4D>,
                    avx512::MatMulInt8<WeightFormat::kU4DM>, avx512::MatMulInt8<WeightFormat::kU8D>,
                    avx512::MatMulInt8<WeightFormat::kU8DM>, avx512::MatMulInt8<WeightFormat::kU4K>,
                    avx512::MatMulInt8<WeightFormat::kU8K>, avx512::MatMulInt8<WeightFormat::kU8S>,
                    avx512::MatMulInt8<WeightFormat::kU4B>, avx512::MatMulInt8<WeightFormat::kU8B>,
                    avx512::MatMulInt8<WeightFormat::kU8T>, avx512::MatMulInt8<WeightFormat::kU4H>},
    .quantize_row = avx512::QuantizeRow,
    .rms_norm = avx512::RmsNorm,
    .add = avx512::Add,
    .silu_mul = avx512::SiluMul,
    .rope_half = avx512::RopeHalf,
    .softmax = avx512::Softmax,
    .sigmoid = avx512::Sigmoid,
    .scaled_add = avx512::ScaledAdd,
    .attend = avx512::Attend,
    .merge_states = avx512::MergeStates,
    .store_state = avx512::StoreState,
    .store_kv = avx512::StoreKv,
    .store_latent = avx512::StoreLatent,
    .stage_heads = avx512::StageHeads,
    .stage_latent = avx512::StageLatent,
    .index_scores = avx512::IndexScores,
    .probe_int8 = avx512::ProbeInt8,
    .probe_f32 = avx512::ProbeF32,
    .probe_read = avx512::ProbeRead,
};
#endif

}  // namespace

const KernelTable& KernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return kGenericTable;
#ifdef HALFMOON_X86
    case Isa::kAvx2:
      return kAvx2Table;
    case Isa::kAvx512:
      return kAvx512Table;
#else
    case Isa::kAvx2:
    case Isa::kAvx512:
      break;
#endif
  }
  HM_CHECK(false, "no kernels for " + std::string(IsaName(isa)));
  return kGenericTable;
}

}  // namespace halfmoon::kernels
