// SPDX-License-Identifier: Apache-2.0
// One channel: a state machine on the IO thread of its service. channel_handshake has its
// beginning, channel_connection what follows.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "net/asio.h"
#include "net/channel.h"
#include "net/io_pool.h"
#include "net/transport.h"

namespace halfmoon::net {

/// What channels share with their service. Outlives it where a Channel does.
struct ChannelShared {
  explicit ChannelShared(ChannelOptions given)
      : options(std::move(given)), pool(std::make_shared<IoPool>(1)), timers(pool) {}

  const ChannelOptions options;
  const std::shared_ptr<IoPool> pool;
  TimerService timers;
  ChannelService::Accept accept;
};

/// Whoever waits for an operation holds a shared_ptr.
class ChannelImpl final : public Channel, public std::enable_shared_from_this<ChannelImpl> {
 public:
  enum class Role { kDialler, kAcceptor };
  using OnGone = std::function<void(ChannelImpl*)>;

  ChannelImpl(std::shared_ptr<ChannelShared> shared, Role role, std::string peer, OnGone on_gone)
      : shared_(std::move(shared)),
        role_(role),
        peer_(std::move(peer)),
        on_gone_(std::move(on_gone)),
        socket_(shared_->pool->context()),
        resolver_(shared_->pool->context()),
        timer_(shared_->pool->context()) {}

  // IO thread from here on, where not said otherwise.

  void StartAccepted(tcp::socket socket);
  void StartDialling(const std::string& host, uint16_t port, ChannelHandlers handlers);

  /// Any thread.
  bool Send(uint16_t type, std::string payload) override;

  /// Any thread.
  void Close() override;

  bool open() const override { return open_.load(std::memory_order_acquire); }
  const std::string& peer() const override { return peer_; }

 private:
  static constexpr size_t kHeaderBytes = 8;
  struct Message {
    uint16_t type = 0;
    std::string payload;
  };

  void EndLater(Error error);
  void StartTimer() { WaitUntilLate(shared_->options.connect_timeout); }
  void WaitUntilLate(std::chrono::milliseconds after);

  // Each side says who it is and a number nobody has seen; the dialler proves itself first, so that
  // nobody gets a proof for the asking.
  void Greet();
  void ReadGreeting();
  Result<std::string> ProofBy(Role role) const;
  void ProveFirst();
  void CheckFirst();
  void CheckProof(Role by, std::function<void()> then);
  void RefuseToken();
  void BeOpen();
  static std::chrono::steady_clock::time_point SteadyNow();

  // Both ends send something at least every `heartbeat`, so a peer that does not for `dead_after`
  // is gone or cut off. Where this process itself did not run, what has come meanwhile is read
  // before anybody is called silent.
  void Watch();
  void ReadHeader();
  void TakeHeader();

  // In pieces, so that memory grows with what has arrived and not with what was announced. Whatever
  // arrives of a long message is a sign of life, however slow the link is.
  void ReadPayload(uint16_t type, size_t size, size_t have = 0);
  void Write();
  void WriteText(std::string text, std::function<void()> then);
  void ReadText(size_t size, std::function<void(const std::string&)> then);
  void Lose(const char* what, const error_code& error);
  void End(const Error& error);

  const std::shared_ptr<ChannelShared> shared_;
  const Role role_;
  const std::string peer_;
  const OnGone on_gone_;
  std::atomic<bool> open_{false};

  tcp::socket socket_;
  tcp::resolver resolver_;
  asio::steady_timer timer_;
  ChannelHandlers handlers_;
  std::string nonce_;
  std::string peer_nonce_;
  std::array<unsigned char, kHeaderBytes> header_{};
  std::string payload_;
  std::string out_;
  bool gone_ = false;
  bool writing_ = false;
  bool alive_due_ = false;
  std::chrono::steady_clock::time_point heard_{};
  std::chrono::steady_clock::time_point spoke_{};

  std::mutex mutex_;
  std::deque<Message> queue_;  // GUARDED_BY(mutex_)
  size_t queued_bytes_ = 0;    // GUARDED_BY(mutex_): those being written included
  bool write_posted_ = false;  // GUARDED_BY(mutex_)
  bool closing_ = false;       // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::net
