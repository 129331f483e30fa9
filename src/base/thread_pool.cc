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
    stopping_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t count, Function function, const void* context) {
  function_ = function;
  context_ = context;
  count_ = count;
  next_index_.store(0, std::memory_order_relaxed);
  busy_workers_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // Publishes the job.
  if (sleepers_.load() > 0) {
    // Taking the mutex orders this wake-up after the sleeper's check of generation_.
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  Drain(0);
  for (int spins = 0; busy_workers_.load(std::memory_order_acquire) != 0; ++spins) {
    // A worker that lost its core must get the chance to run.
    if (spins > kSpinIterations) {
      std::this_thread::yield();
    } else {
      CpuRelax();
    }
  }
}

void ThreadPool::Drain(int thread) {
  for (;;) {
    const size_t index = next_index_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_) return;
    function_(context_, index, thread);
  }
}

void ThreadPool::WorkerMain(int thread) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = generation_.load();
    for (int spins = 0; now == seen && spins < kSpinIterations; ++spins) {
      CpuRelax();
      now = generation_.load();
    }
    if (now == seen) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      sleepers_.fetch_sub(1);
      now = generation_.load();
    }
    seen = now;
    if (stopping_.load()) return;
    Drain(thread);
    busy_workers_.fetch_sub(1, std::memory_order_release);
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
