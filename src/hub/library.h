// SPDX-License-Identifier: Apache-2.0
// Models that the caches on this machine hold, whoever put them there: Hugging Face, ModelScope and
// Ollama. Reads directories and small files; changes nothing, asks nobody.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/environment.h"
#include "hub/hub.h"
#include "hub/license.h"

namespace halfmoon::hub {

/// One version of a repository in a cache: a folder of files.
struct Snapshot {
  HubKind hub = HubKind::kHuggingFace;  ///< or kModelScope
  std::string id;
  std::string revision;  ///< Hugging Face: the commit. ModelScope: what was asked for, or empty.
  std::vector<std::string> refs;  ///< Hugging Face: branches and tags that lead to it
  std::filesystem::path folder;
  bool is_default = false;  ///< the id alone leads here
};

/// A model that can be opened, or could if it were complete.
struct CachedModel {
  ModelName name;  ///< what `-m` takes; a revision only where the id alone leads elsewhere
  HubKind hub = HubKind::kHuggingFace;
  std::string revision;              ///< as Snapshot's; Ollama: the tag
  std::string format;                ///< "safetensors", "gguf"; empty where nothing has arrived yet
  std::string stem;                  ///< of GGUF: the file's path in the folder without its ending
  std::filesystem::path path;        ///< what to open: a folder or a GGUF file
  std::filesystem::path folder;      ///< of its snapshot; Ollama: of its manifest
  std::vector<std::string> weights;  ///< files of weights, relative to `folder`; Ollama: empty
  std::filesystem::path license_text;  ///< Ollama: a text beside the weights; may be empty
  uint64_t size_bytes = 0;             ///< of the weights that are here
  std::string missing;                 ///< empty: complete. Else what is not here.
};

/// Paths of all files below `folder`, relative, '/' between parts, sorted; links that lead nowhere
/// are left out. At most kMaxFiles.
std::vector<std::string> FilesBelow(const std::filesystem::path& folder);

/// All versions of a repository in the cache of that hub, the default first. kOllama has none.
std::vector<Snapshot> SnapshotsOf(const Environment& environment, HubKind hub, std::string_view id);

/// The models in one snapshot.
std::vector<CachedModel> ModelsIn(const Snapshot& snapshot);

/// Everything that a cache holds of one repository; also what a pull has begun.
std::vector<CachedModel> ModelsOf(const Environment& environment, HubKind hub, std::string_view id);

/// Every model of every cache, by hub and name.
std::vector<CachedModel> ListModels(const Environment& environment);

/// The model that a name leads to; `hub` narrows it to one cache. Without a quant it is the
/// safetensors, else the usual GGUF file; without a revision what the hub's own tools would open.
/// Errors: kNotFound naming the command that fetches it; kUnavailable where it is here in part.
Result<CachedModel> FindModel(const Environment& environment, const ModelName& name,
                              std::optional<HubKind> hub);

/// What lies beside the weights says of their licence.
License LicenseOf(const CachedModel& model);

/// Files of other caches, or other places of this one, that should have this content: by digest
/// where they are named so, else by name and size. To be verified before use. Requires a sha256.
std::vector<std::filesystem::path> FindContent(const Environment& environment, std::string_view id,
                                               const RemoteFile& file);

}  // namespace halfmoon::hub
