// SPDX-License-Identifier: Apache-2.0
// Memory near the threads that read it.
#pragma once

#include <cstddef>
#include <span>

namespace halfmoon {

/// Asks that pages of `bytes` which nobody has touched yet come from the NUMA node `node`, and from
/// others when it is full. Pages that reach beyond `bytes` are left alone: parts of one buffer can
/// be placed one after the other. False where the system refuses (containers may not, machines may
/// have no such node); pages then come from wherever they are first touched, as they do for node
/// < 0. For memory that maps a file it has no effect: the page cache decides. Thread-safe.
bool PlaceOnNode(std::span<const std::byte> bytes, int node);

}  // namespace halfmoon
