// SPDX-License-Identifier: Apache-2.0
// Files compressed with gzip.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon {

/// Whether the bytes start as gzip's do.
bool IsGzip(std::string_view bytes);

/// All members of a gzip file. Errors: kCorrupt where it is none, is cut short or fails its
/// checksum; kResourceExhausted where it grows beyond `max_bytes`.
Result<std::string> Gunzip(std::string_view bytes, size_t max_bytes);

}  // namespace halfmoon
