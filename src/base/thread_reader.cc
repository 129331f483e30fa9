// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "base/bounded_queue.h"
#include "base/file_reader_impl.h"

namespace halfmoon {
namespace {

// Each keeps one transfer in flight; disks reach their rate with about this many.
constexpr int kMaxThreads = 8;

/// Transfers by threads that call pread. They meet the caller in two bounded queues.
class ThreadReader final : public PieceReader {
 public:
  ThreadReader(ReadableFiles files, const FileReaderOptions& options)
      : PieceReader(std::move(files), options),
        work_(static_cast<size_t>(std::max(1, options.depth))),
        ended_(work_.capacity()) {
    const int count = std::clamp(options.depth, 1, kMaxThreads);
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { Run(); });
  }
  ThreadReader(const ThreadReader&) = delete;
  ThreadReader& operator=(const ThreadReader&) = delete;
  ~ThreadReader() override {
    WaitForTransfers();
    work_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

  std::string method() const override {
    return std::to_string(threads_.size()) + (files().all_direct()
                                                  ? " reader threads, direct I/O"
                                                  : " reader threads, through the page cache");
  }

 protected:
  void Start(size_t index, const ReadPiece& piece) override {
    const bool queued = work_.TryPush({.index = index, .piece = piece});
    HM_CHECK(queued, "more pieces in flight than the depth");
  }

  std::optional<PieceDone> Reap(bool wait) override {
    return wait ? ended_.Pop() : ended_.TryPop();
  }

 private:
  struct Work {
    size_t index = 0;
    ReadPiece piece;
  };

  void Run() {
    while (const std::optional<Work> work = work_.Pop()) {
      const ReadPiece& piece = work->piece;
      const ssize_t got = ::pread(files()[piece.file].fd, piece.into, piece.length,
                                  static_cast<off_t>(piece.offset));
      const bool queued =
          ended_.TryPush({.piece = work->index, .result = got < 0 ? -int64_t{errno} : got});
      HM_CHECK(queued, "more pieces in flight than the depth");
    }
  }

  BoundedQueue<Work> work_;
  BoundedQueue<PieceDone> ended_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<FileReader> NewThreadReader(ReadableFiles files, const FileReaderOptions& options) {
  return std::make_unique<ThreadReader>(std::move(files), options);
}

}  // namespace halfmoon
