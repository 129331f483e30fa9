// SPDX-License-Identifier: Apache-2.0
#include "net/io_pool.h"

#include <exception>

#include "base/check.h"
#include "base/log.h"

namespace halfmoon::net {
namespace {

void RunLoop(asio::io_context& context) {
  for (;;) {
    try {
      context.run();
      return;
    } catch (const std::exception& e) {
      // One handler failed; the loop and every other connection go on.
      HM_LOG_ERROR("net: a handler threw: {}", e.what());
    }
  }
}

}  // namespace

IoPool::IoPool(int num_threads) : context_(num_threads) {
  HM_CHECK(num_threads >= 1, "IoPool needs a thread");
  work_.emplace(context_.get_executor());
  threads_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { RunLoop(context_); });
  } catch (...) {
    Join();
    throw;
  }
}

IoPool::~IoPool() { Join(); }

void IoPool::Join() {
  work_.reset();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace halfmoon::net
