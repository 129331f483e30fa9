// SPDX-License-Identifier: Apache-2.0
// Fork-join parallelism for kernels: one pool, ParallelFor only.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/topology.h"

namespace halfmoon {

/// A fixed set of threads that run index ranges together with the caller. Tasks must not block,
/// lock, allocate or throw. ParallelFor is called by one thread at a time (the engine thread).
///
/// Threads form shards, one for each NUMA node that has some (ThreadLayout). A shard takes the
/// indices that are its own first, those whose data lies on its node, and then helps others.
///
/// Which thread runs which index is not fixed; a task whose result depends on that breaks
/// determinism. Workers spin for a bounded time after work (kernel launches follow each other
/// within microseconds), then sleep, so an idle pool uses no CPU.
class ThreadPool {
 public:
  /// Starts num_threads - 1 workers of one shard; the caller of ParallelFor is the last. Requires
  /// num_threads >= 1.
  explicit ThreadPool(int num_threads);
  /// The same as the layout says; the caller sits on its first seat (SeatCaller).
  explicit ThreadPool(ThreadLayout layout);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }
  const ThreadLayout& layout() const { return layout_; }
  size_t num_shards() const { return layout_.shards.size(); }
  /// ThreadLayout::ShardBegin of the layout.
  size_t ShardBegin(size_t count, size_t shard) const { return layout_.ShardBegin(count, shard); }

  /// Lets the calling thread, which is to call ParallelFor from now on, run only where the layout
  /// wants it. To be called by a thread that starts no others afterwards, which would inherit it.
  void SeatCaller() const;

  /// Runs task(i, thread) for i in [0, count), each once, thread in [0, num_threads); returns when
  /// all are done. Each shard has a range of indices in proportion to its threads. They are handed
  /// out one at a time in ascending order, so put the largest pieces first.
  template <typename Task>
  void ParallelFor(size_t count, const Task& task) {
    if (count == 0) return;
    if (workers_.empty() || count == 1) {
      for (size_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    Run({.count = count, .ends = {}}, Caller<Task>, &task);
  }
  /// The same where shard s has the indices from ends[s - 1] (0 for the first) to ends[s].
  /// Requires one ascending end a shard.
  template <typename Task>
  void ParallelForShards(std::span<const size_t> ends, const Task& task) {
    if (ends.back() == 0) return;
    if (workers_.empty() || ends.back() == 1) {
      for (size_t i = 0; i < ends.back(); ++i) task(i, 0);
      return;
    }
    Run({.count = ends.back(), .ends = ends}, Caller<Task>, &task);
  }

 private:
  using Function = void (*)(const void* context, size_t index, int thread);

  struct Indices {
    size_t count = 0;
    std::span<const size_t> ends;  // of the shards; empty: in proportion
  };

  // What is left of one shard's indices.
  struct alignas(64) Shard {
    // High half: number of the job. Low half: next index to hand out, or kClosed.
    std::atomic<uint64_t> state{0};
    std::atomic<uint32_t> end{0};
  };

  template <typename Task>
  static void Caller(const void* context, size_t i, int thread) {
    (*static_cast<const Task*>(context))(i, thread);
  }

  void Run(const Indices& indices, Function function, const void* context);
  void WorkerMain(int thread);
  /// Takes indices of the current job until there are none; false where there was none to begin
  /// with.
  bool Drain(int thread);
  bool DrainShard(Shard& shard, int thread);
  bool HasWork() const;

  const ThreadLayout layout_;
  std::vector<std::thread> workers_;

  // The job. Written only while all shards are closed; a claim of an index succeeds only if the
  // shard's state has not changed since before these were read, so a worker that comes late sees
  // either this job whole or nothing.
  std::atomic<Function> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::vector<Shard> shards_;
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
