// SPDX-License-Identifier: Apache-2.0
#include "hub/content.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace halfmoon::hub {
namespace {

constexpr size_t kReadBytes = 1 << 20;

}  // namespace

Error ErrnoError(const std::filesystem::path& path, std::string_view what) {
  const ErrorCode code = errno == ENOSPC || errno == EDQUOT ? ErrorCode::kResourceExhausted
                         : errno == ENOENT                  ? ErrorCode::kNotFound
                                                            : ErrorCode::kIo;
  return Error(code, path.string() + ": " + std::string(what) + ": " + std::strerror(errno));
}

Result<Content> Content::Start(const RemoteFile* expected) {
  Content content(expected);
  HM_TRY(content.Reset());
  return content;
}

Status Content::Reset() {
  size_ = 0;
  digest_.reset();
  if (!expected_->sha256.empty()) {
    HM_ASSIGN(digest_, net::Digest::Start(net::DigestKind::kSha256));
  } else if (!expected_->git_sha1.empty() && expected_->size_bytes) {
    HM_ASSIGN(digest_, net::Digest::Start(net::DigestKind::kSha1));
    const std::string head = "blob " + std::to_string(*expected_->size_bytes);
    digest_->Update({head.c_str(), head.size() + 1});  // git counts the NUL in
  }
  return {};
}

void Content::Append(std::string_view bytes) {
  size_ += bytes.size();
  if (digest_) digest_->Update(bytes);
}

Status Content::AppendFile(int fd, const std::filesystem::path& path,
                           const std::function<bool(uint64_t size)>& progress) {
  std::string buffer(kReadBytes, '\0');
  for (;;) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(size_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(path, "cannot read");
    if (got == 0) return {};
    Append({buffer.data(), static_cast<size_t>(got)});
    if (progress && !progress(size_)) return Error(ErrorCode::kCancelled, "interrupted");
  }
}

Status Content::Check() {
  if (expected_->size_bytes && size_ != *expected_->size_bytes) {
    return Error(ErrorCode::kCorrupt, "expected " + std::to_string(*expected_->size_bytes) +
                                          " bytes, found " + std::to_string(size_));
  }
  if (!digest_) return {};
  const bool sha256 = !expected_->sha256.empty();
  const std::string& wanted = sha256 ? expected_->sha256 : expected_->git_sha1;
  const std::string found = digest_->Finish();
  if (found == wanted) return {};
  return Error(ErrorCode::kCorrupt, std::string(sha256 ? "sha256" : "git sha1") + " expected " +
                                        wanted + ", found " + found);
}

}  // namespace halfmoon::hub
