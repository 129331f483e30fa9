// SPDX-License-Identifier: Apache-2.0
#include "kernels/registry.h"

#include "base/check.h"
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/dotprod.h"
#include "kernels/cpu/generic.h"
#include "kernels/cpu/neon.h"

namespace halfmoon::kernels {
namespace {

constexpr KernelTable kGenericTable = {
    .matmul_f32 = &generic::kMatMulF32,
    .matmul_int8 = &generic::kMatMulInt8,
    .matmul_bf16 = nullptr,
    .quantize_row = generic::QuantizeRow,
    .round_row = nullptr,
    .rms_norm = generic::RmsNorm,
    .add = generic::Add,
    .silu_mul = generic::SiluMul,
    .rope_half = generic::RopeHalf,
    .softmax = generic::Softmax,
    .sigmoid = generic::Sigmoid,
    .scaled_add = generic::ScaledAdd,
    .attend = generic::Attend,
    .attend_bf16 = false,
    .merge_states = generic::MergeStates,
    .store_state = generic::StoreState,
    .store_kv = generic::StoreKv,
    .store_latent = generic::StoreLatent,
    .stage_heads = generic::StageHeads,
    .stage_latent = generic::StageLatent,
    .index_scores = generic::IndexScores,
    .probe_int8 = generic::ProbeInt8,
    .probe_f32 = generic::ProbeF32,
    .probe_bf16 = nullptr,
    .probe_read = generic::ProbeRead,
};

#ifdef HALFMOON_X86
constexpr KernelTable kAvx2Table = {
    .matmul_f32 = &avx2::kMatMulF32,
    .matmul_int8 = &avx2::kMatMulInt8,
    .matmul_bf16 = nullptr,
    .quantize_row = avx2::QuantizeRow,
    .round_row = nullptr,
    .rms_norm = avx2::RmsNorm,
    .add = avx2::Add,
    .silu_mul = avx2::SiluMul,
    .rope_half = avx2::RopeHalf,
    .softmax = avx2::Softmax,
    .sigmoid = avx2::Sigmoid,
    .scaled_add = avx2::ScaledAdd,
    .attend = avx2::Attend,
    .attend_bf16 = false,
    .merge_states = avx2::MergeStates,
    .store_state = avx2::StoreState,
    .store_kv = avx2::StoreKv,
    .store_latent = avx2::StoreLatent,
    .stage_heads = avx2::StageHeads,
    .stage_latent = avx2::StageLatent,
    .index_scores = avx2::IndexScores,
    .probe_int8 = avx2::ProbeInt8,
    .probe_f32 = avx2::ProbeF32,
    .probe_bf16 = nullptr,
    .probe_read = avx2::ProbeRead,
};

constexpr KernelTable kAvx512Table = {
    .matmul_f32 = &avx512::kMatMulF32,
    .matmul_int8 = &avx512::kMatMulInt8,
    .matmul_bf16 = nullptr,
    .quantize_row = avx512::QuantizeRow,
    .round_row = nullptr,
    .rms_norm = avx512::RmsNorm,
    .add = avx512::Add,
    .silu_mul = avx512::SiluMul,
    .rope_half = avx512::RopeHalf,
    .softmax = avx512::Softmax,
    .sigmoid = avx512::Sigmoid,
    .scaled_add = avx512::ScaledAdd,
    .attend = avx512::Attend,
    .attend_bf16 = false,
    .merge_states = avx512::MergeStates,
    .store_state = avx512::StoreState,
    .store_kv = avx512::StoreKv,
    .store_latent = avx512::StoreLatent,
    .stage_heads = avx512::StageHeads,
    .stage_latent = avx512::StageLatent,
    .index_scores = avx512::IndexScores,
    .probe_int8 = avx512::ProbeInt8,
    .probe_f32 = avx512::ProbeF32,
    .probe_bf16 = nullptr,
    .probe_read = avx512::ProbeRead,
};

constexpr MatMulTable kAvx512Bf16MatMul = [] {
  MatMulTable table{};
  table.of[static_cast<size_t>(WeightFormat::kBF16)] = avx512bf16::MatMulBf16;
  table.of[static_cast<size_t>(WeightFormat::kF8)] = avx512bf16::MatMulF8;
  return table;
}();

constexpr KernelTable kAvx512Bf16Table = [] {
  KernelTable table = kAvx512Table;
  table.matmul_bf16 = &kAvx512Bf16MatMul;
  table.round_row = avx512bf16::RoundRow;
  table.attend = avx512bf16::Attend;
  table.attend_bf16 = true;
  table.stage_latent = avx512bf16::StageLatent;
  table.probe_bf16 = avx512bf16::ProbeBf16;
  return table;
}();
#endif

#ifdef HALFMOON_ARM
constexpr KernelTable kNeonTable = {
    .matmul_f32 = &neon::kMatMulF32,
    .matmul_int8 = &neon::kMatMulInt8,
    .matmul_bf16 = nullptr,
    .quantize_row = neon::QuantizeRow,
    .round_row = nullptr,
    .rms_norm = neon::RmsNorm,
    .add = neon::Add,
    .silu_mul = neon::SiluMul,
    .rope_half = neon::RopeHalf,
    .softmax = neon::Softmax,
    .sigmoid = neon::Sigmoid,
    .scaled_add = neon::ScaledAdd,
    .attend = neon::Attend,
    .attend_bf16 = false,
    .merge_states = neon::MergeStates,
    .store_state = neon::StoreState,
    .store_kv = neon::StoreKv,
    .store_latent = neon::StoreLatent,
    .stage_heads = neon::StageHeads,
    .stage_latent = neon::StageLatent,
    .index_scores = neon::IndexScores,
    .probe_int8 = neon::ProbeInt8,
    .probe_f32 = neon::ProbeF32,
    .probe_bf16 = nullptr,
    .probe_read = neon::ProbeRead,
};

constexpr KernelTable kDotprodTable = [] {
  KernelTable table = kNeonTable;
  table.matmul_int8 = &dotprod::kMatMulInt8;
  table.probe_int8 = dotprod::ProbeInt8;
  return table;
}();
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
    case Isa::kAvx512Bf16:
      return kAvx512Bf16Table;
#endif
#ifdef HALFMOON_ARM
    case Isa::kNeon:
      return kNeonTable;
    case Isa::kDotprod:
      return kDotprodTable;
#endif
    default:
      break;
  }
  HM_CHECK(false, "no kernels for " + std::string(IsaName(isa)));
  return kGenericTable;
}

}  // namespace halfmoon::kernels
