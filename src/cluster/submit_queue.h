// SPDX-License-Identifier: Apache-2.0
// Threads for what takes too long for an IO thread: a node that does not speak for a few seconds
// counts as gone.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace halfmoon::cluster {

/// Thread-safe. The destructor waits for what runs and drops what is queued.
class SubmitQueue {
 public:
  SubmitQueue(int num_threads, size_t capacity) : tasks_(capacity) {
    for (int i = 0; i < num_threads; ++i) {
      threads_.emplace_back([this] {
        while (const std::optional<std::function<void()>> task = tasks_.Pop()) (*task)();
      });
    }
  }
  ~SubmitQueue() {
    tasks_.Close();
    while (tasks_.TryPop().has_value()) {
    }
    for (std::thread& thread : threads_) thread.join();
  }
  SubmitQueue(const SubmitQueue&) = delete;
  SubmitQueue& operator=(const SubmitQueue&) = delete;

  /// False where too much is queued.
  [[nodiscard]] bool TryPush(std::function<void()> task) { return tasks_.TryPush(std::move(task)); }

 private:
  BoundedQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace halfmoon::cluster
