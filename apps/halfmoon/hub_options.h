// SPDX-License-Identifier: Apache-2.0
// The flag that chooses a hub or its cache.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/halfmoon/cli_app.h"
#include "hub/hub.h"

namespace halfmoon::app {

/// --hub with one of `names`.
void AddHubOption(CLI::App* command, std::string* hub, const std::vector<std::string>& names,
                  const std::string& help);

/// nullopt for a name that is none, also the empty one.
std::optional<hub::HubKind> HubNamed(const std::string& name);

}  // namespace halfmoon::app
