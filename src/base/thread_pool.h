// SPDX-License-Identifier: Apache-2.0
// Fork-join parallelism for kernels: one pool, ParallelFor only.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace halfmoon {

/// A fixed set of threads that run index ranges together with the caller. Tasks must not block,
/// lock, allocate or throw. ParallelFor is called by one thread at a time (the engine thread).
///
/// Which thread runs which index is not fixed; a task whose result depends on that breaks
/// determinism. Workers spin for a bounded time after work (kernel launches follow each other
/// within microseconds), then sleep, so an idle pool uses no CPU.
class ThreadPool {
 public:
  /// Starts num_threads - 1 workers; the caller of ParallelFor is the last. Requires num_threads
  /// >= 1.
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs task(i, thread) for i in [0, count), each once, thread in [0, num_threads); returns when
  /// all are done. Indices are handed out one at a time in ascending order, so put the largest
  /// pieces first.
  template <typename Task>
  void ParallelFor(size_t count, const Task& task) {
    if (count == 0) return;
    if (workers_.empty() || count == 1) {
      for (size_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    Run(
        count,
        [](const void* context, size_t i, int thread) {
          (*static_cast<const Task*>(context))(i, thread);
        },
        &task);
  }

 private:
  using Function = void (*)(const void* context, size_t index, int thread);

  void Run(size_t count, Function function, const void* context);
  void WorkerMain(int thread);
  /// Takes indices of the current job until there are none; false where there was none to begin
  /// with.
  bool Drain(int thread);

  std::vector<std::thread> workers_;

  // The job. Written only while state_ is closed; a claim of an index succeeds only if state_ has
  // not changed since before these were read, so a worker that comes late sees either this job
  // whole or nothing.
  std::atomic<Function> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<uint32_t> count_{0};

  // High half: number of the job. Low half: next index to hand out, or kClosed.
  alignas(64) std::atomic<uint64_t> state_{0};
  // Indices that are done. The caller waits for these, not for workers: one that the system never
  // woke holds up nobody.
  alignas(64) std::atomic<uint32_t> done_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stopping_{false};
};

/// Cores that kernels should use by default: physical cores this process may run on (SMT siblings
/// counted once, affinity mask respected).
int DefaultThreadCount();

}  // namespace halfmoon
