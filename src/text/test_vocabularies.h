// SPDX-License-Identifier: Apache-2.0
// For tests: two small vocabularies, one of each kind, small enough to see every id.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace halfmoon::text {

/// The character that stands for `byte` in byte-level vocabularies, as UTF-8.
inline std::string ByteLevelSpelling(uint8_t byte) {
  const auto stands_for_itself = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!stands_for_itself(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += stands_for_itself(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

inline json::object AddedToken(int64_t id, std::string_view content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Byte-level: ids 0..255 are the bytes, then the merges " a" 256, "ab" 257, "he" 258, "ll" 259,
/// "hell" 260; then added tokens "<|end|>" 261 (special), "<|start|>" 262 (special), "<think>" 263
/// (not special).
inline json::object ByteLevelTokenizerJson() {
  json::object vocab;
  for (int b = 0; b < 256; ++b) vocab[ByteLevelSpelling(static_cast<uint8_t>(b))] = b;
  const std::string space = ByteLevelSpelling(' ');
  json::array merges;
  int64_t id = 256;
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {space, "a"}, {"a", "b"}, {"h", "e"}, {"l", "l"}, {"he", "ll"}}) {
    vocab[left + right] = id++;
    merges.push_back(json::array{left, right});
  }
  const json::object split = {
      {"type", "Split"},
      {"pattern", json::object{{"Regex", " ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  const json::object bytes = {{"type", "ByteLevel"},
                              {"add_prefix_space", false},
                              {"trim_offsets", true},
                              {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           json::array{AddedToken(261, "<|end|>", true), AddedToken(262, "<|start|>", true),
                       AddedToken(263, "<think>", false)}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           json::object{{"type", "Sequence"}, {"pretokenizers", json::array{split, bytes}}}},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model", json::object{{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

/// SentencePiece-style: "<unk>" 0, "<s>" 1, "</s>" 2, the bytes "<0x00>" 3 .. "<0xFF>" 258, then
/// "▁" 259, "a" 260, "b" 261, "▁a" 262, "ab" 263, "▁ab" 264.
inline json::object SentencePieceTokenizerJson() {
  const std::string underline = "\xE2\x96\x81";
  json::object vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    vocab["<0x" + std::string{kHex[b / 16], kHex[b % 16]} + ">"] = 3 + b;
  }
  int64_t id = 259;
  for (const std::string& token : {underline, std::string("a"), std::string("b"), underline + "a",
                                   std::string("ab"), underline + "ab"}) {
    vocab[token] = id++;
  }
  const json::array merges = {json::array{underline, "a"}, json::array{"a", "b"},
                              json::array{underline + "a", "b"}, json::array{underline, "ab"}};
  const json::object space = {{"String", " "}};
  const json::object underlined = {{"String", underline}};
  return {
      {"version", "1.0"},
      {"added_tokens", json::array{AddedToken(0, "<unk>", true), AddedToken(1, "<s>", true),
                                   AddedToken(2, "</s>", true)}},
      {"normalizer",
       json::object{
           {"type", "Sequence"},
           {"normalizers",
            json::array{
                json::object{{"type", "Prepend"}, {"prepend", underline}},
                json::object{{"type", "Replace"}, {"pattern", space}, {"content", underline}}}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder",
       json::object{
           {"type", "Sequence"},
           {"decoders",
            json::array{
                json::object{{"type", "Replace"}, {"pattern", underlined}, {"content", " "}},
                json::object{{"type", "ByteFallback"}}, json::object{{"type", "Fuse"}},
                json::object{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model", json::object{{"type", "BPE"},
                             {"unk_token", "<unk>"},
                             {"fuse_unk", true},
                             {"byte_fallback", true},
                             {"vocab", vocab},
                             {"merges", merges}}}};
}

inline std::unique_ptr<Tokenizer> Load(const json::object& tokenizer_json,
                                       std::string_view config = {}) {
  auto tokenizer = Tokenizer::FromJson(json::Serialize(tokenizer_json), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

inline std::vector<int32_t> EncodeOrFail(const Tokenizer& tokenizer, std::string_view text,
                                         EncodeOptions options = {}) {
  const auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.error().message();
  return ids.ok() ? *ids : std::vector<int32_t>();
}

}  // namespace halfmoon::text
