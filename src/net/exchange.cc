// SPDX-License-Identifier: Apache-2.0
#include "net/exchange.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/log.h"
#include "net/response_writer.h"

namespace halfmoon::net {
namespace {

// Callbacks belong to the handler; what one throws must not end the thread or connection that ran
// it.
void RunGuarded(const std::function<void()>& callback) {
  if (!callback) return;
  try {
    callback();
  } catch (const std::exception& e) {
    HM_LOG_ERROR("net: a response callback threw: {}", e.what());
  }
}

}  // namespace

Exchange::Exchange(Traits traits, std::shared_ptr<const HttpServerOptions> options,
                   std::function<void()> wake)
    : traits_(traits),
      options_(std::move(options)),
      wake_(std::move(wake)),
      keep_alive_(traits.keep_alive) {}

bool Exchange::HasRoomLocked() const {
  // Half, so that a fast producer is not woken for every few bytes; and enough for the chunk that
  // was refused, or it would be refused again at once.
  const size_t waiting = WaitingLocked();
  const size_t bound = options_->max_stream_buffer_bytes;
  return waiting == 0 || (waiting <= bound / 2 && refused_bytes_ <= bound - waiting);
}

void Exchange::WakeLocked() {
  if (wake_pending_ || !wake_) return;
  wake_pending_ = true;
  wake_();
}

void Exchange::AppendContentLocked(std::string_view content) {
  wrote_since_heartbeat_ = true;
  if (!BodyAllowedLocked()) return;
  if (chunked_) {
    AppendChunk(content, &out_);
  } else {
    out_.append(content);
  }
  WakeLocked();
}

bool Exchange::Send(Response response) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kOpen) return false;
  status_forbids_body_ = StatusForbidsBody(response.status);
  if (response.headers.HasToken("Connection", "close")) keep_alive_ = false;
  const ResponseHead head = {
      .status = response.status,
      .framing = status_forbids_body_ ? Framing::kNone : Framing::kLength,
      .content_length = response.body.size(),
      .http11_client = traits_.http11,
      .keep_alive = keep_alive_,
  };
  AppendHead(head, response.headers, options_->server_name, &out_);
  if (BodyAllowedLocked()) out_.append(response.body);
  phase_ = Phase::kEnded;
  WakeLocked();
  return true;
}

bool Exchange::StartStream(StreamHead head) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kOpen) return false;
  status_forbids_body_ = StatusForbidsBody(head.status);
  if (head.headers.HasToken("Connection", "close") || !traits_.http11) keep_alive_ = false;
  chunked_ = traits_.http11 && !status_forbids_body_;
  const ResponseHead written = {
      .status = head.status,
      .framing = status_forbids_body_ ? Framing::kNone
                 : chunked_           ? Framing::kChunked
                                      : Framing::kUntilClose,
      .content_length = 0,
      .http11_client = traits_.http11,
      .keep_alive = keep_alive_,
  };
  AppendHead(written, head.headers, options_->server_name, &out_);
  heartbeat_ = std::move(head.heartbeat);
  heartbeat_interval_ = head.heartbeat_interval;
  phase_ = Phase::kStreaming;
  WakeLocked();
  return true;
}

WriteResult Exchange::Write(std::string_view chunk) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kStreaming) return WriteResult::kClosed;
  if (const size_t waiting = WaitingLocked();
      waiting > 0 && waiting + chunk.size() > options_->max_stream_buffer_bytes) {
    refused_bytes_ = chunk.size();
    return WriteResult::kFull;
  }
  refused_bytes_ = 0;
  AppendContentLocked(chunk);
  return WriteResult::kOk;
}

bool Exchange::Finish() {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kStreaming) return false;
  if (chunked_ && BodyAllowedLocked()) out_.append(kLastChunk);
  phase_ = Phase::kEnded;
  WakeLocked();
  return true;
}

void Exchange::OnDrained(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (phase_ != Phase::kClosed && !HasRoomLocked()) {
      std::swap(on_drained_, callback);
      return;  // An earlier callback is dropped with the parameter, after the lock.
    }
  }
  RunGuarded(callback);
}

void Exchange::OnDisconnect(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (phase_ == Phase::kClosed && !lost_) return;
    if (phase_ != Phase::kClosed) {
      std::swap(on_disconnect_, callback);
      return;
    }
  }
  RunGuarded(callback);
}

bool Exchange::disconnected() const {
  std::lock_guard lock(mutex_);
  return lost_;
}

void Exchange::Abandon() {
  {
    std::lock_guard lock(mutex_);
    if (phase_ == Phase::kStreaming) {
      phase_ = Phase::kBroken;
      WakeLocked();
    }
    if (phase_ != Phase::kOpen) return;
  }
  // Nobody else holds the Responder any more, so the phase can only change to closed meanwhile,
  // which Send sees.
  ErrorBody error = options_->error_body(500, "the request was dropped without an answer");
  Send({500, {{"Content-Type", std::move(error.content_type)}}, std::move(error.body)});
}

Exchange::Output Exchange::TakeOutput() {
  std::lock_guard lock(mutex_);
  wake_pending_ = false;
  Output output;
  output.bytes = std::exchange(out_, {});
  in_flight_bytes_ += output.bytes.size();
  if (phase_ == Phase::kEnded) output.progress = Progress::kComplete;
  if (phase_ == Phase::kBroken) output.progress = Progress::kBroken;
  return output;
}

std::function<void()> Exchange::TakeDrainedLocked() { return std::exchange(on_drained_, nullptr); }

void Exchange::OnWritten(size_t count) {
  std::function<void()> drained;
  {
    std::lock_guard lock(mutex_);
    in_flight_bytes_ -= std::min(count, in_flight_bytes_);
    if (HasRoomLocked()) drained = TakeDrainedLocked();
  }
  RunGuarded(drained);
}

void Exchange::QueueProbe() {
  std::lock_guard lock(mutex_);
  if (phase_ == Phase::kOpen) {
    out_.append(kContinueResponse);
    WakeLocked();
  } else if (phase_ == Phase::kStreaming && !heartbeat_.empty()) {
    AppendContentLocked(heartbeat_);
  }
}

void Exchange::QueueHeartbeat() {
  std::lock_guard lock(mutex_);
  const bool silent = !std::exchange(wrote_since_heartbeat_, false);
  if (silent && phase_ == Phase::kStreaming && out_.empty() && in_flight_bytes_ == 0 &&
      !heartbeat_.empty()) {
    AppendContentLocked(heartbeat_);
    wrote_since_heartbeat_ = false;
  }
}

std::chrono::milliseconds Exchange::heartbeat_interval() const {
  std::lock_guard lock(mutex_);
  return phase_ == Phase::kStreaming ? heartbeat_interval_ : std::chrono::milliseconds(0);
}

void Exchange::RequestClose() {
  std::lock_guard lock(mutex_);
  keep_alive_ = false;
}

bool Exchange::keep_alive() const {
  std::lock_guard lock(mutex_);
  return keep_alive_;
}

void Exchange::Lost() {
  std::function<void()> drained;
  std::function<void()> disconnect;
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    if (phase_ == Phase::kClosed) return;
    phase_ = Phase::kClosed;
    lost_ = true;
    std::string().swap(out_);
    wake = std::exchange(wake_, nullptr);
    drained = TakeDrainedLocked();
    disconnect = std::exchange(on_disconnect_, nullptr);
  }
  RunGuarded(disconnect);
  RunGuarded(drained);
}

void Exchange::Complete() {
  std::function<void()> drained;
  std::function<void()> disconnect;
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    if (phase_ == Phase::kClosed) return;
    phase_ = Phase::kClosed;
    wake = std::exchange(wake_, nullptr);
    drained = TakeDrainedLocked();
    // Released outside the lock: what it holds may call back when it goes.
    disconnect = std::exchange(on_disconnect_, nullptr);
  }
  RunGuarded(drained);
}

}  // namespace halfmoon::net
