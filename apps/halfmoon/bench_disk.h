// SPDX-License-Identifier: Apache-2.0
// How fast the disk gives back what it holds: the limit of models whose experts stay there.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace halfmoon::app {

struct DiskSpeed {
  double read_bytes_per_s = 0;
  size_t read_bytes = 0;  ///< what was read to find out
  std::string file;       ///< what was read, for people
  std::string method;     ///< FileReader::method(); through the page cache it is no disk's speed
};

/// Reads `model` in sequence, many reads in flight: a file, or the largest one in a folder and
/// those below it. Takes about a second. Errors: kNotFound, kIo naming the file, kInvalidArgument
/// where there is nothing to read.
Result<DiskSpeed> MeasureDisk(const std::filesystem::path& model);

/// The same on a file of random bytes that is written into `folder` and removed again; `folder` is
/// made if need be. Takes one or a few seconds more. Errors: kIo, kResourceExhausted where too
/// little is free.
Result<DiskSpeed> MeasureDiskOf(const std::filesystem::path& folder);

}  // namespace halfmoon::app
