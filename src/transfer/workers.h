// SPDX-License-Identifier: Apache-2.0
// Threads for what would hold up the loop: copies from shared memory and sums over what arrived.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace halfmoon::transfer {

/// Thread-safe. The destructor runs what is queued.
class Workers {
 public:
  explicit Workers(int num_threads) : tasks_(kCapacity) {
    for (int i = 0; i < num_threads; ++i) {
      threads_.emplace_back([this] {
        while (std::optional<std::function<void()>> task = tasks_.Pop()) (*task)();
      });
    }
  }
  ~Workers() {
    tasks_.Close();
    for (std::thread& thread : threads_) thread.join();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Runs the task on one of the threads, or here where too many wait already.
  void Run(const std::function<void()>& task) {
    if (!tasks_.TryPush(task)) task();
  }

 private:
  static constexpr size_t kCapacity = 65536;
  BoundedQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace halfmoon::transfer
