// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cache_folder.h"

#include <cstdlib>

namespace halfmoon::app {

std::filesystem::path CacheFolder() {
  namespace fs = std::filesystem;
  // The specification has relative ones ignored.
  const auto absolute = [](const char* name) {
    const char* value = std::getenv(name);
    const fs::path path(value == nullptr ? "" : value);
    return path.is_absolute() ? path : fs::path();
  };
  if (const fs::path cache = absolute("XDG_CACHE_HOME"); !cache.empty()) return cache / "halfmoon";
  const fs::path home = absolute("HOME");
  return home.empty() ? fs::path() : home / ".cache" / "halfmoon";
}

}  // namespace halfmoon::app
