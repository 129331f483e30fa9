// SPDX-License-Identifier: Apache-2.0
// What a peer needs to read a segment, and its text form (docs/formats/transfer.md).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "transfer/transfer.h"

namespace halfmoon::transfer {

/// Whoever has it may read the segment.
using Secret = std::array<char, 16>;

/// From the system's generator. Errors: kIo.
Result<Secret> RandomSecret();

std::string HexOf(std::string_view bytes);

struct Descriptor {
  static constexpr size_t kMaxTextBytes = 8192;

  uint64_t segment = 0;
  uint64_t size_bytes = 0;
  Secret secret = {};
  /// Address by PathKind; empty: that path does not lead there.
  std::array<std::string, kNumPaths> addresses;

  const std::string& address(PathKind kind) const { return addresses[static_cast<size_t>(kind)]; }
  std::string Format() const;
  /// Errors: kInvalidArgument naming the field. A path that this build does not know is left out.
  static Result<Descriptor> Parse(std::string_view text);
  bool operator==(const Descriptor&) const = default;
};

}  // namespace halfmoon::transfer
