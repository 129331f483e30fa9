// SPDX-License-Identifier: Apache-2.0
// One read in progress: its ranges, cut into slices, and which of them are still missing.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/descriptor.h"
#include "transfer/event_loop.h"

namespace halfmoon::transfer {

/// What a path wants a slice to be at most.
struct SliceLimits {
  uint64_t bytes = 0;
  size_t pieces = 0;
};

/// Loop thread only; workers read pieces and write to targets while the job is pinned.
class Job {
 public:
  static constexpr size_t kMaxRanges = 1 << 20;
  static constexpr uint64_t kMaxBytes = uint64_t{1} << 40;

  struct Range {
    uint64_t offset = 0;
    std::span<std::byte> target;
    std::optional<uint64_t> checksum;
    uint64_t pieces_left = 0;
    bool read_again = false;  ///< its checksum was wrong once
  };
  struct JobPiece {
    uint64_t offset = 0;
    std::byte* target = nullptr;
    uint64_t length = 0;
    uint32_t range = 0;
  };
  struct Slice {
    size_t first_piece = 0;
    size_t num_pieces = 0;
    uint64_t bytes = 0;
  };

  Job(TransferId id, Descriptor descriptor, std::function<void(Status)> done)
      : id_(id), descriptor_(std::move(descriptor)), done_(std::move(done)) {}

  /// Errors: kInvalidArgument naming the range, kResourceExhausted.
  Status SetRanges(std::span<const ReadRange> ranges);
  /// Cuts what is missing into slices. Requires that none is on its way.
  void Cut(const SliceLimits& limits);
  /// The whole range is missing again. Requires that the job is not pinned.
  void ReadAgain(uint32_t range);

  TransferId id() const { return id_; }
  const Descriptor& descriptor() const { return descriptor_; }
  const Range& range(uint32_t index) const { return ranges_[index]; }
  size_t num_ranges() const { return ranges_.size(); }
  /// "range 3 (4096 bytes at 81920)".
  std::string NameOf(uint32_t range) const;

  bool has_missing() const { return !missing_.empty(); }
  size_t TakeSlice();
  void ReturnSlice(size_t slice) { missing_.push_front(slice); }
  const Slice& slice(size_t index) const { return slices_[index]; }
  std::span<const JobPiece> PiecesOf(size_t slice) const {
    return std::span(pieces_).subspan(slices_[slice].first_piece, slices_[slice].num_pieces);
  }
  /// Calls `whole(range)` for each range that is whole now.
  template <typename Callback>
  void Arrived(size_t slice, const Callback& whole) {
    for (const JobPiece& piece : PiecesOf(slice)) {
      if (--ranges_[piece.range].pieces_left == 0) whole(piece.range);
    }
  }

  // What the Reader keeps with it.
  enum class State { kRunning, kSwitching, kEnding };
  State state = State::kRunning;
  std::optional<Status> outcome;            ///< once ending
  std::optional<PathKind> path;             ///< the one in use
  std::array<bool, kNumPaths> failed = {};  ///< paths that it does not use again
  std::string failures;                     ///< of paths, for the message
  std::string last_trouble;                 ///< of connections that are tried again
  size_t ranges_left = 0;
  std::vector<uint32_t> wrong;  ///< ranges to read again
  int pins = 0;                 ///< tasks of workers that use its targets
  std::optional<EventLoop::TimerId> deadline;

  void RunDone(Status status) { done_(std::move(status)); }

 private:
  void AppendPiece(JobPiece piece);

  const TransferId id_;
  const Descriptor descriptor_;
  const std::function<void(Status)> done_;
  std::vector<Range> ranges_;
  std::vector<JobPiece> pieces_;
  std::vector<Slice> slices_;
  std::deque<size_t> missing_;
  SliceLimits limits_;
};

}  // namespace halfmoon::transfer
