// SPDX-License-Identifier: Apache-2.0
// Messages between the processes of a cluster: long-lived connections that carry typed messages
// both ways, on which both ends have proved that they know the cluster's token, and which notice
// when the other end has gone silent. docs/formats/channel.md has the bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "net/timer.h"

namespace halfmoon::net {

struct ChannelOptions {
  /// Name or address to listen on; "0.0.0.0" or "::" for every interface.
  std::string host = "127.0.0.1";
  uint16_t port = 0;  ///< 0 lets the system choose
  std::string token;  ///< what both ends have to know; not empty

  std::chrono::milliseconds connect_timeout{3'000};  ///< look-up, connection and proof together
  std::chrono::milliseconds heartbeat{500};          ///< silence after which a sign of life is sent
  std::chrono::milliseconds dead_after{3'000};       ///< silence after which a peer counts as gone
  size_t max_message_bytes = 64 << 20;
  size_t max_queued_bytes = 256 << 20;  ///< of one channel, sent and not yet taken by the system
  size_t max_channels = 4096;           ///< accepted ones; above: closed at once
};

/// One connection. Thread-safe.
class Channel {
 public:
  virtual ~Channel() = default;
  /// Queues a message, also before the channel is open. False where the channel is closed, or where
  /// this message would exceed max_queued_bytes: the channel then closes, since its peer has not
  /// kept up. It closes too on a payload of more than max_message_bytes, which the peer would not
  /// take: whoever may have one looks first.
  virtual bool Send(uint16_t type, std::string payload) = 0;
  /// Idempotent. on_closed still runs.
  virtual void Close() = 0;
  virtual bool open() const = 0;
  /// "10.0.0.1:7000".
  virtual const std::string& peer() const = 0;
};

/// What happens on a channel. On the service's one IO thread: must return quickly, and may call
/// anything of Channel. Released after on_closed.
struct ChannelHandlers {
  std::function<void()> on_open;  ///< both ends have proved themselves
  std::function<void(uint16_t type, std::string payload)> on_message;
  /// Once, at the end or where it never opened; nothing follows. kCancelled: this end closed it;
  /// kUnavailable: the peer went or cannot be reached; kDeadlineExceeded: the peer is silent;
  /// kInvalidArgument: the peer has another token; kCorrupt: it does not follow the format;
  /// kResourceExhausted: this end sent more than a message may have.
  std::function<void(const Error&)> on_closed;
};

/// All channels of a process. Thread-safe.
class ChannelService {
 public:
  /// Asked for the handlers of each peer that has dialled this process and proved itself; on_open
  /// is not called for these.
  using Accept = std::function<ChannelHandlers(const std::shared_ptr<Channel>&)>;

  /// A service that dials only, so far. Errors: kInvalidArgument (token).
  static Result<std::unique_ptr<ChannelService>> Create(ChannelOptions options, Accept accept);
  /// Shutdown.
  ~ChannelService();
  ChannelService(const ChannelService&) = delete;
  ChannelService& operator=(const ChannelService&) = delete;

  /// Takes the address of the options, and answers the port; nobody is let in before Listen, so
  /// that whoever must be told the port first can be. Once. Errors: kInvalidArgument (host),
  /// kUnavailable (address in use), kIo.
  Result<uint16_t> Bind();
  /// Lets peers in. Once, after Bind.
  void Listen();
  /// Where it is bound; 0 where it is not.
  uint16_t port() const;
  /// Begins a connection and returns at once.
  std::shared_ptr<Channel> Dial(const std::string& host, uint16_t port, ChannelHandlers handlers);
  /// Timers on the IO thread, so that their callbacks never run beside handlers.
  TimerService& timers();
  /// Closes every channel, runs their on_closed and joins the thread. Idempotent. Not from a
  /// handler.
  void Shutdown();

 private:
  class Impl;
  explicit ChannelService(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

/// "HOST:PORT", "[::1]:7000". Errors: kInvalidArgument.
struct HostPort {
  std::string host;
  uint16_t port = 0;
};
Result<HostPort> ParseHostPort(const std::string& text);

}  // namespace halfmoon::net
