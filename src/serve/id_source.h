// SPDX-License-Identifier: Apache-2.0
// Ids of answers and seeds of requests that bring none.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace halfmoon::serve {

/// A well-mixed 64-bit value for each (a, b).
uint64_t MixBits(uint64_t a, uint64_t b);

/// Unguessable enough not to collide between servers; not a secret. Thread-safe.
class IdSource {
 public:
  IdSource();
  uint64_t NextRandom();
  /// 24 hexadecimal digits.
  std::string NextId();

 private:
  const uint64_t base_;
  std::atomic<uint64_t> counter_{0};
};

}  // namespace halfmoon::serve
