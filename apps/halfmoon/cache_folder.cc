// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cache_folder.h"

#include <cstdlib>

namespace halfmoon::app {

std::filesystem::path CacheFolder() {
  namespace fs = std::filesystem;
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value == nullptr ? "" : value);
  };
  if (const fs::path cache = variable("XDG_CACHE_HOME"); !cache.empty()) return cache / "halfmoon";
  const fs::path home = variable("HOME");
  return (home.empty() ? fs::path("/") : home) / ".cache" / "halfmoon";
}

}  // namespace halfmoon::app
