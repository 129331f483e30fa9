// SPDX-License-Identifier: Apache-2.0
// A TCP relay between a reader and its owner, for what networks do to connections.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <list>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "transfer/descriptor.h"
#include "transfer/socket.h"

namespace halfmoon::transfer {

/// Thread-safe.
class Proxy {
 public:
  explicit Proxy(const std::string& owner_address) : owner_(ParseAddress(owner_address).value()) {
    listener_ = ListenTcp(LookUp("127.0.0.1", 0).value()).value();
    address_ = BoundAddress(listener_.get()).value().ToText();
    thread_ = std::thread([this] { Run(); });
  }
  ~Proxy() {
    stopping_ = true;
    Wake();
    thread_.join();
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  /// The descriptor with this in the place of its owner, and no other path.
  std::string Through(const std::string& descriptor) const {
    Descriptor changed = Descriptor::Parse(descriptor).value();
    changed.addresses = {};
    changed.addresses[static_cast<size_t>(PathKind::kTcp)] = address_;
    return changed.Format();
  }

  /// Ends all connections there are, as a middlebox does that has forgotten them.
  void CutAll(bool reset) {
    (reset ? reset_all_ : close_all_) = true;
    Wake();
    while (reset ? reset_all_ : close_all_) std::this_thread::yield();
  }
  /// Ends each connection once the owner has sent so much on it.
  void CutAfter(uint64_t bytes) { cut_after_ = bytes; }
  /// Takes nothing from the owner any more.
  void Stall(bool stalled) {
    stalled_ = stalled;
    Wake();
  }
  uint64_t relayed_bytes() const { return relayed_bytes_; }
  int connections() const { return connections_; }

 private:
  struct Pair {
    FileDescriptor reader;
    FileDescriptor owner;
    uint64_t from_owner = 0;
    bool ended = false;
  };

  void Wake() {
    const uint64_t one = 1;
    ASSERT_EQ(::write(wake_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }

  // False where the connection has ended.
  bool Relay(int from, int to, uint64_t* bytes) {
    std::array<char, 16384> buffer;
    const ssize_t got = ::recv(from, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    *bytes += static_cast<uint64_t>(got);
    for (ssize_t sent = 0; sent < got;) {
      pollfd writable = {.fd = to, .events = POLLOUT};
      ::poll(&writable, 1, 1000);
      const ssize_t now = ::send(to, buffer.data() + sent, static_cast<size_t>(got - sent),
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
      if (now < 0 && errno != EAGAIN) return false;
      if (now < 0 && stopping_) return false;
      sent += std::max<ssize_t>(now, 0);
    }
    return true;
  }

  static void Reset(int fd) {
    const linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }

  void Accept() {
    FileDescriptor reader(::accept(listener_.get(), nullptr, nullptr));
    Result<FileDescriptor> owner = ConnectTcp(owner_);
    if (reader.get() < 0 || !owner.ok()) return;
    ++connections_;
    pairs_.push_back({.reader = std::move(reader), .owner = std::move(owner).value()});
  }

  void Run() {
    while (!stopping_) {
      std::vector<pollfd> files = {{.fd = wake_.get(), .events = POLLIN},
                                   {.fd = listener_.get(), .events = POLLIN}};
      for (const Pair& pair : pairs_) {
        files.push_back({.fd = pair.reader.get(), .events = POLLIN});
        files.push_back({.fd = stalled_ ? -1 : pair.owner.get(), .events = POLLIN});
      }
      ::poll(files.data(), files.size(), 1000);
      uint64_t wakes = 0;
      if (files[0].revents != 0 && ::read(wake_.get(), &wakes, sizeof(wakes)) < 0) return;
      size_t at = 2;
      for (Pair& pair : pairs_) {
        uint64_t to_owner = 0;
        const uint64_t before = pair.from_owner;
        if (files[at].revents != 0 && !Relay(pair.reader.get(), pair.owner.get(), &to_owner)) {
          pair.ended = true;
        }
        if (files[at + 1].revents != 0 &&
            !Relay(pair.owner.get(), pair.reader.get(), &pair.from_owner)) {
          pair.ended = true;
        }
        relayed_bytes_ += pair.from_owner - before;
        if (pair.from_owner >= cut_after_ || close_all_ || reset_all_) pair.ended = true;
        if (pair.ended && reset_all_) Reset(pair.reader.get());
        at += 2;
      }
      pairs_.remove_if([](const Pair& pair) { return pair.ended; });
      if (close_all_ || reset_all_) close_all_ = reset_all_ = false;
      if (files[1].revents != 0) Accept();
    }
  }

  const Address owner_;
  FileDescriptor listener_;
  FileDescriptor wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::string address_;
  std::list<Pair> pairs_;  // the thread's
  std::atomic<bool> stopping_{false};
  std::atomic<bool> close_all_{false};
  std::atomic<bool> reset_all_{false};
  std::atomic<bool> stalled_{false};
  std::atomic<uint64_t> cut_after_{UINT64_MAX};
  std::atomic<uint64_t> relayed_bytes_{0};
  std::atomic<int> connections_{0};
  std::thread thread_;
};

}  // namespace halfmoon::transfer
