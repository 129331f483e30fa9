// SPDX-License-Identifier: Apache-2.0
// The digest of a checkpoint's content.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace halfmoon::checkpoint {

/// One weight file: everything before header_bytes is hashed whole, the rest in samples.
struct FingerprintFile {
  const MappedFile* file = nullptr;
  size_t header_bytes = 0;
};

/// XXH3-128 in hexadecimal over `config`, each file's size and header, and samples spread evenly
/// over all data. The same content gives the same digest on every machine, wherever it lies. Cost:
/// the headers and at most 2 MiB of data, however large the files.
std::string Fingerprint(std::string_view config, const std::vector<FingerprintFile>& files);

}  // namespace halfmoon::checkpoint
