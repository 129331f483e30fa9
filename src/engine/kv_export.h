// SPDX-License-Identifier: Apache-2.0
// KV of a prompt as it comes to be, for somebody else to copy out of page memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "engine/event_stream.h"
#include "kv/block_catalog.h"

namespace halfmoon::engine {

/// Layers [first_layer, end_layer) of consecutive blocks that will not change any more.
struct KvReady {
  int32_t first_block = 0;
  std::span<const int32_t> pages;  ///< of page memory, one a block
  int first_layer = 0;
  int end_layer = 0;
  std::optional<kv::Tier> tier;  ///< of the store that they come from; none: were in pages, or are
                                 ///< computed
};

/// Given along with a request (Request::kv_export), which then computes its prompt and generates
/// nothing. Pages that were reported stay as they are until Release, also when the request has
/// ended, failed or was cancelled: somebody may be copying them. Thread-safe.
class KvExport {
 public:
  struct Options {
    int32_t num_blocks = 0;  ///< that are wanted; the request ends when they are there
    /// The first that is wanted; above 0 with cached_only alone.
    int32_t first_block = 0;
    /// Computes nothing: what is kept here, in pages or in the store, is reported up to the first
    /// block that is not, and the request ends. It waits for nothing but the step that runs.
    bool cached_only = false;
    /// On the engine thread, block by block and layer by layer in order, each once. Must be quick,
    /// must not throw and not call the engine.
    std::function<void(const KvReady&)> on_ready;
  };
  explicit KvExport(Options options) : options_(std::move(options)) {}

  const Options& options() const { return options_; }
  /// The pages may go. Nothing is reported from the moment on in which the engine takes notice.
  void Release();

  // Engine's side.

  bool released() const { return released_.load(std::memory_order_acquire); }
  void SetWake(std::shared_ptr<WakeSignal> wake);

 private:
  const Options options_;
  std::atomic<bool> released_{false};
  std::mutex mutex_;
  std::shared_ptr<WakeSignal> wake_;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::engine
