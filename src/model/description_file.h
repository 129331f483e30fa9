// SPDX-License-Identifier: Apache-2.0
// Families described in a file instead of arch/<family>.cc: for checkpoints whose parts are all
// known but whose model_type is not (docs/formats/description.md).
#pragma once

#include <filesystem>

#include "base/json.h"
#include "base/result.h"
#include "model/description.h"

namespace halfmoon::model {

/// Describes the checkpoint with `config` by the file at `path`. Errors name the file and the
/// field: not a description, of another model_type, a part that is not known, a config key that is
/// missing or out of range.
Result<ModelDescription> DescribeByFile(const std::filesystem::path& path,
                                        const json::object& config);

/// The same for the file's text.
Result<ModelDescription> DescribeByText(std::string_view text, const json::object& config);

}  // namespace halfmoon::model
