// SPDX-License-Identifier: Apache-2.0
// Constrained output: which tokens may come next so that the text stays within a JSON schema, a
// regular expression or a Lark grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "text/tokenizer.h"

namespace halfmoon::text {

enum class GrammarKind {
  kJsonSchema,  ///< JSON text of a schema
  kRegex,       ///< the whole output matches
  kLark,        ///< Lark grammar with the rule `start`
};

/// The state of one constrained sequence. One thread at a time.
class GrammarMatcher {
 public:
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  /// Writes which tokens may come next: bit `id % 32` of word `id / 32`; all other bits are
  /// cleared. Once stopped, only end-of-sequence is allowed. Requires a mask of at least
  /// GrammarCompiler::mask_words() words; a longer one (a padded vocabulary) is cleared beyond.
  /// Errors: kInvalidArgument (mask too short), kResourceExhausted or kInternal where the grammar
  /// outgrew the parser's limits.
  Status ComputeMask(std::span<uint32_t> bitmask);

  /// Moves on by one token. Errors: kInvalidArgument where the grammar does not allow `token_id`
  /// here; nothing has changed then.
  Status Commit(int32_t token_id);

  /// Whether the text so far is complete (it may still go on).
  bool IsAccepting();
  /// Whether nothing can follow any more.
  bool IsStopped() const;

 private:
  friend class GrammarCompiler;
  struct Handle;
  struct HandleDeleter {
    void operator()(Handle* handle) const;
  };
  explicit GrammarMatcher(std::unique_ptr<Handle, HandleDeleter> handle);
  std::unique_ptr<Handle, HandleDeleter> handle_;
};

/// Makes matchers for one vocabulary. Immutable, thread-safe. Making one reads the whole vocabulary
/// (some 100 ms for 50k tokens); do it on first use and keep it.
class GrammarCompiler {
 public:
  /// `tokenizer` may go away afterwards. Errors: kUnsupported where the tokenizer has no
  /// end-of-sequence token.
  static Result<GrammarCompiler> Create(const Tokenizer& tokenizer);

  GrammarCompiler(GrammarCompiler&&) noexcept;
  GrammarCompiler& operator=(GrammarCompiler&&) noexcept;
  ~GrammarCompiler();

  /// A matcher at its start. Errors: kInvalidArgument with what is wrong with `source`.
  Result<GrammarMatcher> Compile(GrammarKind kind, std::string_view source) const;

  /// Words of a mask that covers the vocabulary.
  size_t mask_words() const { return mask_words_; }

 private:
  struct Handle;
  struct HandleDeleter {
    void operator()(Handle* handle) const;
  };
  explicit GrammarCompiler(std::unique_ptr<Handle, HandleDeleter> handle);
  std::unique_ptr<Handle, HandleDeleter> handle_;
  size_t mask_words_ = 0;
};

}  // namespace halfmoon::text
