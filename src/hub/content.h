// SPDX-License-Identifier: Apache-2.0
// The content of a file as it grows, held to the size and digest that it should have in the end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "hub/hub.h"
#include "net/digest.h"

namespace halfmoon::hub {

/// Not thread-safe.
class Content {
 public:
  /// `expected` outlives it. Errors: kInternal where OpenSSL refuses the algorithm.
  static Result<Content> Start(const RemoteFile* expected);

  /// Nothing so far, as after Start.
  Status Reset();
  void Append(std::string_view bytes);
  /// What the open file holds beyond size(). `progress` sees size() now and then; false ends with
  /// kCancelled. Errors: kIo naming `path`.
  Status AppendFile(int fd, const std::filesystem::path& path,
                    const std::function<bool(uint64_t size)>& progress);

  uint64_t size() const { return size_; }

  /// Once; spends the digest. Errors: kCorrupt with expected and found.
  Status Check();

 private:
  explicit Content(const RemoteFile* expected) : expected_(expected) {}

  const RemoteFile* expected_;
  uint64_t size_ = 0;
  std::optional<net::Digest> digest_;
};

/// What errno says of `path`: kResourceExhausted for a full disk, kNotFound, else kIo.
Error ErrnoError(const std::filesystem::path& path, std::string_view what);

}  // namespace halfmoon::hub
