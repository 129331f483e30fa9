// SPDX-License-Identifier: Apache-2.0
// Where a repository lies in the cache of its hub (docs/hub.md has the trees). Paths only; nothing
// here touches the disk unless it says so.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/environment.h"
#include "hub/hub.h"

namespace halfmoon::hub {

/// What a hub takes where no revision is named.
inline constexpr std::string_view kHuggingFaceRevision = "main";
inline constexpr std::string_view kModelScopeRevision = "master";

/// models--ORG--NAME below the Hugging Face cache: blobs/DIGEST, refs/REVISION (a commit), and
/// snapshots/COMMIT/PATH, each a relative link to its blob.
class HuggingFaceFolder {
 public:
  HuggingFaceFolder(const Environment& environment, std::string_view id);

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path blobs() const { return root_ / "blobs"; }
  std::filesystem::path snapshots() const { return root_ / "snapshots"; }
  std::filesystem::path refs() const { return root_ / "refs"; }
  /// What the hub's Python library calls it as well.
  std::filesystem::path Lock(std::string_view blob) const;
  std::filesystem::path locks() const;

  /// The commit that refs/REVISION holds, or REVISION itself if it is a commit that is here; empty
  /// where neither is so. Reads the disk.
  std::string CommitOf(std::string_view revision) const;

 private:
  std::filesystem::path cache_;
  std::filesystem::path root_;
};

/// "models--ORG--NAME" read backwards; empty where `folder` is none of these.
std::string IdOfHuggingFaceFolder(std::string_view folder);

/// models/ORG--NAME below the ModelScope cache: snapshots/REVISION/PATH, plain files.
class ModelScopeFolder {
 public:
  ModelScopeFolder(const Environment& environment, std::string_view id);

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path snapshots() const { return root_ / "snapshots"; }
  /// Lock of one file, as the hub's Python library names it. Errors: kInternal.
  Result<std::filesystem::path> Lock(std::string_view path) const;
  /// Where earlier versions of that library put the same repository; newest first.
  std::vector<std::filesystem::path> OlderPlaces() const;

 private:
  std::filesystem::path cache_;
  std::filesystem::path root_;
  std::string id_;
};

/// Names of the repositories in the ModelScope cache, of this layout and of older ones. Reads the
/// disk.
std::vector<std::string> ModelScopeIds(const Environment& environment);

/// Makes `link` a symbolic link to `blob`, relative, so that the cache may move. Makes the folders
/// between `below` and `link`, none of which may be a link itself. Errors: kIo; kCorrupt where a
/// folder is a link.
Status LinkToBlob(const std::filesystem::path& blob, const std::filesystem::path& link,
                  const std::filesystem::path& below);

/// Makes the folders from `below` (made too) down to `folder`. Errors: as LinkToBlob.
Status MakeFolders(const std::filesystem::path& folder, const std::filesystem::path& below);

}  // namespace halfmoon::hub
