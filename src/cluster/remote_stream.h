// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: the consumer's end of a request that some node computes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "cluster/engine_handle.h"
#include "cluster/messages.h"

namespace halfmoon::cluster {

/// A queue between the thread of the channels and the consumer. The producer sends no more than
/// there is room for (credit), so that a slow reader holds its sequence back, wherever that runs.
/// Thread-safe.
class RemoteStream {
 public:
  explicit RemoteStream(uint32_t capacity) : capacity_(capacity) {}

  void Push(Event event);
  /// An event has come that the consumer is not told of: its room is free again.
  void Skip();
  std::optional<Event> TryNext();
  void SetNotify(std::function<void()> notify);
  /// Room that was not given out yet, once there is enough of it to be worth a message.
  uint32_t TakeCredit(bool even_little);
  /// Everything that was given out and not used is void: another node sends from now on.
  void ResetCredit();

 private:
  const uint32_t capacity_;
  std::mutex mutex_;
  std::deque<Event> events_;      // GUARDED_BY(mutex_)
  uint32_t credit_ = 0;           // GUARDED_BY(mutex_): given out and not used
  std::mutex notify_mutex_;       // held while notify_ runs, so that it does not after SetNotify
  std::function<void()> notify_;  // GUARDED_BY(notify_mutex_)
};

/// Taking from a RemoteStream. What the callbacks refer to outlives it.
class RemoteSequence final : public Sequence {
 public:
  struct Callbacks {
    std::function<void()> on_taken;    ///< some, or all that were there: there is room
    std::function<void()> on_dropped;  ///< it went before the end
  };
  RemoteSequence(std::shared_ptr<RemoteStream> stream, Callbacks callbacks)
      : stream_(std::move(stream)), callbacks_(std::move(callbacks)) {}
  RemoteSequence(const RemoteSequence&) = delete;
  RemoteSequence& operator=(const RemoteSequence&) = delete;
  ~RemoteSequence() override;

  std::optional<Event> TryNext() override;
  void SetNotify(std::function<void()> notify) override { stream_->SetNotify(std::move(notify)); }

 private:
  const std::shared_ptr<RemoteStream> stream_;
  const Callbacks callbacks_;
  int untold_ = 0;  // events taken since on_taken
  bool finished_ = false;
};

}  // namespace halfmoon::cluster
