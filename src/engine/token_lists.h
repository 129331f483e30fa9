// SPDX-License-Identifier: Apache-2.0
// IDS.json: prompts as lists of token ids (docs/formats/ids_json.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::engine {

/// Parses [[1, 2, 3], [4]]: a list of token-id lists, each not empty, ids in [0, vocab_size).
/// Errors: kInvalidArgument naming list and position.
Result<std::vector<std::vector<int32_t>>> ParseTokenLists(std::string_view text,
                                                          int64_t vocab_size);

/// The same from a file of at most 256 MiB; errors name it.
Result<std::vector<std::vector<int32_t>>> ReadTokenLists(const std::filesystem::path& path,
                                                         int64_t vocab_size);

}  // namespace halfmoon::engine
