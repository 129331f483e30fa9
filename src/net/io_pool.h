// SPDX-License-Identifier: Apache-2.0
// Internal to net: an event loop and the threads that run it.
#pragma once

#include <optional>
#include <thread>
#include <vector>

#include "net/asio.h"

namespace halfmoon::net {

/// Thread-safe except for Join and the destructor, which belong to the owner.
class IoPool {
 public:
  /// Requires num_threads >= 1. Throws std::system_error where the system gives no thread.
  explicit IoPool(int num_threads);
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;
  /// Join.
  ~IoPool();

  asio::io_context& context() { return context_; }

  /// Returns when nothing is left to run and the threads have ended. Requires that nobody keeps the
  /// loop busy forever (open sockets with pending operations, periodic timers); not from a thread
  /// of this pool.
  void Join();

 private:
  asio::io_context context_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  std::vector<std::thread> threads_;
};

}  // namespace halfmoon::net
