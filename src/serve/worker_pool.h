// SPDX-License-Identifier: Apache-2.0
// A few threads for work that must not run on IO threads.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace halfmoon::serve {

/// Runs jobs in order of arrival. What a job throws is logged. Thread-safe.
class WorkerPool {
 public:
  WorkerPool(int num_threads, size_t capacity);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  /// Stop().
  ~WorkerPool();

  /// False when as many jobs wait as may; the job is dropped.
  [[nodiscard]] bool TryPost(std::function<void()> job);
  size_t num_waiting() const { return jobs_.size(); }

  /// Runs what waits, then joins the threads. Idempotent; not from a job.
  void Stop();

 private:
  void Run();

  BoundedQueue<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
};

}  // namespace halfmoon::serve
