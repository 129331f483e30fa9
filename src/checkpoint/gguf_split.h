// SPDX-License-Identifier: Apache-2.0
// Names of the parts of a split GGUF file: "NAME-00002-of-00005.gguf".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace halfmoon::checkpoint {

struct SplitName {
  std::string stem;    ///< NAME
  int64_t number = 0;  ///< of this part, from 1
  int64_t count = 0;   ///< of the parts

  /// The file name of part `index`, from 0.
  std::string PartName(int64_t index) const;
};

/// Takes a file name apart; nullopt where it is not that of a part.
std::optional<SplitName> ParseSplitName(std::string_view file_name);

/// Five digits, or more.
std::string SplitNumber(int64_t number);

}  // namespace halfmoon::checkpoint
