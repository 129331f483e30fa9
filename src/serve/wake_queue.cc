// SPDX-License-Identifier: Apache-2.0
#include "serve/wake_queue.h"

namespace halfmoon::serve {

void WakeQueue::Wake(SessionId id) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || !waiting_.insert(id).second) return;
    order_.push_back(id);
  }
  not_empty_.notify_one();
}

std::optional<SessionId> WakeQueue::Pop() {
  std::unique_lock lock(mutex_);
  not_empty_.wait(lock, [this] { return closed_ || !order_.empty(); });
  if (closed_) return std::nullopt;
  const SessionId id = order_.front();
  order_.pop_front();
  waiting_.erase(id);
  return id;
}

void WakeQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  not_empty_.notify_all();
}

}  // namespace halfmoon::serve
