// SPDX-License-Identifier: Apache-2.0
#include "engine/token_lists.h"

#include <string>

#include "base/file.h"
#include "base/json.h"

namespace halfmoon::engine {
namespace {

constexpr size_t kMaxFileBytes = size_t{256} << 20;

Error At(size_t list, const std::string& what) {
  return Error(ErrorCode::kInvalidArgument, "list " + std::to_string(list) + ": " + what);
}

Result<std::vector<int32_t>> ParseList(const json::value& value, size_t list, int64_t vocab_size) {
  if (!value.is_array()) {
    return At(list, "expected a list of token ids, found " + std::string(json::KindName(value)));
  }
  if (value.as_array().empty()) return At(list, "is empty; a prompt has at least one token");
  std::vector<int32_t> ids;
  ids.reserve(value.as_array().size());
  for (const json::value& id : value.as_array()) {
    if (!id.is_int64() || id.as_int64() < 0 || id.as_int64() >= vocab_size) {
      return At(list, "position " + std::to_string(ids.size()) + ": expected a token id below " +
                          std::to_string(vocab_size) + ", found " + json::Serialize(id));
    }
    ids.push_back(static_cast<int32_t>(id.as_int64()));
  }
  return ids;
}

}  // namespace

Result<std::vector<std::vector<int32_t>>> ParseTokenLists(std::string_view text,
                                                          int64_t vocab_size) {
  HM_ASSIGN(const json::value document, json::Parse(text));
  if (!document.is_array()) {
    return Error(ErrorCode::kInvalidArgument,
                 "expected a list of token-id lists, [[1, 2], [3]], found " +
                     std::string(json::KindName(document)));
  }
  std::vector<std::vector<int32_t>> lists;
  for (const json::value& value : document.as_array()) {
    HM_ASSIGN(std::vector<int32_t> ids, ParseList(value, lists.size(), vocab_size));
    lists.push_back(std::move(ids));
  }
  return lists;
}

Result<std::vector<std::vector<int32_t>>> ReadTokenLists(const std::filesystem::path& path,
                                                         int64_t vocab_size) {
  HM_ASSIGN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  return ParseTokenLists(text, vocab_size).WithContext(path.string());
}

}  // namespace halfmoon::engine
