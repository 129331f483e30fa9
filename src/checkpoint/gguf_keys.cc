// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_keys.h"

#include <algorithm>
#include <cmath>

namespace halfmoon::checkpoint {

Result<std::optional<int64_t>> GgufKeys::FindCount(std::string_view key, int64_t high) const {
  const std::string full = Name(key);
  std::optional<int64_t> count;
  const GgufValue* value = file_.metadata.Find(full);
  if (value != nullptr && value->is_array) {
    HM_ASSIGN(const auto per_layer, file_.metadata.FindInts(full));
    if (per_layer->empty()) return Bad(key, "an empty array");
    if (std::any_of(per_layer->begin(), per_layer->end(),
                    [&](int32_t n) { return n != per_layer->front(); })) {
      return Error(ErrorCode::kUnsupported, "metadata '" + full + "' differs between layers");
    }
    count = per_layer->front();
  } else {
    HM_ASSIGN(count, file_.metadata.FindInt(full));
  }
  if (count.has_value() && (*count < 1 || *count > high)) {
    return Bad(key, std::to_string(*count) + ", expected 1 to " + std::to_string(high));
  }
  return count;
}

Result<int64_t> GgufKeys::RequireCount(std::string_view key, int64_t high) const {
  HM_ASSIGN(const auto count, FindCount(key, high));
  if (!count.has_value()) {
    return Error(ErrorCode::kCorrupt, "metadata '" + Name(key) + "' is missing");
  }
  return *count;
}

Result<int64_t> GgufKeys::CountOrZero(std::string_view key, int64_t high) const {
  HM_ASSIGN(const auto count, FindInt(key));
  if (count.value_or(0) < 0 || count.value_or(0) > high) {
    return Bad(key, std::to_string(*count) + ", expected 0 to " + std::to_string(high));
  }
  return count.value_or(0);
}

Result<std::optional<double>> GgufKeys::FindPositive(std::string_view key) const {
  HM_ASSIGN(const auto number, FindDouble(key));
  if (number.has_value() && !(*number > 0 && std::isfinite(*number))) {
    return Bad(key, std::to_string(*number) + ", expected a number above 0");
  }
  return number;
}

Status GgufKeys::RefuseIfSet(std::string_view key) const {
  const GgufValue* value = file_.metadata.Find(Name(key));
  if (value == nullptr) return {};
  if (!value->is_array) {
    if (value->type == GgufType::kBool) {
      HM_ASSIGN(const auto flag, FindBool(key));
      if (!*flag) return {};
    } else {
      HM_ASSIGN(const auto number, FindDouble(key));
      if (*number == 0) return {};
    }
  }
  return Error(ErrorCode::kUnsupported,
               "metadata '" + Name(key) + "' is set, which is not supported");
}

const GgufTensor* GgufKeys::FindTensor(std::string_view name) const {
  const auto found = std::find_if(file_.tensors.begin(), file_.tensors.end(),
                                  [&](const GgufTensor& t) { return t.name == name; });
  return found == file_.tensors.end() ? nullptr : &*found;
}

Error GgufKeys::Bad(std::string_view key, std::string_view found) const {
  return Error(ErrorCode::kCorrupt, "metadata '" + Name(key) + "' is " + std::string(found));
}

Error GgufKeys::Unsupported(std::string_view key, std::string_view found,
                            std::string_view known) const {
  return Error(ErrorCode::kUnsupported, "metadata '" + Name(key) + "' is " + std::string(found) +
                                            "; supported is " + std::string(known));
}

}  // namespace halfmoon::checkpoint
