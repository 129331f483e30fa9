// SPDX-License-Identifier: Apache-2.0
#include "net/timer.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "net/asio.h"
#include "net/io_pool.h"

namespace halfmoon::net {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Delays beyond this are cut to it: adding the largest duration to now would overflow.
constexpr std::chrono::milliseconds kMaxDelay = std::chrono::hours(24 * 365);

void RunGuarded(const std::function<void()>& callback) {
  try {
    callback();
  } catch (const std::exception& e) {
    HM_LOG_ERROR("net: a timer callback threw: {}", e.what());
  }
}

}  // namespace

class TimerService::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(std::shared_ptr<IoPool> pool, bool owns_pool)
      : owns_pool_(owns_pool),
        pool_(std::move(pool)),
        strand_(asio::make_strand(pool_->context())) {}

  TimerId Add(std::chrono::milliseconds delay, std::chrono::milliseconds period,
              std::function<void()> callback) {
    auto timer = std::make_shared<Timer>(strand_, period, std::move(callback));
    timer->due = SteadyClock::now() + std::clamp(delay, std::chrono::milliseconds(0), kMaxDelay);
    std::lock_guard lock(mutex_);
    if (stopped_) return TimerId::kNone;
    timer->id = next_id_++;
    timers_.emplace(timer->id, timer);
    asio::post(strand_, [self = shared_from_this(), timer] { self->Arm(timer); });
    return TimerId{timer->id};
  }

  bool Cancel(TimerId id) {
    std::lock_guard lock(mutex_);
    const auto it = timers_.find(static_cast<uint64_t>(id));
    if (it == timers_.end()) return false;
    asio::post(strand_, [timer = it->second] { timer->steady.cancel(); });
    timers_.erase(it);
    return true;
  }

  bool Post(std::function<void()> callback) {
    std::lock_guard lock(mutex_);
    if (stopped_) return false;
    asio::post(strand_, [callback = std::move(callback)] { RunGuarded(callback); });
    return true;
  }

  void Shutdown() {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    asio::post(strand_, [timers = std::move(timers_)] {
      for (const auto& [id, timer] : timers) timer->steady.cancel();
    });
    timers_.clear();
  }

  void JoinIfOwned() {
    if (owns_pool_) pool_->Join();
  }

 private:
  struct Timer {
    Timer(const asio::strand<asio::io_context::executor_type>& strand,
          std::chrono::milliseconds period_in, std::function<void()> callback_in)
        : period(period_in), callback(std::move(callback_in)), steady(strand) {}

    uint64_t id = 0;
    const std::chrono::milliseconds period;  // 0: once
    const std::function<void()> callback;
    SteadyClock::time_point due;  // On the strand, after Add.
    asio::steady_timer steady;    // On the strand.
  };

  void Arm(const std::shared_ptr<Timer>& timer) {
    if (!IsLive(timer->id)) return;
    timer->steady.expires_at(timer->due);
    timer->steady.async_wait([self = shared_from_this(), timer](const error_code& error) {
      if (!error) self->Fire(timer);
    });
  }

  void Fire(const std::shared_ptr<Timer>& timer) {
    const bool once = timer->period.count() == 0;
    {
      std::lock_guard lock(mutex_);
      const auto it = timers_.find(timer->id);
      if (it == timers_.end()) return;
      if (once) timers_.erase(it);
    }
    RunGuarded(timer->callback);
    if (once) return;
    const auto now = SteadyClock::now();
    timer->due += timer->period;
    if (timer->due < now) timer->due += ((now - timer->due) / timer->period + 1) * timer->period;
    Arm(timer);
  }

  bool IsLive(uint64_t id) {
    std::lock_guard lock(mutex_);
    return timers_.contains(id);
  }

  const bool owns_pool_;
  const std::shared_ptr<IoPool> pool_;
  const asio::strand<asio::io_context::executor_type> strand_;
  std::mutex mutex_;
  bool stopped_ = false;                                         // GUARDED_BY(mutex_)
  uint64_t next_id_ = 1;                                         // GUARDED_BY(mutex_)
  std::unordered_map<uint64_t, std::shared_ptr<Timer>> timers_;  // GUARDED_BY(mutex_)
};

TimerService::TimerService() : impl_(std::make_shared<Impl>(std::make_shared<IoPool>(1), true)) {}

TimerService::TimerService(std::shared_ptr<IoPool> pool)
    : impl_(std::make_shared<Impl>(std::move(pool), false)) {}

TimerService::~TimerService() {
  impl_->Shutdown();
  impl_->JoinIfOwned();
}

TimerId TimerService::After(std::chrono::milliseconds delay, std::function<void()> callback) {
  return impl_->Add(delay, std::chrono::milliseconds(0), std::move(callback));
}

TimerId TimerService::Every(std::chrono::milliseconds period, std::function<void()> callback) {
  period = std::clamp(period, std::chrono::milliseconds(1), kMaxDelay);
  return impl_->Add(period, period, std::move(callback));
}

bool TimerService::Cancel(TimerId id) { return impl_->Cancel(id); }

bool TimerService::Post(std::function<void()> callback) { return impl_->Post(std::move(callback)); }

void TimerService::Shutdown() { impl_->Shutdown(); }

}  // namespace halfmoon::net
