// SPDX-License-Identifier: Apache-2.0
// What Hugging Face and ModelScope are asked, and what their answers mean to a person.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "hub/environment.h"
#include "hub/fetcher.h"
#include "hub/hub.h"

namespace halfmoon::hub {

/// Not thread-safe.
class HubClient {
 public:
  /// `environment` outlives it. Requires a hub other than kOllama.
  HubClient(const Environment* environment, HubKind hub, FetchOptions options);

  /// The revision that a name means: its own, or the hub's default.
  std::string RevisionOf(const ModelName& name) const;

  /// What the repository holds at that revision; its id is the one asked for. Errors: kUnavailable
  /// (no access, with what to do about it; the hub is down), kNotFound, kCorrupt, kUnsupported.
  Result<Repository> List(const ModelName& name);

  /// Fills in size and digest from the hub's headers where its list left them out. Errors: as List;
  /// kCorrupt where the hub does not say them at all.
  Status Complete(const Repository& repository, RemoteFile* file);

  /// A file of at most 64 MiB, held to its digest. Errors: as List.
  Result<std::string> ReadSmall(const Repository& repository, const RemoteFile& file);

  FetchTarget TargetOf(const Repository& repository, std::string_view path) const;
  /// `what` names the repository or file that was asked for.
  Error StatusError(const std::string& what, const FetchAnswer& answer) const;
  Fetcher& fetcher() { return fetcher_; }

 private:
  FetchTarget Target(const std::string& path) const;
  Result<std::string> GetText(const std::string& what, const FetchTarget& target);

  const Environment* const environment_;
  const HubKind hub_;
  Fetcher fetcher_;
};

}  // namespace halfmoon::hub
