// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_disk.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/clock.h"
#include "base/file_reader.h"
#include "tensor/tensor.h"

namespace halfmoon::app {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 20;  // of one request
constexpr int kInFlight = 16;                   // disks behind a network want as many
constexpr size_t kMostBytes = size_t{1} << 30;
constexpr size_t kFileBytes = size_t{256} << 20;
constexpr TimeUs kMostUs = 1'000'000;

Error SystemError(const fs::path& path, const std::string& what) {
  return Error(ErrorCode::kIo, path.string() + ": " + what + ": " + std::strerror(errno));
}

Result<fs::path> LargestFile(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  fs::path largest;
  uintmax_t largest_bytes = 0;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (!it->is_regular_file(ignored)) continue;
    const uintmax_t bytes = it->file_size(ignored);
    if (ignored || bytes <= largest_bytes) continue;
    largest = it->path();
    largest_bytes = bytes;
  }
  if (error) return Error(ErrorCode::kIo, path.string() + ": " + error.message());
  if (largest.empty()) {
    return Error(ErrorCode::kInvalidArgument, path.string() + ": holds no file to read");
  }
  return largest;
}

/// A file that goes with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const fs::path& folder) : path_((folder / "disk-XXXXXX").string()) {
    fd_ = ::mkostemp(path_.data(), O_CLOEXEC);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(path_.c_str());
  }

  int fd() const { return fd_; }  ///< negative: it could not be made
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_;
};

Status WriteRandomBytes(const TemporaryFile& file) {
  // Neither zeros nor equal blocks: some file systems compress, and store what repeats once.
  std::vector<uint64_t> block(kReadBytes / sizeof(uint64_t));
  std::mt19937_64 random(1);
  for (size_t written = 0; written < kFileBytes; written += kReadBytes) {
    for (uint64_t& word : block) word = random();
    const ssize_t count = ::write(file.fd(), block.data(), kReadBytes);
    if (count != static_cast<ssize_t>(kReadBytes)) return SystemError(file.path(), "cannot write");
  }
  if (::fsync(file.fd()) != 0) return SystemError(file.path(), "cannot write");
  return {};
}

}  // namespace

Result<DiskSpeed> MeasureDisk(const fs::path& model) {
  HM_ASSIGN(const fs::path file, LargestFile(model));
  std::error_code error;
  const uintmax_t size = fs::file_size(file, error);
  if (error) return Error(ErrorCode::kNotFound, file.string() + ": " + error.message());
  // Whole requests only, so that each takes the same way.
  const size_t wanted = std::min<uintmax_t>(size, kMostBytes) / kReadBytes * kReadBytes;
  if (wanted == 0) {
    return Error(ErrorCode::kInvalidArgument, file.string() + ": too small to measure a disk with");
  }
  FileReaderOptions options;
  options.depth = kInFlight;
  options.piece_bytes = kReadBytes;
  HM_ASSIGN(const std::unique_ptr<FileReader> reader, OpenFileReader({&file, 1}, options));
  tensor::AlignedBuffer buffers(kReadBytes * kInFlight + FileReader::kAlignment);
  const auto address = reinterpret_cast<uintptr_t>(buffers.data());
  std::byte* const first =
      buffers.data() + (FileReader::kAlignment - address) % FileReader::kAlignment;
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  size_t submitted = 0;
  size_t done = 0;
  const auto submit = [&](uint64_t slot) {
    reader->Submit({.tag = slot,
                    .offset = submitted,
                    .size_bytes = kReadBytes,
                    .buffer = first + slot * kReadBytes});
    submitted += kReadBytes;
  };
  for (uint64_t slot = 0; slot < kInFlight && submitted < wanted; ++slot) submit(slot);
  while (reader->pending() > 0) {
    const FileReadDone read = reader->Next();
    HM_TRY(read.status);
    done += kReadBytes;
    if (submitted < wanted && clock.NowUs() - begin < kMostUs) submit(read.tag);
  }
  const auto seconds = static_cast<double>(std::max<TimeUs>(1, clock.NowUs() - begin)) * 1e-6;
  return DiskSpeed{.read_bytes_per_s = static_cast<double>(done) / seconds,
                   .read_bytes = done,
                   .file = file.string(),
                   .method = reader->method()};
}

Result<DiskSpeed> MeasureDiskOf(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Error(ErrorCode::kIo, folder.string() + ": " + error.message());
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < 2 * kFileBytes) {
    return Error(ErrorCode::kResourceExhausted,
                 folder.string() + ": too little is free to measure the disk with a file");
  }
  const TemporaryFile file(folder);
  if (file.fd() < 0) return SystemError(folder, "cannot make a file");
  HM_TRY(WriteRandomBytes(file));
  HM_ASSIGN(DiskSpeed speed, MeasureDisk(file.path()));
  speed.file = "a file in " + folder.string();
  return speed;
}

}  // namespace halfmoon::app
