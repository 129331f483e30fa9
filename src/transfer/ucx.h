// SPDX-License-Identifier: Apache-2.0
// Messages over UCX (openucx.org), for the path that uses it. UCX itself is loaded when an engine
// starts, so a program runs where it is not installed; its types stay in ucx_library and
// ucx_worker, and a build without its headers has ucx_absent instead of both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "transfer/event_loop.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {

/// Told of what happens on a worker, on the loop's thread.
class UcxEvents {
 public:
  virtual ~UcxEvents() = default;
  /// A message has come, with `size` bytes (more than 0). Where they shall go; nullptr: nowhere.
  virtual std::byte* OnMessage(const UcxHeader& header, uint64_t size) = 0;
  /// The bytes of a message that has a target are there, or will not come any more.
  virtual void OnReceived(const UcxHeader& header, const Status& status) = 0;
  /// Some of the above may have happened, or a send has ended. Only here may the worker be stopped
  /// or be disposed of; `status` is what makes it useless.
  virtual void OnTurn(const Status& status) = 0;
};

/// One end of a connection: its own UCX worker, so that with it ends all that UCX does for the
/// connection. Loop thread only.
class UcxWorker : public EventHandler {
 public:
  /// For the other end's Connect. At most kMaxWorkerAddressBytes.
  virtual const std::string& address() const = 0;
  /// UCX reads addresses without looking at their size: only those of a peer that has proved the
  /// token. Errors: kUnavailable (no transport leads there).
  virtual Status Connect(std::string_view address) = 0;
  /// Requires Connect. `bytes` (more than 0) stay until `sent`, which may run at once, and does not
  /// run any more after Stop.
  virtual void Send(const UcxHeader& header, std::span<const std::byte> bytes,
                    std::function<void(const Status&)> sent) = 0;
  /// Nothing is read or written from now on, and no event comes any more.
  virtual void Stop() = 0;
};

/// What a worker is for: one sends, or one receives.
enum class UcxUse { kSend, kReceive };

/// UCX in this process, with the transports that it has found. Outlives its workers.
class Ucx {
 public:
  virtual ~Ucx() = default;
  /// "1.13.1".
  virtual const std::string& version() const = 0;
  /// "cma, posix, sysv".
  virtual const std::string& transports() const = 0;
  /// Both ends of a connection have to have the same.
  virtual uint64_t wire_version() const = 0;
  /// Errors: kIo. `loop` and `events` outlive the worker.
  virtual Result<std::unique_ptr<UcxWorker>> MakeWorker(UcxUse use, EventLoop* loop,
                                                        UcxEvents* events) = 0;
};

/// Errors: kUnsupported where it is not built in or not installed, kIo where it does not start.
Result<std::unique_ptr<Ucx>> StartUcx();

}  // namespace halfmoon::transfer
