// SPDX-License-Identifier: Apache-2.0
// Where halfmoon keeps what it can make again.
#pragma once

#include <filesystem>

namespace halfmoon::app {

/// $XDG_CACHE_HOME/halfmoon, or ~/.cache/halfmoon; empty where neither is set. Not made here.
std::filesystem::path CacheFolder();

}  // namespace halfmoon::app
