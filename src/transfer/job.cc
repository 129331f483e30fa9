// SPDX-License-Identifier: Apache-2.0
#include "transfer/job.h"

#include <algorithm>

#include "base/check.h"

namespace halfmoon::transfer {

std::string Job::NameOf(uint32_t range) const {
  return "range " + std::to_string(range) + " (" + std::to_string(ranges_[range].target.size()) +
         " bytes at " + std::to_string(ranges_[range].offset) + ")";
}

Status Job::SetRanges(std::span<const ReadRange> ranges) {
  if (ranges.size() > kMaxRanges) {
    return Error(ErrorCode::kResourceExhausted,
                 "more than " + std::to_string(kMaxRanges) + " ranges in one transfer");
  }
  uint64_t total = 0;
  for (const ReadRange& range : ranges) {
    const auto index = static_cast<uint32_t>(ranges_.size());
    ranges_.push_back({.offset = range.offset, .target = range.target, .checksum = range.checksum});
    const uint64_t size = descriptor_.size_bytes;
    if (range.offset > size || range.target.size() > size - range.offset) {
      return Error(ErrorCode::kInvalidArgument, NameOf(index) + " is not within the segment of " +
                                                    std::to_string(size) + " bytes");
    }
    total += range.target.size();
    if (total > kMaxBytes) {
      return Error(ErrorCode::kResourceExhausted,
                   "more than " + std::to_string(kMaxBytes) + " bytes in one transfer");
    }
  }
  ranges_left = ranges_.size();
  limits_ = {.bytes = kMaxBytes, .pieces = 1};
  for (uint32_t i = 0; i < ranges_.size(); ++i) {
    if (!ranges_[i].target.empty()) ReadAgain(i);
    ranges_[i].read_again = false;
  }
  return {};
}

void Job::ReadAgain(uint32_t index) {
  Range& range = ranges_[index];
  range.read_again = true;
  range.pieces_left = 0;
  AppendPiece({.offset = range.offset,
               .target = range.target.data(),
               .length = range.target.size(),
               .range = index});
}

void Job::Cut(const SliceLimits& limits) {
  std::vector<JobPiece> left;
  std::sort(missing_.begin(), missing_.end());
  for (const size_t slice : missing_) {
    for (const JobPiece& piece : PiecesOf(slice)) {
      --ranges_[piece.range].pieces_left;
      left.push_back(piece);
    }
  }
  pieces_.clear();
  slices_.clear();
  missing_.clear();
  limits_ = limits;
  for (const JobPiece& piece : left) AppendPiece(piece);
}

void Job::AppendPiece(JobPiece piece) {
  while (piece.length > 0) {
    // The last slice takes more as long as nobody has taken it: only missing ones are appended to,
    // in order.
    const bool fits = !missing_.empty() && missing_.back() + 1 == slices_.size() &&
                      slices_.back().bytes < limits_.bytes &&
                      slices_.back().num_pieces < limits_.pieces;
    if (!fits) {
      missing_.push_back(slices_.size());
      slices_.push_back({.first_piece = pieces_.size()});
    }
    Slice& slice = slices_.back();
    const uint64_t length = std::min(piece.length, limits_.bytes - slice.bytes);
    pieces_.push_back(
        {.offset = piece.offset, .target = piece.target, .length = length, .range = piece.range});
    slice.bytes += length;
    ++slice.num_pieces;
    ++ranges_[piece.range].pieces_left;
    piece.offset += length;
    piece.target += length;
    piece.length -= length;
  }
}

size_t Job::TakeSlice() {
  HM_CHECK(!missing_.empty(), "a slice is taken of nothing");
  const size_t slice = missing_.front();
  missing_.pop_front();
  return slice;
}

}  // namespace halfmoon::transfer
