// SPDX-License-Identifier: Apache-2.0
// A model from a hub into its cache: first the plan, which says what it will cost, then the files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "hub/download.h"
#include "hub/environment.h"
#include "hub/fetcher.h"
#include "hub/hub.h"
#include "hub/hub_client.h"
#include "hub/license.h"
#include "hub/selection.h"

namespace halfmoon::hub {

struct PullOptions {
  HubKind hub = HubKind::kHuggingFace;  ///< or kModelScope
  FetchOptions fetch;
  /// Free bytes of the file system that holds an existing folder; empty asks the system.
  std::function<Result<uint64_t>(const std::filesystem::path& folder)> free_bytes;
};

enum class FileState {
  kPresent,    ///< in place already
  kElsewhere,  ///< another cache should have it; checked and linked instead of fetched
  kMissing,    ///< to be fetched, perhaps from where an earlier pull ended
};

struct PlannedFile {
  RemoteFile file;
  FileState state = FileState::kMissing;
  uint64_t resumed_bytes = 0;     ///< already here of a kMissing file
  std::filesystem::path content;  ///< where the content lies once it is here
  std::filesystem::path incomplete;
  std::filesystem::path lock;
  std::filesystem::path link;  ///< Hugging Face: below snapshots/; empty elsewhere
  std::vector<std::filesystem::path> candidates;
};

struct PullPlan {
  ModelName name;
  Repository repository;
  Selection selection;
  License license;
  std::filesystem::path snapshot;  ///< folder of the files
  std::filesystem::path model;  ///< what to open once all is here: `snapshot`, or a GGUF file in it
  std::vector<PlannedFile> files;
  uint64_t total_bytes = 0;
  uint64_t fetch_bytes = 0;   ///< that the network will bring
  uint64_t needed_bytes = 0;  ///< that the disk has to have free
  uint64_t free_bytes = 0;    ///< of the cache's file system
};

struct PullProgress {
  Doing doing = Doing::kFetching;
  std::string file;         ///< at hand
  uint64_t done_bytes = 0;  ///< of all files, what was here before counted in
  uint64_t total_bytes = 0;
};

/// Not thread-safe. Several pulls, also of several processes, may go on side by side.
class Puller {
 public:
  /// `environment` outlives it.
  Puller(const Environment* environment, PullOptions options);

  /// Asks the hub. Writes nothing. Errors: kUnavailable (offline mode, or as HubClient::List),
  /// kNotFound, kCorrupt, kUnsupported, kCancelled.
  Result<PullPlan> Plan(const ModelName& name);

  /// Brings what is missing and then makes the snapshot known under its revision. What breaks off
  /// is gone on with by the next pull. Errors: kResourceExhausted where the disk is too small,
  /// naming both sizes; as Download; kCancelled.
  Status Run(const PullPlan& plan, const std::function<void(const PullProgress&)>& progress);

 private:
  struct RunState;
  Result<License> FindLicense(const Repository& repository);
  Result<PlannedFile> PlanFile(const PullPlan& plan, RemoteFile file);
  Status FetchFile(const PullPlan& plan, const PlannedFile& file, RunState* state);
  Result<uint64_t> FreeBytes(const std::filesystem::path& folder) const;

  const Environment* const environment_;
  const PullOptions options_;
  HubClient client_;
};

}  // namespace halfmoon::hub
