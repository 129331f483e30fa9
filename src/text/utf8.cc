// SPDX-License-Identifier: Apache-2.0
#include "text/utf8.h"

#include <cstdint>

namespace halfmoon::text {
namespace {

struct Lead {
  size_t length;      // bytes of the whole character; 0: no character begins like this
  uint8_t low, high;  // bounds of the second byte
};

// Table 3-7 of the Unicode standard: the second byte's bounds rule out overlong forms, surrogates
// and what lies beyond U+10FFFF.
Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

size_t AppendUtf8(std::string_view bytes, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Lead lead = LeadOf(static_cast<uint8_t>(bytes[at]));
    size_t good = 1;
    while (good < lead.length && at + good < bytes.size()) {
      const uint8_t next = static_cast<uint8_t>(bytes[at + good]);
      const bool fits = good == 1 ? next >= lead.low && next <= lead.high : (next & 0xC0) == 0x80;
      if (!fits) break;
      ++good;
    }
    if (good == lead.length) {
      out->append(bytes.substr(at, good));
    } else if (lead.length != 0 && at + good == bytes.size()) {
      return good;
    } else {
      out->append(kReplacementCharacter);
    }
    at += good;
  }
  return 0;
}

}  // namespace halfmoon::text
