// SPDX-License-Identifier: Apache-2.0
#include "transfer/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"

namespace halfmoon::transfer {

namespace {

constexpr uint64_t kWakeId = 0;

Error SystemError(const char* what) {
  return Error(ErrorCode::kIo, std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::Create(const Clock* clock) {
  std::unique_ptr<EventLoop> loop(new EventLoop(clock));
  loop->epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  if (loop->epoll_.get() < 0) return SystemError("epoll");
  loop->wake_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (loop->wake_.get() < 0) return SystemError("eventfd");
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = kWakeId}};
  if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) != 0) {
    return SystemError("epoll");
  }
  return loop;
}

EventLoop::~EventLoop() { Stop(); }

void EventLoop::Start() {
  thread_ = std::thread([this] { Run(); });
}

void EventLoop::Stop() {
  if (!thread_.joinable()) return;
  Post([this] { stopping_ = true; });
  thread_.join();
}

void EventLoop::Post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
    if (posted_.size() > 1) return;  // whoever was first has woken the loop
  }
  const uint64_t one = 1;
  const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
  HM_CHECK(written == sizeof(one), "an eventfd takes 2^64 - 2 wakes");
}

Result<WatchId> EventLoop::Watch(int fd, uint32_t events, EventHandler* handler) {
  const uint64_t id = next_id_++;
  epoll_event event = {.events = events, .data = {.u64 = id}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return SystemError("epoll");
  watched_[id] = {.fd = fd, .handler = handler};
  return static_cast<WatchId>(id);
}

void EventLoop::Change(WatchId id, uint32_t events) {
  const auto raw = static_cast<uint64_t>(id);
  epoll_event event = {.events = events, .data = {.u64 = raw}};
  const int status = epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, watched_.at(raw).fd, &event);
  HM_CHECK(status == 0, "a watched file that epoll does not know");
}

void EventLoop::Unwatch(WatchId id) {
  const auto found = watched_.find(static_cast<uint64_t>(id));
  if (found == watched_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr);
  watched_.erase(found);
}

EventLoop::TimerId EventLoop::After(TimeUs delay_us, std::function<void()> task) {
  const TimerId id = {NowUs() + delay_us, next_id_++};
  timers_.emplace(id, std::move(task));
  return id;
}

void EventLoop::Run() {
  std::array<epoll_event, 64> events;
  while (!stopping_) {
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(), TimeoutMs());
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[static_cast<size_t>(i)].data.u64;
      if (id == kWakeId) {
        RunPosted();
        continue;
      }
      // Whoever ran before may have removed it.
      const auto found = watched_.find(id);
      if (found != watched_.end())
        found->second.handler->OnEvents(events[static_cast<size_t>(i)].events);
      disposed_.clear();
    }
    RunTimers();
  }
  disposed_.clear();
}

void EventLoop::RunPosted() {
  uint64_t wakes = 0;
  const ssize_t bytes = ::read(wake_.get(), &wakes, sizeof(wakes));
  HM_CHECK(bytes == sizeof(wakes), "woken without a wake");
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (std::function<void()>& task : tasks) {
    task();
    disposed_.clear();
  }
}

void EventLoop::RunTimers() {
  const TimeUs now_us = NowUs();
  // What a timer adds is due later, if only by its number.
  while (!timers_.empty() && timers_.begin()->first.first <= now_us) {
    auto node = timers_.extract(timers_.begin());
    node.mapped()();
    disposed_.clear();
  }
}

int EventLoop::TimeoutMs() const {
  if (timers_.empty()) return -1;
  const TimeUs wait_us = timers_.begin()->first.first - NowUs();
  // Rounded up: to wake a little too late costs nothing, too early a turn for nothing.
  return static_cast<int>(std::clamp<TimeUs>((wait_us + 999) / 1000, 0, 3'600'000));
}

}  // namespace halfmoon::transfer
