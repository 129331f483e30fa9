// SPDX-License-Identifier: Apache-2.0
// text: between characters and token ids: tokenizers, chat templates, grammar masks, incremental
// decoding. The C++ face of rust/textcore, whose header no other area sees. It knows nothing of
// weights or requests and starts no threads. What files and clients control (vocabularies,
// templates, schemas, text) ends in errors, never in a crash: panics of the Rust side arrive as
// kInternal.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::text {

/// The vocabulary of a GGUF file as its metadata has it: the same fields as
/// checkpoint::GgufVocabulary, repeated because text may not depend on checkpoint; whoever holds
/// both copies one into the other.
struct GgufTokenizerSpec {
  std::string model;  ///< tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama"
                      ///< (SentencePiece-style BPE)
  std::string pre;  ///< tokenizer.ggml.pre: names the pre-tokenizer of "gpt2"; not read for "llama"
  std::vector<std::string> tokens;
  std::vector<float>
      scores;  ///< per token; what orders the merges of "llama" where `merges` is empty
  std::vector<int32_t>
      token_types;  ///< per token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;  ///< "left right", by rank
  std::optional<int64_t> bos_id, eos_id, unknown_id, padding_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

struct EncodeOptions {
  /// Add what the model expects around a text (usually a BOS token in front). Off for rendered chat
  /// templates, which print it themselves.
  bool add_special_tokens = true;
  /// Read "<|im_end|>" and the like in the text as the one special token. Off for text that must
  /// not be able to speak for the template; added tokens that are not special ("<think>") are
  /// matched either way.
  bool parse_special = true;
};

struct DecodeOptions {
  bool skip_special = false;
};

/// A tokenizer: the HF `tokenizers` library for encoding, a table of bytes for decoding. Immutable,
/// thread-safe.
class Tokenizer {
 public:
  /// From the texts of tokenizer.json and (may be empty) tokenizer_config.json, which decides about
  /// BOS and EOS. Errors: kCorrupt (not a tokenizer), kUnsupported (a decoder other than byte-level
  /// or SentencePiece-style).
  static Result<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                     std::string_view tokenizer_config_json = {});

  /// From a model folder: tokenizer.json (or tiktoken.model, with Kimi's pattern unless
  /// tiktoken_pattern.json holds another), tokenizer_config.json, and the end-of-sequence ids of
  /// generation_config.json. Errors: as FromJson; kNotFound where the folder
  /// has no tokenizer.
  static Result<std::unique_ptr<Tokenizer>> LoadFromFolder(const std::filesystem::path& folder);

  /// From GGUF metadata, with ids equal to those of the HF tokenizer it was made from. Errors:
  /// kUnsupported names a model or pre-tokenizer this build does not know; kCorrupt where the
  /// tables contradict each other.
  static Result<std::unique_ptr<Tokenizer>> FromGguf(const GgufTokenizerSpec& spec);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Token ids of `text` (UTF-8). Errors: kInvalidArgument where `text` is not UTF-8. Linear in the
  /// text; the caller bounds its length.
  Result<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options = {}) const;

  /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD, one per maximal subpart; ids
  /// outside the vocabulary (padding rows of the embedding) decode to nothing.
  std::string Decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;

  /// The bytes that `id` contributes to a text; empty for ids outside the vocabulary. Lives as long
  /// as the tokenizer.
  std::string_view TokenBytes(int32_t id) const;

  /// The id whose vocabulary entry is spelled `content` (byte-level entries in their mapped
  /// spelling).
  std::optional<int32_t> TokenId(std::string_view content) const;

  /// One more than the largest id. The embedding of a model may have more rows.
  int32_t vocab_size() const { return static_cast<int32_t>(flags_.size()); }

  bool IsSpecial(int32_t id) const;

  std::optional<int32_t> bos_id() const { return bos_id_; }
  /// Every id that ends a generation, ascending, without repeats.
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }
  /// Spelling of BOS and EOS as chat templates print them; empty where the model has none.
  const std::string& bos_token() const { return bos_token_; }
  const std::string& eos_token() const { return eos_token_; }

 private:
  friend class StreamDecoder;
  friend class GrammarCompiler;
  struct Handle;  // the textcore object
  struct HandleDeleter {
    void operator()(Handle* handle) const;
  };
  using HandlePtr = std::unique_ptr<Handle, HandleDeleter>;

  explicit Tokenizer(HandlePtr handle);
  static Result<std::unique_ptr<Tokenizer>> FromTiktoken(std::string_view ranks,
                                                         std::string_view tokenizer_config_json,
                                                         std::string_view pattern_json);
  Status ApplyConfig(std::string_view tokenizer_config_json);
  Status AddGenerationEos(std::string_view generation_config_json);
  void SetAddBos(bool add);
  void SetAddEos(bool add);
  void AddEosId(int32_t id);

  HandlePtr handle_;
  // Owned by the textcore object: token i is table_[offsets_[i], offsets_[i + 1]).
  std::string_view table_;
  std::span<const uint32_t> offsets_;
  std::span<const uint8_t> flags_;
  bool strip_leading_space_ =
      false;  // SentencePiece-style: a text's first space is the encoder's doing
  bool default_add_bos_ = false;
  std::vector<int32_t> prefix_ids_, suffix_ids_;  // what add_special_tokens puts around a text
  std::optional<int32_t> bos_id_;
  std::vector<int32_t> eos_ids_;
  std::string bos_token_, eos_token_;
};

}  // namespace halfmoon::text
