// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

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

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  HM_CHECK(num_threads >= 1);
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerMain(thread); });
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

void ThreadPool::Run(size_t count, Function function, const void* context) {
  HM_CHECK(count < kClosed);
  const uint64_t job = ((state_.load(std::memory_order_relaxed) >> 32) + 1) << 32;
  // Whoever sees one of the stores below has seen this one too, and cannot claim an index of the
  // old job.
  state_.store(job | kClosed);
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  count_.store(static_cast<uint32_t>(count), std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  state_.store(job);  // Opens the job.
  if (sleepers_.load() > 0) {
    // Taking the mutex orders this wake-up after the sleeper's look at state_.
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  Drain(0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != count; ++spins) {
    // A worker that lost its core in the middle of an index must get the chance to run.
    if (spins > kSpinIterations) {
      std::this_thread::yield();
    } else {
      CpuRelax();
    }
  }
}

bool ThreadPool::Drain(int thread) {
  bool any = false;
  uint64_t state = state_.load();
  for (;;) {
    const auto index = static_cast<uint32_t>(state & kIndexMask);
    const Function function = function_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    if (index >= count_.load(std::memory_order_acquire)) return any;
    // On failure `state` is the new value, and everything is read again.
    if (!state_.compare_exchange_weak(state, state + 1)) continue;
    function(context, index, thread);
    done_.fetch_add(1, std::memory_order_release);
    any = true;
    state = state_.load();
  }
}

void ThreadPool::WorkerMain(int thread) {
  auto has_work = [this] {
    return (state_.load() & kIndexMask) < count_.load(std::memory_order_acquire);
  };
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
    wake_.wait(lock, [&] { return stopping_.load() || has_work(); });
    sleepers_.fetch_sub(1);
    idle_spins = 0;
  }
}

int DefaultThreadCount() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }
  // SMT siblings share one line of thread_siblings_list; each distinct line is a physical core.
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string line;
    cores.insert(std::getline(file, line) ? line : "cpu" + std::to_string(cpu));
  }
  return static_cast<int>(std::max<size_t>(1, cores.size()));
}

}  // namespace halfmoon
