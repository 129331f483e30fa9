// SPDX-License-Identifier: Apache-2.0
// checkpoint: files of weights as one view, canonical name > tensor. It maps files and checks every
// length and offset before use; it never computes with weights, and starts no threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::checkpoint {

/// How the rows of a stored matrix lie against the canonical (published safetensors) order.
enum class RowOrder {
  kCanonical,
  /// llama-architecture GGUF q/k: per head of D rows, stored row 2i is canonical row i, stored row
  /// 2i+1 is canonical row i + D/2 (models.md, "GGUF Q4_1"; converters permute for interleaved
  /// RoPE).
  kRopePairs,
};

/// Scales that published quantised checkpoints keep in a tensor of their own. A scale holds for
/// block_rows x block_cols values: w[i, j] = value[i, j] * view[i / block_rows, j / block_cols].
struct StoredScales {
  std::string name;
  tensor::TensorView view;
  int64_t block_rows = 0;
  int64_t block_cols = 0;
};

/// One weight as stored. `view.bytes` points into a mapping that the Checkpoint owns.
struct StoredTensor {
  tensor::TensorView view;  ///< shape outermost first: [out, in] for a linear layer
  /// F8_E4M3, I4x8 and I8x4 only, and always there: `view.shape` is that of the weight.
  std::optional<StoredScales> scales = std::nullopt;
  RowOrder row_order = RowOrder::kCanonical;
  int64_t rows_per_head = 0;  ///< D of kRopePairs

  /// Index in `view` of canonical row `row`.
  int64_t StoredRow(int64_t row) const;
};

/// Where the vocabulary of a GGUF file without tokenizer.json is described. Plain data for
/// text::Tokenizer.
struct GgufVocabulary {
  std::string model;  ///< tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;    ///< tokenizer.ggml.pre: names the pre-tokenizer ("smollm", "qwen2", ...)
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> token_types;
  std::vector<std::string> merges;
  std::optional<int64_t> bos_id, eos_id, unknown_id, padding_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

/// Where bytes of a tensor lie on disk.
struct FileRange {
  size_t file = 0;  ///< index into Checkpoint::files()
  uint64_t offset = 0;
  size_t size_bytes = 0;
};

/// A weight file as it was when it was opened.
struct SourceFile {
  std::filesystem::path path;
  FileIdentity identity;
};

/// What a file says of its own licence, as its authors wrote it; empty where they said nothing.
struct StatedLicense {
  std::string name;
  std::string link;
};

/// A checkpoint opened for reading. Immutable, thread-safe.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  /// "safetensors" or "gguf".
  virtual std::string_view format() const = 0;
  virtual const std::filesystem::path& path() const = 0;
  /// The model's configuration in the keys of the published config.json; GGUF metadata is
  /// translated into them.
  virtual const json::object& config() const = 0;
  /// nullptr where there is none. Names are those of the published safetensors
  /// ("model.layers.0.self_attn.q_proj.weight").
  virtual const StoredTensor* Find(std::string_view name) const = 0;
  /// All names, sorted.
  virtual std::vector<std::string> Names() const = 0;
  /// GGUF only; nullptr elsewhere.
  virtual const GgufVocabulary* gguf_vocabulary() const = 0;
  /// The chat template that travels with the weights (GGUF metadata); empty elsewhere.
  virtual std::string_view chat_template() const = 0;
  /// GGUF metadata; empty elsewhere.
  virtual StatedLicense license() const { return {}; }
  /// Bytes of all weights.
  virtual size_t size_bytes() const = 0;
  /// A digest that changes when any file's content plausibly has (names, sizes, headers, sampled
  /// data): the model fingerprint which salts KV block keys and keys cached kernel formats.
  virtual std::string fingerprint() const = 0;
  /// Asks the kernel to read all weights ahead. A hint.
  virtual void Prefetch() const = 0;
  /// The same for the tensors that `wanted` names only; nothing else is then read along with what
  /// is touched.
  virtual void PrefetchOnly(const std::function<bool(std::string_view name)>&) const {}
  /// The weight files; empty where the weights lie in none.
  virtual std::vector<std::filesystem::path> files() const { return {}; }
  /// The same with what tells each from a changed one.
  virtual std::vector<SourceFile> sources() const { return {}; }
  /// Gives back the memory of pages that were touched (MappedFile::Release). A hint.
  virtual void Release() const {}
  /// Where the bytes of a view of this checkpoint lie; nullopt where they are in no file. Does not
  /// touch the bytes.
  virtual std::optional<FileRange> Locate(std::span<const std::byte>) const { return std::nullopt; }
};

/// Opens `path`: a .gguf file (of a split one, any part), a .safetensors file with a config.json
/// beside it, or a folder that holds config.json and model.safetensors or
/// model.safetensors.index.json (or one .gguf model and no other).
/// Errors name file, tensor, expected and found.
Result<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& path);

}  // namespace halfmoon::checkpoint
