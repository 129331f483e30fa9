// SPDX-License-Identifier: Apache-2.0
// hub: published models on this machine. It asks a hub (Hugging Face, ModelScope) what a repository
// holds, fetches files into that hub's own cache layout with their digests checked, and finds,
// lists and removes what the caches of Hugging Face, ModelScope and Ollama hold. It never looks
// into weights, and starts no threads.
//
// Names, sizes, digests and redirects come from servers that are not trusted: a name that leaves
// its folder is refused, a token never goes to another host, a file counts only when its digest is
// right. docs/hub.md tells users what is read and written where.
//
// This file: what every part of the area speaks of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::hub {

/// kOllama is a cache only: nothing is fetched from its registry.
enum class HubKind { kHuggingFace, kModelScope, kOllama };

/// "huggingface", "modelscope", "ollama".
std::string_view HubKindName(HubKind kind);

/// `org/name[@revision][:quant]` taken apart.
struct ModelName {
  std::string id;        ///< "org/name", or "name" for the few without an organisation
  std::string revision;  ///< branch, tag or commit; empty: the hub's default
  std::string quant;     ///< which GGUF file: "Q4_K_M", a file's name; empty: the only or usual one

  /// Errors: kInvalidArgument saying what is wrong.
  static Result<ModelName> Parse(std::string_view text);
  std::string ToString() const;
};

/// One file of a repository, as a hub lists it. `path` has passed CheckRelativePath.
struct RemoteFile {
  std::string path;  ///< relative, '/' between parts
  std::optional<uint64_t> size_bytes;
  std::string sha256;    ///< 64 lowercase hexadecimal digits; empty where the hub gives none
  std::string git_sha1;  ///< 40 digits, of files that are not in LFS; empty elsewhere

  bool has_digest() const { return !sha256.empty() || !git_sha1.empty(); }
};

/// What a hub says of a repository at a revision.
struct Repository {
  std::string id;
  std::string commit;  ///< Hugging Face: 40 digits. ModelScope: the revision asked for.
  std::string license;
  std::string license_link;
  bool gated = false;
  std::vector<RemoteFile> files;  ///< paths are distinct
};

/// True where `text` consists of `count` lowercase or uppercase hexadecimal digits.
bool IsHex(std::string_view text, size_t count);

/// A path from outside that may be used below a folder: relative, no empty, "." or ".." parts, no
/// backslash, no control characters, at most 1024 bytes and 255 a part. Errors: kCorrupt naming it.
Status CheckRelativePath(std::string_view path);

/// Text from outside for one line of a terminal or of JSON: UTF-8 of at most `max_bytes`, control
/// characters (also those of C1) left out, '?' for bytes that are no character.
std::string OneLine(std::string_view text, size_t max_bytes = 200);

/// "1.2 GiB", "17 MiB", "900 B".
std::string SizeText(uint64_t bytes);

}  // namespace halfmoon::hub
