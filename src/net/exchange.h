// SPDX-License-Identifier: Apache-2.0
// Internal to net: one request's answer on its way from the handler's threads to the connection.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "net/http_server.h"

namespace halfmoon::net {

/// The meeting point of a Responder (any thread) and a Connection (its strand): bytes go one way,
/// the news that the client is gone the other. It may outlive the connection and the server.
/// Thread-safe.
class Exchange {
 public:
  struct Traits {
    bool http11 = true;
    bool head_request = false;
    bool keep_alive = true;  ///< What the client wishes.
  };

  /// wake: makes the connection call TakeOutput soon; must not call back into this object. Not
  /// called any more after Lost or Complete has returned, so it may hold what lives as long as the
  /// connection is open.
  Exchange(Traits traits, std::shared_ptr<const HttpServerOptions> options,
           std::function<void()> wake);

  // The handler's side; see Responder.
  bool Send(Response response);
  bool StartStream(StreamHead head);
  WriteResult Write(std::string_view chunk);
  bool Finish();
  void OnDrained(std::function<void()> callback);
  void OnDisconnect(std::function<void()> callback);
  bool disconnected() const;
  /// The last Responder is gone: answers 500, or breaks off an unfinished stream.
  void Abandon();

  // The connection's side.
  enum class Progress {
    kMore,      ///< Not at its end yet; wake tells when there are more bytes.
    kComplete,  ///< These bytes are the last.
    kBroken,    ///< There will be no proper end.
  };
  struct Output {
    std::string bytes;
    Progress progress = Progress::kMore;
  };
  Output TakeOutput();
  /// `count` bytes of what TakeOutput gave are with the operating system.
  void OnWritten(size_t count);
  /// The client ended its sending side: queues something harmless whose fate tells whether it still
  /// listens.
  void QueueProbe();
  /// Queues a heartbeat if the stream was silent since the last call.
  void QueueHeartbeat();
  /// 0 where none was asked for.
  std::chrono::milliseconds heartbeat_interval() const;
  /// The connection is to close after this response.
  void RequestClose();
  /// What the head said, or will say.
  bool keep_alive() const;
  /// The connection is lost before the end: tells the handler.
  void Lost();
  /// Everything was written.
  void Complete();

 private:
  enum class Phase { kOpen, kStreaming, kEnded, kBroken, kClosed };

  bool BodyAllowedLocked() const { return !traits_.head_request && !status_forbids_body_; }
  size_t WaitingLocked() const { return out_.size() + in_flight_bytes_; }
  bool HasRoomLocked() const;
  void WakeLocked();
  void AppendContentLocked(std::string_view content);
  std::function<void()> TakeDrainedLocked();

  const Traits traits_;
  const std::shared_ptr<const HttpServerOptions> options_;

  mutable std::mutex mutex_;
  std::function<void()> wake_;         // GUARDED_BY(mutex_); empty once closed
  bool wake_pending_ = false;          // GUARDED_BY(mutex_)
  Phase phase_ = Phase::kOpen;         // GUARDED_BY(mutex_)
  bool lost_ = false;                  // GUARDED_BY(mutex_)
  bool keep_alive_ = true;             // GUARDED_BY(mutex_)
  bool chunked_ = false;               // GUARDED_BY(mutex_)
  bool status_forbids_body_ = false;   // GUARDED_BY(mutex_)
  bool wrote_since_heartbeat_ = true;  // GUARDED_BY(mutex_)
  std::string out_;                    // GUARDED_BY(mutex_)
  size_t refused_bytes_ = 0;           // GUARDED_BY(mutex_); the chunk that met kFull
  size_t in_flight_bytes_ = 0;         // GUARDED_BY(mutex_); taken and not yet written
  std::string heartbeat_;              // GUARDED_BY(mutex_)
  std::chrono::milliseconds heartbeat_interval_{0};  // GUARDED_BY(mutex_)
  std::function<void()> on_drained_;                 // GUARDED_BY(mutex_)
  std::function<void()> on_disconnect_;              // GUARDED_BY(mutex_)
};

/// The handler's handle on an exchange.
class ExchangeResponder final : public Responder {
 public:
  explicit ExchangeResponder(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ExchangeResponder(const ExchangeResponder&) = delete;
  ExchangeResponder& operator=(const ExchangeResponder&) = delete;
  ~ExchangeResponder() override { exchange_->Abandon(); }

  bool Send(Response response) override { return exchange_->Send(std::move(response)); }
  bool StartStream(StreamHead head) override { return exchange_->StartStream(std::move(head)); }
  WriteResult Write(std::string_view chunk) override { return exchange_->Write(chunk); }
  bool Finish() override { return exchange_->Finish(); }
  void OnDrained(std::function<void()> callback) override {
    exchange_->OnDrained(std::move(callback));
  }
  void OnDisconnect(std::function<void()> callback) override {
    exchange_->OnDisconnect(std::move(callback));
  }
  bool disconnected() const override { return exchange_->disconnected(); }

 private:
  const std::shared_ptr<Exchange> exchange_;
};

}  // namespace halfmoon::net
