// SPDX-License-Identifier: Apache-2.0
// A model out of its cache: first what would go, then the deed. What another model, or another
// version of the same, still uses stays.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "hub/environment.h"
#include "hub/hub.h"

namespace halfmoon::hub {

struct Removal {
  HubKind hub = HubKind::kHuggingFace;
  std::vector<std::string> models;              ///< names of what goes
  std::vector<std::filesystem::path> links;     ///< go first, so that nothing leads nowhere
  std::vector<std::filesystem::path> folders;   ///< go whole; links in them are not followed
  std::vector<std::filesystem::path> contents;  ///< files that nothing refers to afterwards
  uint64_t freed_bytes = 0;   ///< what has another name on the disk is not counted
  uint64_t shared_bytes = 0;  ///< in the store that Hugging Face's tools share between repositories
};

/// A name without revision and quant means everything of that repository. Errors: kNotFound;
/// kInvalidArgument where several caches have it and `hub` does not choose.
Result<Removal> PlanRemoval(const Environment& environment, const ModelName& name,
                            std::optional<HubKind> hub);

/// Errors: kIo naming what could not be removed; what went before it is gone.
Status Remove(const Removal& removal);

}  // namespace halfmoon::hub
