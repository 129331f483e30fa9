// SPDX-License-Identifier: Apache-2.0
// Checks of our own invariants. A failing check is a bug in halfmoon, never a bad input.
#pragma once

#include <string>
#include <string_view>

namespace halfmoon {

/// Prints where and why, then aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              std::string_view message);

}  // namespace halfmoon

/// Always on. Message (optional) states the violated fact with its values; built only on failure.
#define HM_CHECK(condition, ...)                                                           \
  do {                                                                                     \
    if (!(condition)) [[unlikely]] {                                                       \
      ::halfmoon::CheckFailed(__FILE__, __LINE__, #condition, ::std::string(__VA_ARGS__)); \
    }                                                                                      \
  } while (false)

/// On in builds without NDEBUG.
#ifdef NDEBUG
#define HM_DCHECK(condition, ...) \
  do {                            \
  } while (false)
#else
#define HM_DCHECK(condition, ...) HM_CHECK(condition, __VA_ARGS__)
#endif
