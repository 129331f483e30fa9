// SPDX-License-Identifier: Apache-2.0
#include "transfer/streaming_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace halfmoon::transfer {

namespace {

// Less than this fits into a second-level cache beside other things.
constexpr size_t kMinStreamedBytes = 256 << 10;
constexpr size_t kLineBytes = 64;

}  // namespace

void StreamingCopy(std::byte* to, const std::byte* from, size_t size) {
#ifdef __SSE2__
  if (size >= kMinStreamedBytes) {
    const size_t head = -reinterpret_cast<uintptr_t>(to) % kLineBytes;
    std::memcpy(to, from, head);
    to += head;
    from += head;
    size -= head;
    for (; size >= kLineBytes; size -= kLineBytes, to += kLineBytes, from += kLineBytes) {
      const auto* const source = reinterpret_cast<const __m128i*>(from);
      auto* const target = reinterpret_cast<__m128i*>(to);
      // Where the hardware's own prefetch stops, at the page, this goes on.
      _mm_prefetch(reinterpret_cast<const char*>(from) + 16 * kLineBytes, _MM_HINT_NTA);
      const __m128i a = _mm_loadu_si128(source);
      const __m128i b = _mm_loadu_si128(source + 1);
      const __m128i c = _mm_loadu_si128(source + 2);
      const __m128i d = _mm_loadu_si128(source + 3);
      _mm_stream_si128(target, a);
      _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c);
      _mm_stream_si128(target + 3, d);
    }
    _mm_sfence();  // before whoever is told of the copy reads it
  }
#endif
  std::memcpy(to, from, size);
}

}  // namespace halfmoon::transfer
