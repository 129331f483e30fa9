// SPDX-License-Identifier: Apache-2.0
// Between textcore's C types and ours. Included by the sources of this area only.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "textcore.h"

namespace halfmoon::text {

inline textcore_view ToView(std::string_view text) { return {text.data(), text.size()}; }

/// Bytes that textcore made.
class OwnedBytes {
 public:
  OwnedBytes() = default;
  OwnedBytes(const OwnedBytes&) = delete;
  OwnedBytes& operator=(const OwnedBytes&) = delete;
  ~OwnedBytes() { textcore_bytes_free(bytes_); }

  /// For one call that writes it.
  textcore_bytes* out() { return &bytes_; }
  std::string_view view() const { return {bytes_.data, bytes_.size}; }

 private:
  textcore_bytes bytes_ = {nullptr, 0};
};

/// The error that a textcore function reported.
inline Error ToError(textcore_status status, const OwnedBytes& message) {
  ErrorCode code = ErrorCode::kInternal;
  switch (status) {
    case TEXTCORE_INVALID_ARGUMENT:
      code = ErrorCode::kInvalidArgument;
      break;
    case TEXTCORE_CORRUPT:
      code = ErrorCode::kCorrupt;
      break;
    case TEXTCORE_UNSUPPORTED:
      code = ErrorCode::kUnsupported;
      break;
    case TEXTCORE_RESOURCE_EXHAUSTED:
      code = ErrorCode::kResourceExhausted;
      break;
    default:
      break;
  }
  return Error(code, std::string(message.view()));
}

/// Calls `function(arguments..., out, error)` for an object and hands it over as a Result<Pointer>.
template <typename Pointer, typename Raw, typename Function>
Result<Pointer> Make(Function&& function) {
  Raw* raw = nullptr;
  OwnedBytes error;
  const textcore_status status = function(&raw, error.out());
  if (status != TEXTCORE_OK) return ToError(status, error);
  return Pointer(reinterpret_cast<typename Pointer::pointer>(raw));
}

}  // namespace halfmoon::text
