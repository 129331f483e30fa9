// SPDX-License-Identifier: Apache-2.0
// The writes of attention.h: new KV into pages.
#include <string>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/for_rows.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

void CheckPages(const KvLayout& layout, const AttentionSequence& sequence) {
  const auto pages = static_cast<int64_t>(sequence.kv.page_table.size());
  HM_CHECK(int64_t{sequence.start} + sequence.count <= pages * layout.block_size,
           std::to_string(sequence.start + sequence.count) + " tokens on " + std::to_string(pages) +
               " pages");
}

std::byte* PageOf(const KvLayout& layout, const AttentionSequence& sequence, int64_t position) {
  const auto page = static_cast<size_t>(
      sequence.kv.page_table[static_cast<size_t>(position / layout.block_size)]);
  return sequence.kv.base + page * layout.page_bytes();
}

}  // namespace

void WriteKv(const Stream& stream, const KvLayout& layout, int layer,
             std::span<const AttentionSequence> sequences, const Rows& k, const Rows& v) {
  for (const AttentionSequence& sequence : sequences) {
    CheckPages(layout, sequence);
    const int64_t row_work = int64_t{4} * layout.num_kv_heads * layout.head_dim;
    ForRows(stream, sequence.count, row_work, [&](int64_t i) {
      const int64_t position = sequence.start + i;
      std::byte* page = PageOf(layout, sequence, position);
      StoreKvArgs args;
      args.k = page + layout.k_offset(layer, 0);
      args.v = page + layout.v_offset(layer, 0);
      args.k_row_bytes = layout.k_row_bytes();
      args.v_row_bytes = layout.v_row_bytes();
      args.slot = static_cast<int32_t>(position % layout.block_size);
      args.block_size = layout.block_size;
      args.num_kv_heads = layout.num_kv_heads;
      args.head_dim = layout.head_dim;
      args.k_type = layout.k_type;
      args.v_type = layout.v_type;
      args.new_k = k.row(sequence.row + i);
      args.new_v = v.row(sequence.row + i);
      stream.table().store_kv(args);
    });
  }
}

void WriteLatentKv(const Stream& stream, const KvLayout& layout, int layer,
                   std::span<const AttentionSequence> sequences, const Rows& kv,
                   const Rows& index_keys) {
  for (const AttentionSequence& sequence : sequences) {
    CheckPages(layout, sequence);
    ForRows(stream, sequence.count, int64_t{4} * layout.head_dim, [&](int64_t i) {
      const int64_t position = sequence.start + i;
      std::byte* page = PageOf(layout, sequence, position);
      const auto slot = static_cast<size_t>(position % layout.block_size);
      StoreLatentArgs args;
      args.row = page + layout.k_offset(layer, 0) + slot * layout.k_row_bytes();
      args.head_dim = layout.head_dim;
      args.index_run =
          page + layout.index_offset(layer) + slot / kKvLane * kKvLane * layout.index_row_bytes();
      args.lane = static_cast<int32_t>(slot % kKvLane);
      args.index_dim = layout.index_dim;
      args.type = layout.k_type;
      args.kv = kv.row(sequence.row + i);
      args.index_key = layout.index_dim > 0 ? index_keys.row(sequence.row + i) : nullptr;
      stream.table().store_latent(args);
    });
  }
}

}  // namespace halfmoon::kernels
