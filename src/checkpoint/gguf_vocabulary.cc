// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {
namespace {

/// A token id; writers spell "none" as all bits set.
Result<std::optional<int64_t>> FindTokenId(const GgufMetadata& metadata, std::string_view key,
                                           size_t num_tokens) {
  HM_ASSIGN(const auto id, metadata.FindInt(key));
  constexpr int64_t kNone = 0xFFFFFFFF;
  if (!id.has_value() || *id == kNone || *id == -1) return std::optional<int64_t>();
  if (*id < 0 || *id >= static_cast<int64_t>(num_tokens)) {
    return Error(ErrorCode::kCorrupt, "metadata '" + std::string(key) + "' is " +
                                          std::to_string(*id) + ", but there are " +
                                          std::to_string(num_tokens) + " tokens");
  }
  return id;
}

/// One entry a token, or none at all.
Status CheckCount(std::string_view key, size_t found, size_t num_tokens) {
  if (found == 0 || found == num_tokens) return {};
  return Error(ErrorCode::kCorrupt, "metadata '" + std::string(key) + "' has " +
                                        std::to_string(found) + " entries for " +
                                        std::to_string(num_tokens) + " tokens");
}

}  // namespace

Result<std::optional<GgufVocabulary>> ReadGgufVocabulary(const GgufMetadata& metadata) {
  HM_ASSIGN(const auto model, metadata.FindString("tokenizer.ggml.model"));
  if (!model.has_value()) return std::optional<GgufVocabulary>();
  std::optional<GgufVocabulary> found(std::in_place);
  GgufVocabulary& vocabulary = *found;
  vocabulary.model = *model;
  HM_ASSIGN(const auto pre, metadata.FindString("tokenizer.ggml.pre"));
  vocabulary.pre = pre.value_or("");

  HM_ASSIGN(auto tokens, metadata.FindStrings("tokenizer.ggml.tokens"));
  if (!tokens.has_value()) {
    return Error(ErrorCode::kCorrupt, "metadata 'tokenizer.ggml.tokens' is missing");
  }
  vocabulary.tokens = std::move(*tokens);
  const size_t num_tokens = vocabulary.tokens.size();
  HM_ASSIGN(auto scores, metadata.FindFloats("tokenizer.ggml.scores"));
  if (scores.has_value()) vocabulary.scores = std::move(*scores);
  HM_TRY(CheckCount("tokenizer.ggml.scores", vocabulary.scores.size(), num_tokens));
  HM_ASSIGN(auto types, metadata.FindInts("tokenizer.ggml.token_type"));
  if (types.has_value()) vocabulary.token_types = std::move(*types);
  HM_TRY(CheckCount("tokenizer.ggml.token_type", vocabulary.token_types.size(), num_tokens));
  HM_ASSIGN(auto merges, metadata.FindStrings("tokenizer.ggml.merges"));
  if (merges.has_value()) vocabulary.merges = std::move(*merges);

  HM_ASSIGN(vocabulary.bos_id, FindTokenId(metadata, "tokenizer.ggml.bos_token_id", num_tokens));
  HM_ASSIGN(vocabulary.eos_id, FindTokenId(metadata, "tokenizer.ggml.eos_token_id", num_tokens));
  HM_ASSIGN(vocabulary.unknown_id,
            FindTokenId(metadata, "tokenizer.ggml.unknown_token_id", num_tokens));
  HM_ASSIGN(vocabulary.padding_id,
            FindTokenId(metadata, "tokenizer.ggml.padding_token_id", num_tokens));
  HM_ASSIGN(vocabulary.add_bos, metadata.FindBool("tokenizer.ggml.add_bos_token"));
  HM_ASSIGN(vocabulary.add_eos, metadata.FindBool("tokenizer.ggml.add_eos_token"));
  HM_ASSIGN(vocabulary.add_space_prefix, metadata.FindBool("tokenizer.ggml.add_space_prefix"));
  return found;
}

}  // namespace halfmoon::checkpoint
