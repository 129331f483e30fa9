// SPDX-License-Identifier: Apache-2.0
#include "text/stream_decoder.h"

#include <string_view>

#include "text/utf8.h"

namespace halfmoon::text {

std::string StreamDecoder::Push(int32_t id) {
  if (options_.skip_special && tokenizer_->IsSpecial(id)) return {};
  std::string_view bytes = tokenizer_->TokenBytes(id);
  if (bytes.empty()) return {};
  if (at_start_ && tokenizer_->strip_leading_space_ && bytes.front() == ' ') bytes.remove_prefix(1);
  at_start_ = false;

  held_ += bytes;
  std::string text;
  const size_t left = AppendUtf8(held_, &text);
  held_.erase(0, held_.size() - left);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text(held_.empty() ? std::string_view() : kReplacementCharacter);
  held_.clear();
  at_start_ = true;
  return text;
}

}  // namespace halfmoon::text
