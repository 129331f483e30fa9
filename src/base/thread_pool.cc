// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace halfmoon {
namespace {

// About 50 us on current cores: longer than the gap between two kernels of a step, far shorter than
// a scheduler tick.
constexpr int kSpinIterations = 2000;

constexpr uint64_t kIndexMask = 0xffffffff;
constexpr uint32_t kClosed = 0xffffffff;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Lets the calling thread run on these cpus only. What the system refuses (a container that lost
/// some) is no error: the thread then runs anywhere.
void RunOn(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  }
  (void)::sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : ThreadPool(ThreadLayout::Anywhere(num_threads)) {}

ThreadPool::ThreadPool(ThreadLayout layout)
    : layout_(std::move(layout)), shards_(layout_.shards.size()) {
  HM_CHECK(!layout_.seats.empty());
  HM_CHECK(!layout_.shards.empty());
  HM_CHECK(layout_.shards.size() <= ThreadLayout::kMaxShards);
  const int num_threads = static_cast<int>(layout_.seats.size());
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] {
      RunOn(layout_.seats[static_cast<size_t>(thread)].cpus);
      WorkerMain(thread);
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::SeatCaller() const { RunOn(layout_.seats[0].cpus); }

void ThreadPool::Run(const Indices& indices, Function function, const void* context) {
  HM_CHECK(indices.count < kClosed);
  HM_DCHECK(indices.ends.empty() || indices.ends.size() == shards_.size());
  const uint64_t job = ((shards_[0].state.load(std::memory_order_relaxed) >> 32) + 1) << 32;
  // Whoever sees one of the stores below has seen these too, and cannot claim an index of the old
  // job.
  for (Shard& shard : shards_) shard.state.store(job | kClosed);
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  size_t begin = 0;
  for (size_t i = 0; i < shards_.size(); ++i) {
    const size_t end = indices.ends.empty() ? ShardBegin(indices.count, i + 1) : indices.ends[i];
    shards_[i].end.store(static_cast<uint32_t>(end), std::memory_order_release);
    shards_[i].state.store(job | begin);  // Opens the shard.
    begin = end;
  }
  if (sleepers_.load() > 0) {
    // Taking the mutex orders this wake-up after the sleeper's look at the shards.
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  Drain(0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != indices.count; ++spins) {
    // A worker that lost its core in the middle of an index must get the chance to run.
    if (spins > kSpinIterations) {
      std::this_thread::yield();
    } else {
      CpuRelax();
    }
  }
}

bool ThreadPool::Drain(int thread) {
  const size_t own = layout_.seats[static_cast<size_t>(thread)].shard;
  bool any = false;
  for (size_t i = 0; i < shards_.size(); ++i) {
    any = DrainShard(shards_[(own + i) % shards_.size()], thread) || any;
  }
  return any;
}

bool ThreadPool::DrainShard(Shard& shard, int thread) {
  bool any = false;
  uint64_t state = shard.state.load();
  for (;;) {
    const auto index = static_cast<uint32_t>(state & kIndexMask);
    const Function function = function_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    if (index >= shard.end.load(std::memory_order_acquire)) return any;
    // On failure `state` is the new value, and everything is read again.
    if (!shard.state.compare_exchange_weak(state, state + 1)) continue;
    function(context, index, thread);
    done_.fetch_add(1, std::memory_order_release);
    any = true;
    state = shard.state.load();
  }
}

bool ThreadPool::HasWork() const {
  return std::ranges::any_of(shards_, [](const Shard& shard) {
    return (shard.state.load() & kIndexMask) < shard.end.load(std::memory_order_acquire);
  });
}

void ThreadPool::WorkerMain(int thread) {
  int idle_spins = 0;
  while (!stopping_.load()) {
    if (Drain(thread)) {
      idle_spins = 0;
      continue;
    }
    if (++idle_spins < kSpinIterations) {
      CpuRelax();
      continue;
    }
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [this] { return stopping_.load() || HasWork(); });
    sleepers_.fetch_sub(1);
    idle_spins = 0;
  }
}

int DefaultThreadCount() { return std::max(1, ReadTopology().num_cores()); }

}  // namespace halfmoon
