// SPDX-License-Identifier: Apache-2.0
#include "model/cost.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/matmul.h"

namespace halfmoon::model {
namespace {

// By summing token by token what attention.h and indexer.h say that each computes and reads.
AttentionCost OneByOne(const ModelDescription& model, const kernels::KvLayout& layout,
                       int64_t depth, int64_t tokens) {
  const AttentionDescription& attention = model.attention;
  AttentionCost sum;
  for (const LayerDescription& layer : model.layers) {
    for (int64_t seen = depth + 1; seen <= depth + tokens; ++seen) {
      const auto all = static_cast<double>(seen);
      if (attention.kind == AttentionKind::kGqa) {
        const double keys =
            layer.sliding_window > 0 ? std::min<double>(all, layer.sliding_window) : all;
        sum.f32_flops += 4.0 * attention.num_heads * attention.head_dim * keys;
        sum.kv_bytes += keys * layout.num_kv_heads *
                        static_cast<double>(layout.k_row_bytes() + layout.v_row_bytes());
        continue;
      }
      const int top_k = attention.indexer.top_k;
      const bool chooses = attention.indexer.num_heads > 0 && seen > top_k;
      const double keys = chooses ? top_k : all;
      sum.f32_flops += 2.0 * attention.num_heads * keys *
                       (2.0 * attention.mla.latent_dim + attention.mla.rope_dim);
      sum.kv_bytes += keys * static_cast<double>(layout.k_row_bytes());
      if (!chooses) continue;
      sum.f32_flops += 2.0 * attention.indexer.num_heads * attention.indexer.head_dim * all;
      sum.kv_bytes += all * static_cast<double>(layout.index_row_bytes());
    }
  }
  return sum;
}

void ExpectSums(const ModelDescription& model, const kernels::KvLayout& layout) {
  for (const int64_t depth : {0, 5, 7, 8, 9, 100}) {
    for (const int64_t tokens : {1, 2, 3, 40}) {
      const AttentionCost want = OneByOne(model, layout, depth, tokens);
      const AttentionCost got =
          AttentionCostOf(model, layout, kernels::Isa::kGeneric, depth, tokens);
      EXPECT_DOUBLE_EQ(got.f32_flops, want.f32_flops) << depth << " " << tokens;
      EXPECT_DOUBLE_EQ(got.kv_bytes, want.kv_bytes) << depth << " " << tokens;
    }
  }
}

TEST(AttentionCost, Heads_WindowsLimitWhatIsSeen) {
  ModelDescription model;
  model.attention.kind = AttentionKind::kGqa;
  model.attention.num_heads = 6;
  model.attention.num_kv_heads = 2;
  model.attention.head_dim = 32;
  model.layers = {{}, {.sliding_window = 8}};
  const kernels::KvLayout layout{.num_layers = 2,
                                 .num_kv_heads = 2,
                                 .head_dim = 32,
                                 .block_size = 16,
                                 .k_type = kernels::KvType::kQ8_0,
                                 .v_type = kernels::KvType::kF16};
  ExpectSums(model, layout);
  // By hand: two layers, 6 heads of 32, 101 and 8 keys; 34 + 64 bytes a key and KV head.
  const AttentionCost one = AttentionCostOf(model, layout, kernels::Isa::kGeneric, 100, 1);
  EXPECT_DOUBLE_EQ(one.f32_flops, 4.0 * 6 * 32 * (101 + 8));
  EXPECT_DOUBLE_EQ(one.kv_bytes, 2.0 * (34 + 64) * (101 + 8));
}

TEST(AttentionCost, Latents_DenseAndSparse) {
  ModelDescription model;
  model.attention.kind = AttentionKind::kMla;
  model.attention.num_heads = 3;
  model.attention.mla.latent_dim = 48;
  model.attention.mla.rope_dim = 16;
  model.layers = {{}, {}};
  kernels::KvLayout layout{.num_layers = 2,
                           .num_kv_heads = 1,
                           .head_dim = 64,
                           .block_size = 16,
                           .kind = kernels::KvKind::kLatent,
                           .value_dim = 48};
  ExpectSums(model, layout);
  model.attention.indexer = {.num_heads = 4, .head_dim = 32, .top_k = 8};
  layout.index_dim = 32;
  ExpectSums(model, layout);
}

TEST(AttentionCost, Bf16_CountsWhereTheKernelMultipliesIt) {
  ModelDescription model;
  model.attention.kind = AttentionKind::kGqa;
  model.attention.num_heads = 6;
  model.attention.num_kv_heads = 2;
  model.attention.head_dim = 32;
  model.layers = {{}};
  kernels::KvLayout layout{.num_layers = 1,
                           .num_kv_heads = 2,
                           .head_dim = 32,
                           .block_size = 16,
                           .k_type = kernels::KvType::kBF16,
                           .v_type = kernels::KvType::kBF16};
  for (const kernels::Isa isa : kernels::AvailableIsas()) {
    const bool bf16 = kernels::MultipliesBf16(isa);
    const AttentionCost both = AttentionCostOf(model, layout, isa, 9, 1);
    EXPECT_DOUBLE_EQ(both.bf16_flops, bf16 ? 4.0 * 6 * 32 * 10 : 0.0) << kernels::IsaName(isa);
    EXPECT_DOUBLE_EQ(both.f32_flops, bf16 ? 0.0 : 4.0 * 6 * 32 * 10) << kernels::IsaName(isa);
  }
  layout.v_type = kernels::KvType::kF16;
  EXPECT_DOUBLE_EQ(AttentionCostOf(model, layout, kernels::BestIsa(), 9, 1).bf16_flops, 0.0);
}

}  // namespace
}  // namespace halfmoon::model
