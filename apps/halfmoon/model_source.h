// SPDX-License-Identifier: Apache-2.0
// Where the model that -m names lies: a path, or a name that the caches of hubs know.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "hub/license.h"

namespace halfmoon::app {

struct ModelSource {
  std::filesystem::path path;
  std::string name;      ///< what clients call the model: the name, or the file's or folder's
  hub::License license;  ///< what lies beside the weights says; the weights may say it themselves
};

/// A path that exists wins. Fetches nothing. Errors: kNotFound, for a name with the command that
/// fetches it; kUnavailable for a model that is here in part; kInvalidArgument.
Result<ModelSource> FindModelSource(const std::string& model);

}  // namespace halfmoon::app
