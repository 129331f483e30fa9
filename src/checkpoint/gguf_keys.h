// SPDX-License-Identifier: Apache-2.0
// A model's own metadata in a GGUF file, "<architecture>.<key>", read with bounds. For the
// translation to config.json only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "checkpoint/gguf.h"

namespace halfmoon::checkpoint {

/// Views `file`, which outlives it. Errors name the key: kCorrupt for a value that cannot be,
/// kUnsupported for one that no block here computes.
class GgufKeys {
 public:
  /// Above every real model; keeps products of two such numbers within int64.
  static constexpr int64_t kMaxCount = INT32_MAX;

  GgufKeys(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  /// The key as the file spells it.
  std::string Name(std::string_view key) const { return prefix_ + std::string(key); }

  /// A count in [1, high]. An array, one number a layer, passes where all are equal.
  Result<std::optional<int64_t>> FindCount(std::string_view key, int64_t high = kMaxCount) const;
  /// Absence is an error too.
  Result<int64_t> RequireCount(std::string_view key, int64_t high = kMaxCount) const;
  /// A count in [0, high]; absent: 0.
  Result<int64_t> CountOrZero(std::string_view key, int64_t high = kMaxCount) const;
  /// A finite number above zero.
  Result<std::optional<double>> FindPositive(std::string_view key) const;

  Result<std::optional<int64_t>> FindInt(std::string_view key) const {
    return file_.metadata.FindInt(Name(key));
  }
  Result<std::optional<double>> FindDouble(std::string_view key) const {
    return file_.metadata.FindDouble(Name(key));
  }
  Result<std::optional<bool>> FindBool(std::string_view key) const {
    return file_.metadata.FindBool(Name(key));
  }
  Result<std::optional<std::string_view>> FindString(std::string_view key) const {
    return file_.metadata.FindString(Name(key));
  }
  /// kUnsupported where the key is there with a value other than 0 (or false).
  Status RefuseIfSet(std::string_view key) const;

  /// nullptr where the file has no tensor of this name. Cost: linear in the tensors.
  const GgufTensor* FindTensor(std::string_view name) const;

  Error Bad(std::string_view key, std::string_view found) const;
  Error Unsupported(std::string_view key, std::string_view found, std::string_view known) const;

 private:
  const GgufFile& file_;
  std::string prefix_;
};

}  // namespace halfmoon::checkpoint
