// SPDX-License-Identifier: Apache-2.0
// Attention weights from their published layouts.
#include <numeric>
#include <utility>

#include "model/weight_loader.h"

namespace halfmoon::model {
namespace {

/// Rows of `heads` runs of plain + rotary rows, the rotary ones from interleaved to half-split
/// order: the pair (2i, 2i + 1) becomes (i, i + rotary / 2). Queries and keys are turned alike, so
/// their products stay what they are.
std::vector<int64_t> HalfSplitOrder(int64_t heads, int64_t plain, int64_t rotary) {
  std::vector<int64_t> order(static_cast<size_t>(heads * (plain + rotary)));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t first = head * (plain + rotary) + plain;
    for (int64_t i = 0; i < rotary / 2; ++i) {
      order[static_cast<size_t>(first + i)] = first + 2 * i;
      order[static_cast<size_t>(first + rotary / 2 + i)] = first + 2 * i + 1;
    }
  }
  return order;
}

/// Ling's q, k and v, which are rows of one tensor.
Status LoadFusedQkv(WeightLoader* loader, const std::string& name, int64_t q_dim, int64_t kv_dim,
                    int64_t hidden_dim, bool has_bias, GroupedAttentionWeights* out) {
  const int64_t rows = q_dim + 2 * kv_dim;
  const std::string weight = name + ".weight";
  HM_ASSIGN(const MatrixSource source, loader->Source(weight, rows, hidden_dim));
  HM_ASSIGN(out->q.weight, loader->Pack(source, 0, q_dim));
  HM_ASSIGN(out->k.weight, loader->Pack(source, q_dim, kv_dim));
  HM_ASSIGN(out->v.weight, loader->Pack(source, q_dim + kv_dim, kv_dim));
  if (!has_bias) return {};
  HM_ASSIGN(const std::vector<float> bias, loader->Vector(name + ".bias", rows));
  out->q.bias.assign(bias.begin(), bias.begin() + q_dim);
  out->k.bias.assign(bias.begin() + q_dim, bias.begin() + q_dim + kv_dim);
  out->v.bias.assign(bias.begin() + q_dim + kv_dim, bias.end());
  return {};
}

bool Expands(const WeightLoader& loader) {
  return loader.options().mla_prefill == MlaPrefill::kExpanded;
}

/// kv_b_proj [N (dn + dv), c] cut into heads; the key half of each is transposed.
Status LoadFusedUp(WeightLoader* loader, const std::string& name,
                   const AttentionDescription& attention, LatentAttentionWeights* out) {
  const MlaDescription& mla = attention.mla;
  const int64_t c = mla.latent_dim;
  const int64_t dn = mla.nope_dim;
  const int64_t head_rows = dn + mla.value_dim;
  HM_ASSIGN(const MatrixSource source, loader->Source(name, attention.num_heads * head_rows, c));
  for (int64_t head = 0; head < attention.num_heads; ++head) {
    const int64_t first = head * head_rows;
    HM_ASSIGN(kernels::PackedMatrix key_up, loader->PackTransposed(source, first, dn));
    out->key_up.push_back(std::move(key_up));
    HM_ASSIGN(kernels::PackedMatrix value_up, loader->Pack(source, first + dn, mla.value_dim));
    out->value_up.push_back(std::move(value_up));
    if (!Expands(*loader)) continue;
    HM_ASSIGN(kernels::PackedMatrix key, loader->Pack(source, first, dn));
    out->key.push_back(std::move(key));
  }
  return {};
}

/// The two halves as tensors of their own: k_b [N c, dn], already transposed, and v_b [N dv, c].
Status LoadSplitUp(WeightLoader* loader, const std::string& k_b, const std::string& v_b,
                   const AttentionDescription& attention, LatentAttentionWeights* out) {
  const MlaDescription& mla = attention.mla;
  const int64_t heads = attention.num_heads;
  HM_ASSIGN(const MatrixSource keys, loader->Source(k_b, heads * mla.latent_dim, mla.nope_dim));
  HM_ASSIGN(const MatrixSource values, loader->Source(v_b, heads * mla.value_dim, mla.latent_dim));
  for (int64_t head = 0; head < heads; ++head) {
    HM_ASSIGN(kernels::PackedMatrix key_up,
              loader->Pack(keys, head * mla.latent_dim, mla.latent_dim));
    out->key_up.push_back(std::move(key_up));
    HM_ASSIGN(kernels::PackedMatrix value_up,
              loader->Pack(values, head * mla.value_dim, mla.value_dim));
    out->value_up.push_back(std::move(value_up));
    if (!Expands(*loader)) continue;
    HM_ASSIGN(kernels::PackedMatrix key,
              loader->PackTransposed(keys, head * mla.latent_dim, mla.latent_dim));
    out->key.push_back(std::move(key));
  }
  return {};
}

Result<IndexerWeights> LoadIndexer(WeightLoader* loader, const ModelDescription& model, int layer) {
  const TensorNames& names = model.names;
  const IndexerDescription& indexer = model.attention.indexer;
  const int64_t d = indexer.head_dim;
  IndexerWeights w;
  HM_ASSIGN(w.q_b, loader->LinearLayer(TensorName(names.indexer_q_b, layer), indexer.num_heads * d,
                                       model.attention.mla.q_rank, false));
  HM_ASSIGN(w.k,
            loader->LinearLayer(TensorName(names.indexer_k, layer), d, model.hidden_dim, false));
  const std::string norm = TensorName(names.indexer_k_norm, layer);
  HM_ASSIGN(w.k_norm, loader->Vector(norm + ".weight", d));
  HM_ASSIGN(w.k_norm_bias, loader->Vector(norm + ".bias", d));
  HM_ASSIGN(w.head_weights, loader->LinearLayer(TensorName(names.indexer_weights, layer),
                                                indexer.num_heads, model.hidden_dim, false));
  return w;
}

}  // namespace

Result<GroupedAttentionWeights> LoadGroupedAttention(WeightLoader* loader,
                                                     const ModelDescription& model, int layer) {
  const TensorNames& names = model.names;
  const AttentionDescription& attention = model.attention;
  const int64_t h = model.hidden_dim;
  const int64_t q_dim = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_dim = int64_t{attention.num_kv_heads} * attention.head_dim;
  const auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };
  GroupedAttentionWeights w;
  if (!names.qkv.empty()) {
    HM_TRY(LoadFusedQkv(loader, name(names.qkv), q_dim, kv_dim, h, attention.qkv_bias, &w));
  } else {
    HM_ASSIGN(w.q, loader->LinearLayer(name(names.q), q_dim, h, attention.qkv_bias));
    HM_ASSIGN(w.k, loader->LinearLayer(name(names.k), kv_dim, h, attention.qkv_bias));
    HM_ASSIGN(w.v, loader->LinearLayer(name(names.v), kv_dim, h, attention.qkv_bias));
  }
  if (attention.qk_norm == QkNorm::kNone) return w;
  const bool whole = attention.qk_norm == QkNorm::kWhole;
  HM_ASSIGN(w.q_norm, loader->Vector(name(names.q_norm) + ".weight",
                                     whole ? q_dim : int64_t{attention.head_dim}));
  HM_ASSIGN(w.k_norm, loader->Vector(name(names.k_norm) + ".weight",
                                     whole ? kv_dim : int64_t{attention.head_dim}));
  return w;
}

Result<LatentAttentionWeights> LoadLatentAttention(WeightLoader* loader,
                                                   const ModelDescription& model, int layer) {
  const TensorNames& names = model.names;
  const AttentionDescription& attention = model.attention;
  const MlaDescription& mla = attention.mla;
  const int64_t h = model.hidden_dim;
  const auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };
  const std::vector<int64_t> q_order =
      HalfSplitOrder(attention.num_heads, mla.nope_dim, mla.rope_dim);
  LatentAttentionWeights w;
  if (mla.q_rank > 0) {
    HM_ASSIGN(w.q_a, loader->LinearLayer(name(names.q_a), mla.q_rank, h, attention.qkv_bias));
    HM_ASSIGN(w.q_a_norm, loader->Vector(name(names.q_a_norm) + ".weight", mla.q_rank));
    HM_ASSIGN(w.q_b, loader->ReorderedLinear(name(names.q_b), mla.q_rank, false, q_order));
  } else {
    HM_ASSIGN(w.q_b, loader->ReorderedLinear(name(names.q), h, false, q_order));
  }
  HM_ASSIGN(w.kv_a, loader->ReorderedLinear(name(names.kv_a), h, attention.qkv_bias,
                                            HalfSplitOrder(1, mla.latent_dim, mla.rope_dim)));
  HM_ASSIGN(w.kv_a_norm, loader->Vector(name(names.kv_a_norm) + ".weight", mla.latent_dim));
  const std::string k_b = name(names.k_b) + ".weight";
  if (loader->Has(k_b)) {
    HM_TRY(LoadSplitUp(loader, k_b, name(names.v_b) + ".weight", attention, &w));
  } else {
    HM_TRY(LoadFusedUp(loader, name(names.kv_b) + ".weight", attention, &w));
  }
  if (attention.indexer.num_heads > 0) {
    HM_ASSIGN(w.indexer, LoadIndexer(loader, model, layer));
  }
  return w;
}

}  // namespace halfmoon::model
