// SPDX-License-Identifier: Apache-2.0
// One thread that waits for sockets, times and messages of other threads: epoll and an eventfd. It
// sleeps while nothing happens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"

namespace halfmoon::transfer {

/// Told of what happens on a file. Loop thread only.
class EventHandler {
 public:
  virtual ~EventHandler() = default;
  /// `events`: EPOLLIN and so on. May dispose of itself and of others (EventLoop::Dispose).
  virtual void OnEvents(uint32_t events) = 0;
};

enum class WatchId : uint64_t {};

/// Post, Stop and OnThread are thread-safe; the rest belongs to the loop's thread, or to whoever
/// made it before Start and after Join.
class EventLoop {
 public:
  using TimerId = std::pair<TimeUs, uint64_t>;

  /// Errors: kIo. `clock` outlives the loop.
  static Result<std::unique_ptr<EventLoop>> Create(const Clock* clock);
  ~EventLoop();

  void Start();
  /// Runs what has been posted before, then ends the thread.
  void Stop();
  void Post(std::function<void()> task);
  bool OnThread() const { return std::this_thread::get_id() == thread_.get_id(); }

  TimeUs NowUs() const { return clock_->NowUs(); }

  /// Errors: kIo. The handler stays until Unwatch.
  Result<WatchId> Watch(int fd, uint32_t events, EventHandler* handler);
  void Change(WatchId id, uint32_t events);
  void Unwatch(WatchId id);

  TimerId After(TimeUs delay_us, std::function<void()> task);
  void CancelTimer(TimerId id) { timers_.erase(id); }

  /// Ends the object's life when the handler that runs now has returned.
  void Dispose(std::unique_ptr<EventHandler> handler) { disposed_.push_back(std::move(handler)); }

 private:
  explicit EventLoop(const Clock* clock) : clock_(clock) {}
  void Run();
  void RunPosted();
  void RunTimers();
  int TimeoutMs() const;

  struct Watched {
    int fd = -1;
    EventHandler* handler = nullptr;
  };

  const Clock* const clock_;
  FileDescriptor epoll_;
  FileDescriptor wake_;
  std::thread thread_;
  bool stopping_ = false;  // the loop's thread
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, Watched> watched_;
  std::map<TimerId, std::function<void()>> timers_;
  std::vector<std::unique_ptr<EventHandler>> disposed_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::transfer
