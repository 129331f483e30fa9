// SPDX-License-Identifier: Apache-2.0
// A model of a few lines for tests of the engine. Its KV of a position is a hash of all tokens up
// to it, made from the KV of the position before, so the logits are right only if every page it was
// given holds what this very prefix left there; it also checks that.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/step_model.h"

namespace halfmoon::engine {

struct ToyOptions {
  int block_size = 16;
  int32_t vocab_size = 97;
  int32_t max_context = 512;
  int32_t max_step_tokens = 64;
  /// Called before each step, on the engine thread; may throw.
  std::function<void(std::span<const model::SequenceChunk>)> before_step;
  /// Called after that; an error is the step's.
  std::function<Status(std::span<const model::SequenceChunk>)> fail_step;
  /// Called with each row of logits and the hash it came from, to change it.
  std::function<void(uint64_t hash, std::span<float> row)> change_row;
};

/// Thread-safe where it is atomic.
struct ToyCounters {
  std::atomic<int64_t> tokens{0};
  std::atomic<int64_t> steps{0};
  std::atomic<int> largest_batch{0};
  std::atomic<int> wrong_slots{0};  ///< positions whose KV was not what the prefix left there
};

class ToyModel final : public StepModel {
 public:
  ToyModel(const ToyOptions& options, ToyCounters* counters)
      : options_(options),
        counters_(counters),
        layout_{.num_layers = 1,
                .num_kv_heads = 1,
                .head_dim = 4,
                .block_size = options.block_size,
                .k_type = kernels::KvType::kF32,
                .v_type = kernels::KvType::kF32} {}

  static size_t PageBytes(int block_size) {
    return kernels::KvLayout{.num_layers = 1,
                             .num_kv_heads = 1,
                             .head_dim = 4,
                             .block_size = block_size,
                             .k_type = kernels::KvType::kF32,
                             .v_type = kernels::KvType::kF32}
        .page_bytes();
  }

  /// The token that a greedy choice takes after `ids`, unless change_row changes it.
  static int32_t GreedyToken(std::span<const int32_t> ids, int32_t vocab_size) {
    const std::vector<float> logits = LogitsAfter(ids, vocab_size);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  /// The logits after `ids`, unless change_row changes them.
  static std::vector<float> LogitsAfter(std::span<const int32_t> ids, int32_t vocab_size) {
    uint64_t hash = 0;
    for (size_t p = 0; p < ids.size(); ++p) hash = Next(hash, ids[p], static_cast<int32_t>(p));
    std::vector<float> logits;
    for (int32_t v = 0; v < vocab_size; ++v) logits.push_back(Logit(hash, v));
    return logits;
  }

  const kernels::KvLayout& kv_layout() const override { return layout_; }
  int32_t vocab_size() const override { return options_.vocab_size; }
  int32_t max_context() const override { return options_.max_context; }
  int32_t max_step_tokens() const override { return options_.max_step_tokens; }
  int32_t max_sequences() const override { return 64; }
  std::string fingerprint() const override { return "toy"; }
  std::span<const float> logits() const override { return logits_; }

  Status Forward(std::span<const model::SequenceChunk> chunks) override {
    if (options_.before_step) options_.before_step(chunks);
    if (options_.fail_step) HM_TRY(options_.fail_step(chunks));
    ++counters_->steps;
    counters_->largest_batch =
        std::max(counters_->largest_batch.load(), static_cast<int>(chunks.size()));
    logits_.clear();
    for (const model::SequenceChunk& chunk : chunks) {
      uint64_t hash = 0;
      for (int32_t p = 0; p < chunk.start; ++p) {
        const Slot slot = Load(chunk.kv, p);
        hash = Next(hash, slot.token, p);
        if (slot.position != p || slot.hash != hash) ++counters_->wrong_slots;
      }
      for (size_t i = 0; i < chunk.ids.size(); ++i) {
        const int32_t p = chunk.start + static_cast<int32_t>(i);
        hash = Next(hash, chunk.ids[i], p);
        Store(chunk.kv, p, {.hash = hash, .token = chunk.ids[i], .position = p});
        const bool last = i + 1 == chunk.ids.size();
        if (chunk.logits == model::LogitsMode::kAll ||
            (chunk.logits == model::LogitsMode::kLast && last)) {
          AddRow(hash);
        }
      }
      counters_->tokens += static_cast<int64_t>(chunk.ids.size());
    }
    return {};
  }

 private:
  struct Slot {
    uint64_t hash;
    int32_t token;
    int32_t position;
  };

  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
    return x ^ (x >> 29);
  }
  static uint64_t Next(uint64_t hash, int32_t token, int32_t position) {
    return Mix(Mix(hash + static_cast<uint64_t>(token) + 1) + static_cast<uint64_t>(position));
  }
  static float Logit(uint64_t hash, int32_t token) {
    const uint64_t bits = Mix(hash ^ Mix(static_cast<uint64_t>(token) + 12345));
    return static_cast<float>(bits >> 40) * 0x1p-21f - 4.0f;
  }
  void AddRow(uint64_t hash) {
    const size_t start = logits_.size();
    for (int32_t v = 0; v < options_.vocab_size; ++v) logits_.push_back(Logit(hash, v));
    if (options_.change_row) options_.change_row(hash, std::span(logits_).subspan(start));
  }
  std::byte* At(const kernels::PagedKv& kv, int32_t position) const {
    const auto block = static_cast<size_t>(options_.block_size);
    const auto p = static_cast<size_t>(position);
    const auto page = static_cast<size_t>(kv.page_table[p / block]);
    return kv.base + page * layout_.page_bytes() + p % block * sizeof(Slot);
  }
  Slot Load(const kernels::PagedKv& kv, int32_t position) const {
    Slot slot;
    std::memcpy(&slot, At(kv, position), sizeof(slot));
    return slot;
  }
  void Store(const kernels::PagedKv& kv, int32_t position, const Slot& slot) const {
    std::memcpy(At(kv, position), &slot, sizeof(slot));
  }

  const ToyOptions options_;
  ToyCounters* const counters_;
  const kernels::KvLayout layout_;
  std::vector<float> logits_;
};

}  // namespace halfmoon::engine
