// SPDX-License-Identifier: Apache-2.0
// How attention sees KV memory: pages of block_size token slots, each with what attention caches
// of all layers. docs/formats/kv_page.md describes the bytes; kKvFormatVersion goes into block
// keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace halfmoon::kernels {

enum class KvType : uint8_t {
  kF32,
  kF16,
  kQ8_0,  ///< int8 under a float16 scale for each kKvGroup values
  kBF16,
};

/// As llama.cpp spells it: "f32", "f16", "q8_0", "bf16".
constexpr std::string_view KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kF16:
      return "f16";
    case KvType::kQ8_0:
      return "q8_0";
    case KvType::kBF16:
      return "bf16";
  }
  return "";
}

enum class KvKind : uint8_t {
  kHeads,   ///< K and V of each KV head (grouped-query attention)
  kLatent,  ///< one latent vector for all heads (MLA), and an index key where attention is sparse
};

inline constexpr uint32_t kKvFormatVersion = 2;
/// Positions are processed 16 at a time, so a page holds a multiple of 16 slots.
inline constexpr int kKvLane = 16;
/// Values that share a scale in kQ8_0.
inline constexpr int kKvGroup = 32;

/// Bytes of `dim` values of one position: plain, or int8 and then the scales of their groups; kBF16
/// in whole pairs.
constexpr size_t KvRowBytes(KvType type, int dim) {
  const auto values = static_cast<size_t>(dim);
  switch (type) {
    case KvType::kF32:
      return 4 * values;
    case KvType::kF16:
      return 2 * values;
    case KvType::kQ8_0:
      return values + 2 * ((values + kKvGroup - 1) / kKvGroup);
    case KvType::kBF16:
      return 2 * (values + values % 2);
  }
  return 0;
}

/// Page layout. A page is layers side by side. A row is the values of one position, in kQ8_0 its
/// scales behind them. A run is 16 positions side by side, so that a score needs no horizontal sum:
/// [dim][16], in kQ8_0 scales [ceil(dim / kKvGroup)][16] and then values [dim][16], in kBF16 pairs
/// of values [ceil(dim / 2)][16][2]; it takes as many bytes as 16 rows.
///
/// kHeads: a layer is K of every KV head, then V of every KV head. K of a head is runs; V of a head
/// is rows, in kBF16 rows of two positions, value by value: [block_size / 2][dim][2]. So both are
/// what an instruction takes that multiplies pairs and adds them.
///
/// kLatent: num_kv_heads is 1 and k_type is v_type; a layer is rows of head_dim values, c latent
/// values and then dr rotated key values, then index keys in runs of index_dim. Rows are whole so
/// that sparse attention reads a chosen position as one run of bytes.
struct KvLayout {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_size = 0;  ///< slots of a page, multiple of 16
  KvType k_type = KvType::kF16;
  KvType v_type = KvType::kF16;
  KvKind kind = KvKind::kHeads;
  int value_dim = 0;  ///< kLatent: leading values of a row that are also the attended value, c
  int index_dim = 0;  ///< kLatent: of an index key; 0: none

  size_t k_row_bytes() const { return KvRowBytes(k_type, head_dim); }
  size_t v_row_bytes() const { return KvRowBytes(v_type, head_dim); }
  /// kLatent: of an index key.
  size_t index_row_bytes() const { return KvRowBytes(k_type, index_dim); }
  size_t layer_bytes() const { return slots() * layer_row_bytes(); }
  /// Rounded up to 64 so that every page starts aligned.
  size_t page_bytes() const {
    return (static_cast<size_t>(num_layers) * layer_bytes() + 63) / 64 * 64;
  }
  size_t bytes_per_token() const { return static_cast<size_t>(num_layers) * layer_row_bytes(); }
  size_t k_offset(int layer, int kv_head) const {
    return static_cast<size_t>(layer) * layer_bytes() +
           static_cast<size_t>(kv_head) * slots() * k_row_bytes();
  }
  size_t v_offset(int layer, int kv_head) const {
    return k_offset(layer, num_kv_heads) + static_cast<size_t>(kv_head) * slots() * v_row_bytes();
  }
  /// kLatent: index keys of a layer.
  size_t index_offset(int layer) const { return k_offset(layer, 1); }

 private:
  size_t slots() const { return static_cast<size_t>(block_size); }
  /// Of one position in one layer.
  size_t layer_row_bytes() const {
    if (kind == KvKind::kLatent) return k_row_bytes() + index_row_bytes();
    return static_cast<size_t>(num_kv_heads) * (k_row_bytes() + v_row_bytes());
  }
};

/// One sequence's KV: page `page_table[p / block_size]` holds position p. Borrowed from the store
/// for one step.
struct PagedKv {
  std::byte* base = nullptr;  ///< page id i starts at base + i * page_bytes
  std::span<const int32_t> page_table;
};

}  // namespace halfmoon::kernels
