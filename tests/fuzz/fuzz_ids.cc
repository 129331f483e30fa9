// SPDX-License-Identifier: Apache-2.0
// IDS.json: lists of token ids from a file.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/token_lists.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kVocab = 1000;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto lists = halfmoon::engine::ParseTokenLists(text, kVocab);
  if (!lists.ok()) return 0;
  for (const auto& list : *lists) {
    if (list.empty()) __builtin_trap();
    for (const int32_t id : list) {
      if (id < 0 || id >= kVocab) __builtin_trap();
    }
  }
  return 0;
}
