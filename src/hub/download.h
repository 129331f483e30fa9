// SPDX-License-Identifier: Apache-2.0
// One file from a hub to its place: resumed where an earlier try ended, checked, then renamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/fetcher.h"
#include "hub/hub.h"

namespace halfmoon::hub {

enum class Doing { kChecking, kFetching, kWaiting };

/// Bytes of a file that are here or were checked; goes back where a server does not resume. False
/// ends what is under way with kCancelled.
using FileProgress = std::function<bool(Doing doing, uint64_t done_bytes)>;
/// An error for a status that is neither success nor transient.
using StatusError = std::function<Error(const FetchAnswer& answer)>;

struct DownloadTask {
  std::string name;  ///< for messages: "org/name: model.safetensors"
  FetchTarget target;
  RemoteFile file;                    ///< its size has to be known
  std::filesystem::path incomplete;   ///< what has arrived; kept when the download breaks off
  std::filesystem::path destination;  ///< same file system; appears complete or not at all
  /// Files of other caches that may have this content. Only for files with a digest.
  std::vector<std::filesystem::path> candidates;
};

/// Links or copies a candidate that has the right digest, else fetches. Folders of both paths have
/// to exist, and the caller keeps others from the same task (FileLock). Errors: kCorrupt naming
/// file, expected and found digest or size (what was wrong is removed); kResourceExhausted when the
/// disk is full; kIo; kCancelled; those of `status_error` and Fetcher.
Status Download(Fetcher* fetcher, const DownloadTask& task, const StatusError& status_error,
                const FileProgress& progress);

/// Holds a file to size and digest. Errors: kCorrupt with expected and found; kNotFound, kIo;
/// kCancelled.
Status VerifyFile(const std::filesystem::path& path, const RemoteFile& expected,
                  const FileProgress& progress);

/// As VerifyFile, for content in memory.
Status VerifyContent(std::string_view content, const RemoteFile& expected);

}  // namespace halfmoon::hub
