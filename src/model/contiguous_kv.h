// SPDX-License-Identifier: Apache-2.0
// KV pages of one sequence in one piece of memory, for tools and tests that run a model without an
// engine.
#pragma once

#include <numeric>
#include <vector>

#include "kernels/paged_kv.h"
#include "tensor/tensor.h"

namespace halfmoon::model {

/// Owns pages 0, 1, ... for up to max_tokens positions. The view borrows from it.
class ContiguousKv {
 public:
  ContiguousKv(const kernels::KvLayout& layout, int64_t max_tokens)
      : page_table_(static_cast<size_t>((max_tokens + layout.block_size - 1) / layout.block_size)),
        pages_(page_table_.size() * layout.page_bytes()) {
    std::iota(page_table_.begin(), page_table_.end(), 0);
  }

  kernels::PagedKv view() { return {.base = pages_.data(), .page_table = page_table_}; }

 private:
  std::vector<int32_t> page_table_;
  tensor::AlignedBuffer pages_;
};

}  // namespace halfmoon::model
