// SPDX-License-Identifier: Apache-2.0
// Token ids to text, one id at a time.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace halfmoon::text {

/// Turns ids into text as they are generated, never emitting part of a character. What Push and
/// Finish return, concatenated, equals Tokenizer::Decode of all ids. One sequence, one thread at a
/// time.
class StreamDecoder {
 public:
  /// `tokenizer` has to outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(&tokenizer), options_(options) {}

  /// The text that `id` completes; empty while a character is still cut. Bytes that can no longer
  /// become a character come out as U+FFFD, one per maximal subpart. Ids outside the vocabulary add
  /// nothing.
  std::string Push(int32_t id);

  /// What is still held back: U+FFFD where the sequence ended inside a character, else nothing. The
  /// decoder is then as new.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::string held_;  // the beginning of a character, at most 3 bytes
  bool at_start_ = true;
};

}  // namespace halfmoon::text
