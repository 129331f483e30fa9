// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/hub_options.h"

#include <CLI/CLI.hpp>

namespace halfmoon::app {

void AddHubOption(CLI::App* command, std::string* hub, const std::vector<std::string>& names,
                  const std::string& help) {
  command->add_option("--hub", *hub, help)->check(CLI::IsMember(names));
}

std::optional<hub::HubKind> HubNamed(const std::string& name) {
  for (const hub::HubKind kind :
       {hub::HubKind::kHuggingFace, hub::HubKind::kModelScope, hub::HubKind::kOllama}) {
    if (name == hub::HubKindName(kind)) return kind;
  }
  return std::nullopt;
}

}  // namespace halfmoon::app
