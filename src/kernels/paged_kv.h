// SPDX-License-Identifier: Apache-2.0
// How attention sees KV memory: pages of block_size token slots, each with what attention caches
// of all layers. docs/formats/kv_page.md describes the bytes; kKvFormatVersion goes into block
// keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace halfmoon::kernels {

enum class KvType : uint8_t { kF32, kF16 };

enum class KvKind : uint8_t {
  kHeads,   ///< K and V of each KV head (grouped-query attention)
  kLatent,  ///< one latent vector for all heads (MLA), and an index key where attention is sparse
};

inline constexpr uint32_t kKvFormatVersion = 1;
/// Positions are processed 16 at a time, so a page holds a multiple of 16 slots.
inline constexpr int kKvLane = 16;

/// Page layout. A page is layers side by side.
///
/// kHeads: a layer is K of every KV head, then V of every KV head. K of a head: [block_size /
/// 16][head_dim][16] (16 positions side by side, so a score needs no horizontal sum); V of a head:
/// [block_size][head_dim].
///
/// kLatent: num_kv_heads is 1; a layer is [block_size][head_dim] rows, c latent values and then dr
/// rotated key values, then index keys [block_size / 16][index_dim][16]. Rows are whole so that
/// sparse attention reads a chosen position as one run of bytes.
struct KvLayout {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_size = 0;  ///< slots of a page, multiple of 16
  KvType type = KvType::kF16;
  KvKind kind = KvKind::kHeads;
  int value_dim = 0;  ///< kLatent: leading values of a row that are also the attended value, c
  int index_dim = 0;  ///< kLatent: of an index key; 0: none

  size_t element_bytes() const { return type == KvType::kF32 ? 4 : 2; }
  size_t head_bytes() const {
    return static_cast<size_t>(block_size) * static_cast<size_t>(head_dim) * element_bytes();
  }
  size_t layer_bytes() const {
    if (kind == KvKind::kHeads) return 2 * static_cast<size_t>(num_kv_heads) * head_bytes();
    return head_bytes() +
           static_cast<size_t>(block_size) * static_cast<size_t>(index_dim) * element_bytes();
  }
  /// Rounded up to 64 so that every page starts aligned.
  size_t page_bytes() const {
    return (static_cast<size_t>(num_layers) * layer_bytes() + 63) / 64 * 64;
  }
  size_t bytes_per_token() const {
    return static_cast<size_t>(num_layers) * layer_bytes() / static_cast<size_t>(block_size);
  }
  size_t k_offset(int layer, int kv_head) const {
    return static_cast<size_t>(layer) * layer_bytes() + static_cast<size_t>(kv_head) * head_bytes();
  }
  size_t v_offset(int layer, int kv_head) const {
    return k_offset(layer, kv_head) + static_cast<size_t>(num_kv_heads) * head_bytes();
  }
  /// kLatent: index keys of a layer.
  size_t index_offset(int layer) const { return k_offset(layer, 0) + head_bytes(); }
};

/// One sequence's KV: page `page_table[p / block_size]` holds position p. Borrowed from the store
/// for one step.
struct PagedKv {
  std::byte* base = nullptr;  ///< page id i starts at base + i * page_bytes
  std::span<const int32_t> page_table;
};

}  // namespace halfmoon::kernels
