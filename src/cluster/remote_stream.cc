// SPDX-License-Identifier: Apache-2.0
#include "cluster/remote_stream.h"

#include <utility>

namespace halfmoon::cluster {

void RemoteStream::Push(Event event) {
  {
    std::lock_guard lock(mutex_);
    if (credit_ > 0) --credit_;
    events_.push_back(std::move(event));
  }
  std::lock_guard lock(notify_mutex_);
  if (notify_) notify_();
}

void RemoteStream::Skip() {
  std::lock_guard lock(mutex_);
  if (credit_ > 0) --credit_;
}

std::optional<Event> RemoteStream::TryNext() {
  std::lock_guard lock(mutex_);
  if (events_.empty()) return std::nullopt;
  std::optional<Event> event(std::move(events_.front()));
  events_.pop_front();
  return event;
}

void RemoteStream::SetNotify(std::function<void()> notify) {
  std::lock_guard lock(notify_mutex_);
  notify_ = std::move(notify);
  if (!notify_) return;
  std::lock_guard events_lock(mutex_);
  if (!events_.empty()) notify_();
}

uint32_t RemoteStream::TakeCredit(bool even_little) {
  std::lock_guard lock(mutex_);
  const auto used = static_cast<uint32_t>(events_.size()) + credit_;
  const uint32_t room = used < capacity_ ? capacity_ - used : 0;
  if (room == 0 || (!even_little && room < capacity_ / 4)) return 0;
  credit_ += room;
  return room;
}

void RemoteStream::ResetCredit() {
  std::lock_guard lock(mutex_);
  credit_ = 0;
}

RemoteSequence::~RemoteSequence() {
  stream_->SetNotify(nullptr);
  if (!finished_) callbacks_.on_dropped();
}

std::optional<Event> RemoteSequence::TryNext() {
  // Each time costs a look at the stream by another thread.
  constexpr int kTakenTogether = 16;
  std::optional<Event> event = stream_->TryNext();
  if (event.has_value()) {
    finished_ = finished_ || std::holds_alternative<FinishEvent>(*event);
    ++untold_;
  }
  // Also when nothing is left: however few these were, the other end may have been waiting for them
  // to be taken.
  const bool tell = untold_ == kTakenTogether || (!event.has_value() && untold_ > 0);
  if (tell && !finished_) {
    untold_ = 0;
    callbacks_.on_taken();
  }
  return event;
}

}  // namespace halfmoon::cluster
