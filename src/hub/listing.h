// SPDX-License-Identifier: Apache-2.0
// What hubs answer when asked for a repository, read into a Repository. Pure functions over bytes
// from outside; tests/fuzz/fuzz_hub.cc runs them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/hub.h"

namespace halfmoon::hub {

/// Files a repository may hold before its list is refused.
inline constexpr size_t kMaxFiles = 100'000;

/// Hugging Face, GET /api/models/ID/revision/REVISION?blobs=true: id, sha, gated, cardData,
/// siblings with rfilename, size, blobId and lfs. Errors: kCorrupt naming field or file; a hostile
/// file name fails the whole list.
Result<Repository> ParseHuggingFaceListing(std::string_view body);

/// ModelScope, GET /api/v1/models/ID/repo/files?Recursive=true: Data.Files with Path, Type, Size
/// and Sha256. `commit` of the result is `revision`. Errors: kCorrupt; kUnavailable with the hub's
/// message where it says that it failed.
Result<Repository> ParseModelScopeListing(std::string_view body, std::string_view id,
                                          std::string_view revision);

/// The files that model.safetensors.index.json names, sorted. Errors: kCorrupt.
Result<std::vector<std::string>> ParseShardIndex(std::string_view body);

/// The part of an Ollama manifest that matters here.
struct OllamaManifest {
  std::string model_sha256;  ///< of the GGUF file
  uint64_t model_bytes = 0;
  std::string license_sha256;  ///< of the licence text; empty where there is none
};

/// Errors: kCorrupt; kUnsupported where the model is not one GGUF file.
Result<OllamaManifest> ParseOllamaManifest(std::string_view body);

/// The sha256 of every file that an Ollama manifest names. Errors: kCorrupt.
Result<std::vector<std::string>> ParseOllamaDigests(std::string_view body);

}  // namespace halfmoon::hub
