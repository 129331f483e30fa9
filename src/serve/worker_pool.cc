// SPDX-License-Identifier: Apache-2.0
#include "serve/worker_pool.h"

#include <exception>
#include <optional>
#include <utility>

#include "base/log.h"

namespace halfmoon::serve {

WorkerPool::WorkerPool(int num_threads, size_t capacity) : jobs_(capacity) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkerPool::~WorkerPool() { Stop(); }

bool WorkerPool::TryPost(std::function<void()> job) { return jobs_.TryPush(std::move(job)); }

void WorkerPool::Stop() {
  jobs_.Close();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void WorkerPool::Run() {
  while (std::optional<std::function<void()>> job = jobs_.Pop()) {
    try {
      (*job)();
    } catch (const std::exception& error) {
      HM_LOG_ERROR("a request was given up: {}", error.what());
    }
  }
}

}  // namespace halfmoon::serve
