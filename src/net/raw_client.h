// SPDX-License-Identifier: Apache-2.0
// For tests only: a socket that sends exactly the bytes it is told to, well-formed or not.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace halfmoon::net {

/// A blocking TCP connection to 127.0.0.1. Every wait is bounded. Not thread-safe.
class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer_bytes > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  ~RawClient() { Close(); }

  bool connected() const { return connected_; }

  /// False when the peer is gone.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  void ShutdownSend() { ::shutdown(fd_, SHUT_WR); }

  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  /// Makes the next Close send a reset.
  void ResetOnClose() {
    const linger option{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &option, sizeof option);
  }

  /// Everything until the peer closes; "<timeout>" is appended where it did not within `limit`.
  std::string ReadAll(std::chrono::milliseconds limit = std::chrono::seconds(10)) {
    return Read([](const std::string&) { return false; }, limit);
  }

  /// Until the text arrives, the peer closes or the time is up; returns everything read so far in
  /// this call.
  std::string ReadUntil(std::string_view text,
                        std::chrono::milliseconds limit = std::chrono::seconds(10)) {
    return Read([&](const std::string& all) { return all.find(text) != std::string::npos; }, limit);
  }

  /// At least `count` bytes, or what came before the peer closed or the time was up.
  std::string ReadBytes(size_t count, std::chrono::milliseconds limit = std::chrono::seconds(10)) {
    return Read([&](const std::string& all) { return all.size() >= count; }, limit);
  }

 private:
  template <typename Done>
  std::string Read(const Done& done, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    std::string all;
    std::array<char, 4096> piece;
    while (!done(all)) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd state{.fd = fd_, .events = POLLIN, .revents = 0};
      if (left.count() <= 0 || ::poll(&state, 1, static_cast<int>(left.count())) <= 0) {
        return all + "<timeout>";
      }
      const ssize_t got = ::recv(fd_, piece.data(), piece.size(), 0);
      if (got == 0) return all;
      if (got < 0) return all + "<reset>";
      all.append(piece.data(), static_cast<size_t>(got));
    }
    return all;
  }

  int fd_;
  bool connected_ = false;
};

/// A condition that another thread makes true.
class Event {
 public:
  void Set() { set_ = true; }
  bool is_set() const { return set_; }
  bool Wait(std::chrono::milliseconds limit = std::chrono::seconds(10)) const {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!set_ && std::chrono::steady_clock::now() < deadline) {
      ::usleep(1000);
    }
    return set_;
  }

 private:
  std::atomic<bool> set_{false};
};

}  // namespace halfmoon::net
