// SPDX-License-Identifier: Apache-2.0
#include "hub/download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

#include "hub/content.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

// An attempt that brought at least so much new is no failure in a row, so the number of attempts is
// bounded by the size of the file.
constexpr uint64_t kProgressBytes = 1 << 20;

class File {
 public:
  File(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

  Status CheckRegular(const fs::path& path) const {
    struct stat info{};
    if (::fstat(fd_, &info) != 0) return ErrnoError(path, "cannot stat");
    if (S_ISREG(info.st_mode)) return {};
    return Error(ErrorCode::kIo, path.string() + ": not a regular file");
  }

 private:
  const int fd_;
};

/// "bytes 5-99/100": first byte and whole size.
struct ContentRange {
  uint64_t begin = 0;
  std::optional<uint64_t> total;
};

std::optional<ContentRange> ParseContentRange(const net::Headers& headers) {
  const auto field = headers.Find("Content-Range");
  if (!field || !field->starts_with("bytes ")) return std::nullopt;
  const char* const end = field->data() + field->size();
  ContentRange range;
  const auto first = std::from_chars(field->data() + 6, end, range.begin);
  const size_t slash = field->find('/');
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return std::nullopt;
  if (slash == std::string_view::npos) return std::nullopt;
  uint64_t total = 0;
  const auto last = std::from_chars(field->data() + slash + 1, end, total);
  if (last.ec == std::errc() && last.ptr == end) range.total = total;
  return range;
}

std::function<bool(uint64_t)> Checking(const FileProgress& progress) {
  if (!progress) return {};
  return [&progress](uint64_t size) { return progress(Doing::kChecking, size); };
}

/// One download under way, into an open file.
class Transfer {
 public:
  Transfer(Fetcher* fetcher, const DownloadTask& task, const FileProgress& progress, int fd,
           Content content)
      : fetcher_(fetcher),
        task_(task),
        progress_(progress),
        fd_(fd),
        expected_bytes_(*task.file.size_bytes),
        content_(std::move(content)) {}

  /// Until the file is whole and right.
  Status Run(const StatusError& status_error) {
    HM_TRY(content_.AppendFile(fd_, task_.incomplete, Checking(progress_)));
    bool resumed = content_.size() > 0;  // Part of it is from an earlier run.
    if (content_.size() > expected_bytes_) HM_TRY(Restart());
    reached_ = content_.size();
    Backoff backoff(&fetcher_->options(), fetcher_->options().max_attempts);
    for (;;) {
      if (content_.size() == expected_bytes_) {
        Status whole = content_.Check();
        if (whole.ok() || !resumed) return whole;
        // What an earlier run left may be at fault: once more from the beginning.
        HM_TRY(Restart());
        resumed = false;
      }
      HM_TRY(Attempt(status_error, &backoff));
    }
  }

 private:
  /// Asks for the rest. An error ends the download; otherwise as much arrived as did.
  Status Attempt(const StatusError& status_error, Backoff* backoff) {
    failure_.reset();
    FetchTarget target = task_.target;
    target.begin_byte = content_.size();
    const Result<FetchAnswer> answer = fetcher_->Stream(
        target, [this](const FetchAnswer& head) { return OnHead(head); },
        [this](std::string_view bytes) { return OnBody(bytes); });
    if (failure_) return *failure_;
    if (content_.size() == expected_bytes_) return {};
    if (content_.size() >= reached_ + kProgressBytes) backoff->Progress();
    reached_ = std::max(reached_, content_.size());
    if (!answer.ok()) {
      if (!IsTransient(answer.error())) return answer.error();
      return backoff->Wait(answer.error(), std::nullopt);
    }
    if (answer->status == 416 || misplaced_) {
      // What is here is not the beginning of what the server has.
      misplaced_ = false;
      HM_TRY(Restart());
      return backoff->Wait(Error(ErrorCode::kUnavailable, "the server does not go on at byte " +
                                                              std::to_string(target.begin_byte)),
                           std::nullopt);
    }
    if (answer->status == 200 || answer->status == 206) {
      return backoff->Wait(
          Error(ErrorCode::kCorrupt, "expected " + std::to_string(expected_bytes_) +
                                         " bytes, found " + std::to_string(content_.size())),
          std::nullopt);
    }
    if (!IsTransient(answer->status)) return status_error(*answer);
    return backoff->Wait(Error(ErrorCode::kUnavailable,
                               "the hub answers with status " + std::to_string(answer->status)),
                         RetryAfter(answer->headers));
  }

  bool Fail(Error error) {
    failure_ = std::move(error);
    return false;
  }

  Status Restart() {
    if (::ftruncate(fd_, 0) != 0) return ErrnoError(task_.incomplete, "cannot empty");
    HM_TRY(content_.Reset());
    return Report();
  }

  Status Report() {
    if (!progress_ || progress_(Doing::kFetching, content_.size())) return {};
    return Error(ErrorCode::kCancelled, "interrupted");
  }

  /// What the hub says of the file now has to be what its list said.
  bool CheckHub(const FetchAnswer& head) {
    const auto size = head.first_headers.Find("X-Linked-Size");
    if (size && *size != std::to_string(expected_bytes_)) {
      return Fail(Error(ErrorCode::kCorrupt, "the hub's list says " +
                                                 std::to_string(expected_bytes_) +
                                                 " bytes, its answer " + OneLine(*size)));
    }
    const std::string etag = EntityTag(head.first_headers, "X-Linked-Etag");
    if (IsHex(etag, 64) && !task_.file.sha256.empty() && etag != task_.file.sha256) {
      return Fail(Error(ErrorCode::kCorrupt, "the hub's list says sha256 " + task_.file.sha256 +
                                                 ", its answer " + etag));
    }
    return true;
  }

  bool OnHead(const FetchAnswer& head) {
    if (head.status != 200 && head.status != 206) return false;
    if (!CheckHub(head)) return false;
    if (head.status == 200) {
      if (content_.size() == 0) return true;
      const Status restarted = Restart();  // The server sends the whole file again.
      return restarted.ok() || Fail(restarted.error());
    }
    const auto range = ParseContentRange(head.headers);
    misplaced_ = !range || range->begin != content_.size() ||
                 (range->total && *range->total != expected_bytes_);
    return !misplaced_;
  }

  bool OnBody(std::string_view bytes) {
    if (bytes.size() > expected_bytes_ - content_.size()) {
      return Fail(Error(ErrorCode::kCorrupt, "the server sends more than the " +
                                                 std::to_string(expected_bytes_) +
                                                 " bytes of the hub's list"));
    }
    for (std::string_view rest = bytes; !rest.empty();) {
      const ssize_t put =
          ::pwrite(fd_, rest.data(), rest.size(),
                   static_cast<off_t>(content_.size() + (bytes.size() - rest.size())));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Fail(ErrnoError(task_.incomplete, "cannot write"));
      rest.remove_prefix(static_cast<size_t>(put));
    }
    content_.Append(bytes);
    const Status reported = Report();
    return reported.ok() || Fail(reported.error());
  }

  Fetcher* const fetcher_;
  const DownloadTask& task_;
  const FileProgress& progress_;
  const int fd_;
  const uint64_t expected_bytes_;
  Content content_;
  uint64_t reached_ = 0;    // The most that was here.
  bool misplaced_ = false;  // The server sent another part than the one asked for.
  std::optional<Error> failure_;
};

/// Makes the destination, or what is to be checked and renamed, from a file of another cache.
/// kDone: the destination is there.
enum class Candidate { kNone, kCopied, kDone };

Result<Candidate> UseCandidate(const DownloadTask& task, const FileProgress& progress) {
  for (const fs::path& path : task.candidates) {
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    if (error) continue;
    const Status same = VerifyFile(real, task.file, progress);
    if (!same.ok() && same.error().code() == ErrorCode::kCancelled) return same.error();
    if (!same.ok()) continue;
    // A second name costs nothing; where the file system or the owner does not allow one, a copy.
    const std::string temporary = task.destination.string() + ".link";
    ::unlink(temporary.c_str());
    if (::link(real.c_str(), temporary.c_str()) == 0) {
      if (::rename(temporary.c_str(), task.destination.c_str()) == 0) return Candidate::kDone;
      ::unlink(temporary.c_str());
    }
    fs::remove(task.incomplete, error);
    fs::copy_file(real, task.incomplete, error);
    if (!error) return Candidate::kCopied;
    fs::remove(task.incomplete, error);
  }
  return Candidate::kNone;
}

}  // namespace

Status VerifyFile(const fs::path& path, const RemoteFile& expected, const FileProgress& progress) {
  const File file(path, O_RDONLY);
  if (file.fd() < 0) return ErrnoError(path, "cannot open");
  HM_TRY(file.CheckRegular(path));
  HM_ASSIGN(Content content, Content::Start(&expected));
  HM_TRY(content.AppendFile(file.fd(), path, Checking(progress)));
  return content.Check().WithContext(path.string());
}

Status VerifyContent(std::string_view bytes, const RemoteFile& expected) {
  HM_ASSIGN(Content content, Content::Start(&expected));
  content.Append(bytes);
  return content.Check();
}

Status Download(Fetcher* fetcher, const DownloadTask& task, const StatusError& status_error,
                const FileProgress& progress) {
  HM_CHECK(task.file.size_bytes.has_value(), task.name);
  HM_ASSIGN(const Candidate candidate, UseCandidate(task, progress));
  if (candidate == Candidate::kDone) return {};
  // Never through a link: what is written here is an outsider's choice.
  const File file(task.incomplete, O_RDWR | O_CREAT | O_NOFOLLOW);
  if (file.fd() < 0) return ErrnoError(task.incomplete, "cannot open");
  HM_TRY(file.CheckRegular(task.incomplete));
  HM_ASSIGN(Content content, Content::Start(&task.file));
  Transfer transfer(fetcher, task, progress, file.fd(), std::move(content));
  Status done = transfer.Run(status_error);
  if (!done.ok()) {
    struct stat now{};
    const bool partial =
        ::fstat(file.fd(), &now) == 0 && static_cast<uint64_t>(now.st_size) < *task.file.size_bytes;
    // Cut short: to be gone on with. Whole and wrong: of no use to anyone.
    if (done.error().code() != ErrorCode::kCorrupt || partial) {
      return std::move(done).WithContext(task.name);
    }
    ::unlink(task.incomplete.c_str());
    return Error(ErrorCode::kCorrupt,
                 task.name + ": " + done.error().message() + "; the bad copy was removed");
  }
  if (::fsync(file.fd()) != 0) return ErrnoError(task.incomplete, "cannot sync");
  if (::rename(task.incomplete.c_str(), task.destination.c_str()) != 0) {
    return ErrnoError(task.destination, "cannot rename into place");
  }
  return {};
}

}  // namespace halfmoon::hub
