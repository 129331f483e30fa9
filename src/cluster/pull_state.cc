// SPDX-License-Identifier: Apache-2.0
#include "cluster/pull_state.h"

#include <algorithm>
#include <utility>

namespace halfmoon::cluster {
namespace {

// Of one read, bytes: enough that its cost is small, little enough that a layer is not held up by
// the one before.
constexpr size_t kReadBytes = size_t{8} << 20;
constexpr TimeUs kReadTimeoutUs = 20'000'000;

}  // namespace

PullState::PullState(SourceSpec spec, std::span<const kv::BlockKey> keys, const PageShape& shape,
                     transfer::TransferEngine* transfers, const Clock* clock, OnArrived on_arrived)
    : spec_(std::move(spec)),
      shape_(shape),
      transfers_(transfers),
      clock_(clock),
      on_arrived_(std::move(on_arrived)),
      progress_us_(clock->NowUs()) {
  const size_t count = std::min(keys.size(), static_cast<size_t>(std::max(0, spec_.num_blocks)));
  for (size_t i = 0; i < count; ++i) index_.emplace(keys[i], i);
  blocks_.resize(count);
  end_ = count;
}

int32_t PullState::Probe(std::span<const kv::BlockKey> keys) {
  std::lock_guard lock(mutex_);
  int32_t found = 0;
  for (const kv::BlockKey& key : keys) {
    const auto it = index_.find(key);
    if (it == index_.end() || it->second >= end_) break;
    if (error_.has_value() || blocks_[it->second].tag.has_value()) break;
    ++found;
  }
  return found;
}

void PullState::Fetch(std::span<const store::BlockFetch> blocks) {
  {
    std::lock_guard lock(mutex_);
    for (const store::BlockFetch& fetch : blocks) {
      const auto it = index_.find(fetch.key);
      std::optional<Error> refused = error_;
      if (!refused.has_value() && (it == index_.end() || blocks_[it->second].tag.has_value())) {
        refused = Error(ErrorCode::kNotFound, "no block of that key is pulled");
      }
      if (!refused.has_value() && it->second >= end_) refused = cut_;
      if (refused.has_value()) {
        events_.push_back({.tag = fetch.tag, .status = *refused});
        continue;
      }
      Block& block = blocks_[it->second];
      block.tag = fetch.tag;
      block.page = fetch.page;
    }
  }
  StartReads();
}

void PullState::Cancel(std::span<const store::BlockTag> tags) {
  {
    std::lock_guard lock(mutex_);
    const auto first = std::ranges::find_if(blocks_, [tags](const Block& block) {
      return block.tag.has_value() && std::ranges::find(tags, *block.tag) != tags.end();
    });
    if (first == blocks_.end()) return;
    const Error error(ErrorCode::kCancelled, "no longer wanted");
    const auto goes_on = [](const Block& block) { return block.tag.has_value() && !block.ended; };
    if (std::any_of(blocks_.begin(), first, goes_on)) {
      CutLocked(static_cast<size_t>(first - blocks_.begin()), error);
    } else {
      FailLocked(error);
    }
  }
  AfterChange();
}

void PullState::Poll(std::vector<store::BlockEvent>* events) {
  std::lock_guard lock(mutex_);
  std::ranges::move(events_, std::back_inserter(*events));
  events_.clear();
}

void PullState::SetWake(std::function<void()> wake) {
  std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

void PullState::OnSegment(const KvSegment& segment) {
  if (segment.layer_bytes != shape_.layer_bytes || segment.num_layers != shape_.num_layers) {
    Fail(Error(ErrorCode::kCorrupt, spec_.address + " has pages of " +
                                        std::to_string(segment.num_layers) + " layers of " +
                                        std::to_string(segment.layer_bytes) + " bytes, here are " +
                                        std::to_string(shape_.num_layers) + " of " +
                                        std::to_string(shape_.layer_bytes)));
    return;
  }
  std::lock_guard lock(mutex_);
  progress_us_ = clock_->NowUs();
  descriptor_ = segment.descriptor;
}

void PullState::OnReady(const KvReady& ready) {
  const auto first =
      static_cast<size_t>(std::max<int64_t>(0, int64_t{ready.first_block} - spec_.first_block));
  const bool valid = ready.first_block >= spec_.first_block &&
                     ready.offsets.size() == ready.checksums.size() && ready.first_layer >= 0 &&
                     ready.first_layer < ready.end_layer && ready.end_layer <= shape_.num_layers;
  {
    std::lock_guard lock(mutex_);
    progress_us_ = clock_->NowUs();
    bool in_order = valid && !descriptor_.empty() && !told_end_ && first <= blocks_.size() &&
                    ready.offsets.size() <= blocks_.size() - first;
    for (size_t i = 0; in_order && i < ready.offsets.size(); ++i) {
      Block& block = blocks_[first + i];
      in_order = block.ready_layers == ready.first_layer;
      if (!in_order) break;
      block.ready_layers = ready.end_layer;
      if (first + i >= end_) continue;
      block.pieces.push_back({.first_layer = ready.first_layer,
                              .end_layer = ready.end_layer,
                              .offset = ready.offsets[i],
                              .checksum = ready.checksums[i]});
    }
    if (!in_order) {
      FailLocked(Error(ErrorCode::kCorrupt,
                       spec_.address + " tells of layers that are out of order or out of range"));
    }
  }
  StartReads();
}

void PullState::OnEnd(const KvEnd& end) {
  {
    std::lock_guard lock(mutex_);
    const auto missing = std::ranges::find_if(
        blocks_, [this](const Block& block) { return block.ready_layers < shape_.num_layers; });
    told_end_ = true;
    CutLocked(static_cast<size_t>(missing - blocks_.begin()),
              end.error.value_or(Error(ErrorCode::kNotFound,
                                       spec_.address + " does not have the rest of the blocks")));
  }
  AfterChange();
}

void PullState::Fail(const Error& error) {
  {
    std::lock_guard lock(mutex_);
    FailLocked(error);
  }
  AfterChange();
}

void PullState::FailIfStalled(TimeUs now_us) {
  {
    std::lock_guard lock(mutex_);
    if (spec_.patience_us <= 0 || now_us - progress_us_ < spec_.patience_us || num_reading_ > 0) {
      return;
    }
    const bool waits = std::ranges::any_of(
        blocks_, [](const Block& block) { return block.tag.has_value() && !block.ended; });
    if (!waits) return;
    FailLocked(Error(ErrorCode::kDeadlineExceeded, "nothing came from " + spec_.address + " for " +
                                                       std::to_string(spec_.patience_us / 1000) +
                                                       " ms"));
  }
  AfterChange();
}

bool PullState::done() {
  std::lock_guard lock(mutex_);
  const auto wanted = std::span(blocks_).first(end_);
  return num_reading_ == 0 && (error_.has_value() || std::ranges::all_of(wanted, &Block::arrived));
}

std::optional<Error> PullState::error() {
  std::lock_guard lock(mutex_);
  return error_.has_value() ? error_ : cut_;
}

// Takes what is ready and has a page, and reads it. Pieces of one block may be in flight together:
// they are different bytes.
void PullState::StartReads() {
  while (true) {
    std::vector<transfer::ReadRange> ranges;
    Reading reading{.began_us = clock_->NowUs()};
    std::string descriptor;
    {
      std::lock_guard lock(mutex_);
      if (error_.has_value() || descriptor_.empty()) break;
      for (size_t i = 0; i < blocks_.size() && reading.bytes < kReadBytes; ++i) {
        Block& block = blocks_[i];
        if (!block.tag.has_value() || block.pieces.empty()) continue;
        for (const Piece& piece : block.pieces) {
          const auto begin = static_cast<size_t>(piece.first_layer) * shape_.layer_bytes;
          const size_t size =
              static_cast<size_t>(piece.end_layer - piece.first_layer) * shape_.layer_bytes;
          ranges.push_back({.offset = piece.offset,
                            .target = block.page.subspan(begin, size),
                            .checksum = piece.checksum});
          reading.blocks.push_back(i);
          reading.layers.push_back(piece.end_layer - piece.first_layer);
          reading.bytes += size;
          ++block.reading;
        }
        block.pieces.clear();
      }
      if (ranges.empty()) break;
      ++num_reading_;
      descriptor = descriptor_;
    }
    const transfer::TransferId id =
        transfers_->Read(descriptor, ranges, {.timeout_us = kReadTimeoutUs},
                         [self = shared_from_this(), reading](const Status& status) {
                           self->OnRead(reading, status);
                         });
    std::lock_guard lock(mutex_);
    (error_.has_value() ? given_up_ : reads_).push_back(id);
  }
  AfterChange();
}

void PullState::OnRead(const Reading& reading, const Status& status) {
  if (status.ok() && on_arrived_) {
    on_arrived_(reading.bytes, std::max<TimeUs>(1, clock_->NowUs() - reading.began_us));
  }
  {
    std::lock_guard lock(mutex_);
    --num_reading_;
    progress_us_ = clock_->NowUs();
    for (size_t i = 0; i < reading.blocks.size(); ++i) {
      Block& block = blocks_[reading.blocks[i]];
      --block.reading;
      if (status.ok()) block.arrived_layers += reading.layers[i];
    }
    if (!status.ok()) FailLocked(status.error());
    for (size_t number : reading.blocks) {
      Block& block = blocks_[number];
      if (block.ended || block.reading > 0) continue;
      if (block.arrived_layers == shape_.num_layers) {
        EndLocked(&block, {});
      } else if (error_.has_value()) {
        EndLocked(&block, *error_);
      } else if (number >= end_) {
        EndLocked(&block, *cut_);
      }
    }
  }
  AfterChange();
}

void PullState::FailLocked(const Error& error) {
  if (error_.has_value()) return;
  error_ = error;
  given_up_ = std::exchange(reads_, {});
  for (Block& block : blocks_) StopLocked(&block, error);
}

void PullState::CutLocked(size_t end, const Error& error) {
  if (end >= end_) return;
  end_ = end;
  if (!cut_.has_value()) cut_ = error;
  for (size_t i = end_; i < blocks_.size(); ++i) StopLocked(&blocks_[i], *cut_);
}

void PullState::StopLocked(Block* block, const Error& error) {
  block->pieces.clear();
  // A page that is being written is not given back before that has ended.
  if (block->tag.has_value() && !block->ended && block->reading == 0) EndLocked(block, error);
}

void PullState::EndLocked(Block* block, Status status) {
  if (std::exchange(block->ended, true)) return;
  block->arrived = status.ok();
  events_.push_back({.tag = *block->tag, .status = std::move(status)});
}

// What must not happen under the lock, because it may call back.
void PullState::AfterChange() {
  std::function<void()> wake;
  std::vector<transfer::TransferId> given_up;
  {
    std::lock_guard lock(mutex_);
    if (!events_.empty()) wake = wake_;
    given_up.swap(given_up_);
  }
  for (const transfer::TransferId id : given_up) transfers_->Cancel(id);
  if (wake) wake();
}

}  // namespace halfmoon::cluster
