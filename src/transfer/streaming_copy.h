// SPDX-License-Identifier: Apache-2.0
// A copy that goes around the caches, for what is larger than they are.
#pragma once

#include <cstddef>

namespace halfmoon::transfer {

/// Copies `size` bytes; the two must not overlap. Large copies are stored without being read first
/// and without displacing what the engine has in its caches; memcpy does so only from about the
/// size of the last-level cache on, more than a slice.
void StreamingCopy(std::byte* to, const std::byte* from, size_t size);

}  // namespace halfmoon::transfer
