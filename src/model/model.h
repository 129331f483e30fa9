// SPDX-License-Identifier: Apache-2.0
// model: a family's description (data), its weights in kernel layout, and one forward pass made of
// shared blocks. It sees KV memory only as kernels::PagedKv views, knows nothing of requests or
// pages, and runs on the caller's thread and its pool.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_reader.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "kernels/isa.h"
#include "kernels/paged_kv.h"
#include "model/description.h"
#include "model/expert_stats.h"

namespace halfmoon::model {

/// Precision of activations (and with it of KV).
enum class Activation {
  kF32,   ///< everything in float32, KV included where no other type is asked for: what parity is
          ///< judged with
  kInt8,  ///< int8 activations where weights are integers, bfloat16 where they are bfloat16 or
          ///< float8 and the ISA multiplies it, float32 elsewhere, KV in f16 where no other type is
          ///< asked for: the default
};

/// Which form of latent attention (MLA) computes prompts. Both are the same function; sums run in
/// another order.
enum class MlaPrefill {
  /// Queries move into the latent space, for prompts as for generated tokens: a token's bits depend
  /// on its own prefix only. The default.
  kAbsorbed,
  /// Chunks that are long enough (kernels::ExpansionPays) expand keys and values from the cached
  /// latents instead, which is less arithmetic, and takes more memory: the matrices that expand
  /// keys. It gives up that bits are independent of how a prompt is cut and of whether a token was
  /// once prompted or generated. Where attention is sparse, only tokens that see no more keys than
  /// the indexer chooses are computed so.
  kExpanded,
};

class WeightCache;

/// Whether packed weights are a file, mapped, rather than memory of the process' own.
struct WeightFile {
  enum class State {
    kNone,    ///< they are in memory
    kSaving,  ///< this start packed them; the file is written out in the background
    kMapped,  ///< an earlier start packed them
  };
  State state = State::kNone;
  size_t size_bytes = 0;
};

struct LoadOptions {
  Activation activation = Activation::kInt8;
  MlaPrefill mla_prefill = MlaPrefill::kAbsorbed;  ///< kExpanded: models with latent attention
  kernels::Isa isa = kernels::Isa::kGeneric;       ///< one of kernels::AvailableIsas()
  /// Types of what attention caches; none: float32 with Activation::kF32, else float16. Latent
  /// attention keeps keys and values in the same rows, so there both have to be equal.
  std::optional<kernels::KvType> k_type, v_type;
  int block_size = 32;        ///< token slots of a KV page, multiple of 16
  int max_step_tokens = 512;  ///< most rows of one Forward
  int max_sequences = 64;     ///< most sequences of one Forward
  int max_context = 0;        ///< positions a sequence may reach; 0: the model's own limit
  /// A description file (description_file.h) instead of the family that config.json names; empty:
  /// none.
  std::filesystem::path description_file;
  /// Not 0: routed experts stay on disk, and those in use are kept within this many bytes.
  size_t expert_memory_bytes = 0;
  bool foretell_experts = true;  ///< read those of the next layer ahead; false: for measuring
  /// How their files are opened; tests bring errors in here.
  std::function<Result<std::unique_ptr<FileReader>>(std::span<const std::filesystem::path> files)>
      open_experts =
          [](std::span<const std::filesystem::path> files) { return OpenFileReader(files); };
  /// The draft layer for multi-token prediction too, where there is one. Its KV is one more layer
  /// of each page.
  bool load_mtp = false;
  /// Where packed weights are kept between starts; outlives the model. nullptr: nowhere.
  WeightCache* weight_cache = nullptr;
  /// Called during the load with bytes done and in all; from the loading thread.
  std::function<void(size_t done_bytes, size_t total_bytes)> progress;

  kernels::KvType kv_k_type() const { return k_type.value_or(default_kv_type()); }
  kernels::KvType kv_v_type() const { return v_type.value_or(default_kv_type()); }

 private:
  kernels::KvType default_kv_type() const {
    return activation == Activation::kF32 ? kernels::KvType::kF32 : kernels::KvType::kF16;
  }
};

/// Which rows of a chunk get logits.
enum class LogitsMode { kNone, kLast, kAll };

/// Consecutive tokens of one sequence to compute in this step.
struct SequenceChunk {
  std::span<const int32_t> ids;  ///< T >= 1 token ids, each < vocabulary size
  int32_t start = 0;             ///< position of the first
  kernels::PagedKv kv;           ///< pages for positions 0 .. start + T - 1
  LogitsMode logits = LogitsMode::kLast;
};

/// What `halfmoon logits --capture` keeps of one Forward. Rows in batch order.
struct Capture {
  bool hidden = false;
  bool router = false;
  bool indexer = false;  ///< models with sparse attention
  struct Hidden {
    std::string name;         ///< "embed", "0".., "final"
    std::vector<float> rows;  ///< [T, H]
  };
  struct Router {
    int layer = 0;
    std::vector<float> logits;     ///< [T, E]
    std::vector<int32_t> indices;  ///< [T, K], ascending expert ids
    std::vector<float> weights;    ///< [T, K], final
  };
  struct Indexer {
    int layer = 0;
    int64_t width = 0;           ///< positions that the longest sequence of the step has now
    std::vector<float> scores;   ///< [T, width]; -infinity beyond a token's own position
    std::vector<int32_t> top_k;  ///< [T, K] chosen positions, ascending, then -1
  };
  std::vector<Hidden> hidden_rows;
  std::vector<Router> router_rows;
  std::vector<Indexer> indexer_rows;
};

/// Consecutive rows of one sequence for the draft layer: row i combines the main model's hidden
/// state of the token at start + i (after the final norm) with the token after it.
struct MtpChunk {
  std::span<const int32_t> next_ids;  ///< T >= 1: tokens at start + 1 .. start + T
  std::span<const float> hidden;      ///< [T, H]
  int32_t start = 0;
  kernels::PagedKv kv;  ///< the sequence's pages, for positions 0 .. start + T - 1
  LogitsMode logits = LogitsMode::kLast;
};

/// What attention to cached positions costs in the absorbed form, all layers, besides the matrices.
struct AttentionCost {
  double f32_flops = 0.0;   ///< multiplies and adds; scores of an indexer included
  double bf16_flops = 0.0;  ///< those of pairs of bfloat16
  double kv_bytes = 0.0;    ///< read where each token reads the cache for itself
};

/// What one token costs in matrix products, attention and norms aside.
struct Cost {
  double int8_ops = 0.0;    ///< multiplies and adds on integer weights with int8 activations
  double f32_flops = 0.0;   ///< multiplies and adds in float32
  double bf16_flops = 0.0;  ///< multiplies and adds of bfloat16
};

/// Loaded weights and the buffers of a step. Forward is called by one thread at a time (the engine
/// thread).
class Model {
 public:
  /// Builds the description from the checkpoint's config, checks every tensor's presence and shape
  /// against it, and packs the weights on `pool`, which outlives the model. Errors name file,
  /// tensor, expected and found, or the option that this model cannot follow.
  static Result<std::unique_ptr<Model>> Load(
      std::shared_ptr<const checkpoint::Checkpoint> checkpoint, ThreadPool* pool,
      const LoadOptions& options);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelDescription& description() const;
  const kernels::KvLayout& kv_layout() const;
  const LoadOptions& options() const;
  int64_t vocab_size() const;
  int max_context() const;
  /// Bytes of packed weights in memory, with expert_memory_bytes where experts are on disk.
  size_t weight_bytes() const;
  /// The file that they are, if they are one. Its pages count as free memory with the system.
  const WeightFile& weight_file() const;
  /// How experts on disk share their memory; nullptr where all experts are in memory.
  const ExpertMemory* expert_memory() const;
  ExpertStats expert_stats() const;
  /// Matrix products of one token: K experts a MoE layer, lm_head included.
  Cost CostPerToken() const;
  /// Packed weights that a step of `tokens` tokens reads, bytes: each expert counts with the
  /// probability that uniform routing touches it.
  double WeightBytesPerStep(int tokens) const;
  /// What attention adds for `tokens` consecutive tokens of a sequence behind `depth` others, in
  /// sum.
  AttentionCost AttentionCostOf(int64_t depth, int64_t tokens) const;
  /// Changes whenever KV bytes of equal tokens could: weights, activation mode, KV format, the form
  /// of latent attention, arithmetic version. Salts block keys.
  std::string fingerprint() const;

  /// The calling thread is the one that computes from now on, and starts no other threads: lets it
  /// run where the pool's layout wants it (ThreadPool::SeatCaller).
  void SeatCaller() const;

  /// Computes one step. logits() then holds one row of V floats per requested position, in chunk
  /// order. Requires the sum of chunk sizes at most max_step_tokens, ids in range, and pages that
  /// cover the chunks. A row's bits depend on its own prefix only. Errors, with experts on disk
  /// only: kIo, kCorrupt, naming tensor and file; there are no logits then, KV of the chunks'
  /// positions is undefined, and the next step may succeed.
  Status Forward(std::span<const SequenceChunk> chunks, Capture* capture = nullptr) noexcept;
  /// `done` runs in every Forward from now on, on its thread, after each layer: KV of the step's
  /// tokens in that layer is complete then. Must be quick and must not throw. Empty: none.
  void SetLayerDone(std::function<void(int layer)> done);
  /// [rows, V] of the last Forward or ForwardMtp; valid until the next.
  std::span<const float> logits() const;
  /// [rows, H] after the final norm, for the same rows.
  std::span<const float> final_hidden() const;

  /// Draft layers that were loaded: 0 or 1.
  int num_mtp_layers() const;
  /// [T, H] after the final norm, for every row of the last Forward: what the draft layer reads.
  /// Only with a draft layer; ForwardMtp leaves it alone.
  std::span<const float> row_hidden() const;
  /// The draft layer (models.md 0, Multi-token prediction). Row i of a chunk predicts the token at
  /// start + i + 2; logits() and final_hidden() then hold the rows that were asked for, the latter
  /// to be fed back for recursive drafting. Requires num_mtp_layers() > 0 and limits as Forward,
  /// and has the same errors.
  Status ForwardMtp(std::span<const MtpChunk> chunks) noexcept;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon::model
