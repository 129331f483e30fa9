// SPDX-License-Identifier: Apache-2.0
#include "engine/event_stream.h"

#include <chrono>
#include <exception>
#include <utility>

#include "base/log.h"

namespace halfmoon::engine {

void WakeSignal::Raise() {
  {
    std::lock_guard lock(mutex_);
    raised_ = true;
  }
  raised_condition_.notify_one();
}

void WakeSignal::Wait() {
  std::unique_lock lock(mutex_);
  raised_condition_.wait(lock, [this] { return raised_; });
  raised_ = false;
}

void WakeSignal::WaitFor(TimeUs timeout_us) {
  std::unique_lock lock(mutex_);
  raised_condition_.wait_for(lock, std::chrono::microseconds(timeout_us),
                             [this] { return raised_; });
  raised_ = false;
}

void EventStream::Push(Event event) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = std::holds_alternative<FinishEvent>(event);
    if (!events_.empty() && std::holds_alternative<ProgressEvent>(event) &&
        std::holds_alternative<ProgressEvent>(events_.back())) {
      events_.back() = std::move(event);
    } else {
      events_.push_back(std::move(event));
    }
  }
  arrived_.notify_all();
  std::lock_guard lock(notify_mutex_);
  if (notify_) Notify();
}

bool EventStream::full() {
  std::lock_guard lock(mutex_);
  full_ = events_.size() >= (full_ ? capacity_ / 2 + 1 : capacity_);
  return full_;
}

std::optional<Event> EventStream::TryNext() { return PopAndUnlock(std::unique_lock(mutex_)); }

std::optional<Event> EventStream::Next() {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [this] { return !events_.empty() || finished_; });
  return PopAndUnlock(std::move(lock));
}

std::optional<Event> EventStream::PopAndUnlock(std::unique_lock<std::mutex> lock) {
  if (events_.empty()) return std::nullopt;
  std::optional<Event> event(std::move(events_.front()));
  events_.pop_front();
  const bool drained = full_ && events_.size() == capacity_ / 2;
  lock.unlock();
  if (drained) wake_->Raise();
  return event;
}

void EventStream::SetNotify(std::function<void()> notify) {
  std::lock_guard notify_lock(notify_mutex_);
  notify_ = std::move(notify);
  if (!notify_) return;
  bool pending = false;
  {
    std::lock_guard lock(mutex_);
    pending = !events_.empty();
  }
  if (pending) Notify();
}

// Foreign code on the engine thread: whatever it throws must not end the engine.
void EventStream::Notify() {
  try {
    notify_();
  } catch (const std::exception& e) {
    HM_LOG_ERROR("a request's notification failed: {}", e.what());
  } catch (...) {
    HM_LOG_ERROR("a request's notification failed");
  }
}

void EventStream::Cancel() {
  cancelled_.store(true, std::memory_order_release);
  wake_->Raise();
}

}  // namespace halfmoon::engine
