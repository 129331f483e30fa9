// SPDX-License-Identifier: Apache-2.0
#include "net/connection.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/log.h"
#include "net/response_writer.h"

namespace halfmoon::net {
namespace {

// The piece that write_timeout is for. Small enough that a slow but honest client takes it in time,
// large enough that a system call for each does not matter.
constexpr size_t kWritePieceBytes = 64 << 10;
// Pipelined bytes kept beyond one head while a request is handled.
constexpr size_t kPipelineBytes = 64 << 10;
// How long a client may go on sending after an answer that ends the connection. Closing at once
// would make the system answer its bytes with a reset, and the reset can overtake the answer.
constexpr std::chrono::milliseconds kLingerTime{2'000};
constexpr std::chrono::milliseconds kLingerTimeStopping{200};

}  // namespace

Connection::Connection(std::unique_ptr<Transport> transport,
                       std::shared_ptr<const ConnectionContext> context, std::string peer,
                       Admission admission)
    : transport_(std::move(transport)),
      context_(std::move(context)),
      peer_(std::move(peer)),
      admission_(admission),
      parser_({.max_header_bytes = options().max_header_bytes,
               .max_body_bytes = options().max_body_bytes}),
      read_timer_(transport_->socket().get_executor()),
      write_timer_(transport_->socket().get_executor()),
      heartbeat_timer_(transport_->socket().get_executor()) {}

void Connection::Start() {
  asio::post(transport_->socket().get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kClosed) return;
    self->Arm(self->read_timer_, self->options().header_timeout, &Connection::OnReadTimeout);
    self->transport_->AsyncHandshake(
        [self](const error_code& error, size_t) { self->OnHandshake(error); });
  });
}

void Connection::BeginStop() {
  asio::post(transport_->socket().get_executor(), [self = shared_from_this()] {
    switch (self->phase_) {
      case Phase::kHandshake:
      case Phase::kIdle:
        self->Close();
        break;
      case Phase::kHandling:
        self->exchange_->RequestClose();
        break;
      case Phase::kLinger:
        self->Arm(self->read_timer_, kLingerTimeStopping, &Connection::Close);
        break;
      case Phase::kReadHead:
      case Phase::kReadBody:
      case Phase::kFailing:
      case Phase::kClosed:
        break;
    }
    self->close_after_ = true;
  });
}

void Connection::Cut() {
  asio::post(transport_->socket().get_executor(), [self = shared_from_this()] { self->Close(); });
}

void Connection::Arm(asio::steady_timer& timer, std::chrono::milliseconds delay,
                     void (Connection::*expired)()) {
  timer.expires_after(delay);
  timer.async_wait([self = shared_from_this(), &timer, expired](const error_code& error) {
    // A timer set anew while its old expiry was already queued is not expired.
    if (error || self->phase_ == Phase::kClosed) return;
    if (timer.expiry() > asio::steady_timer::clock_type::now()) return;
    (self.get()->*expired)();
  });
}

// Not cancel(): where the expiry is queued already, only a later time keeps it from counting.
void Connection::Disarm(asio::steady_timer& timer) {
  timer.expires_at(asio::steady_timer::time_point::max());
}

void Connection::OnHandshake(const error_code& error) {
  if (phase_ != Phase::kHandshake) return;
  if (error) {
    HM_LOG_DEBUG("net: {}: handshake failed: {}", peer_, error.message());
    Close();
    return;
  }
  if (admission_ == Admission::kRefuse) {
    Fail(503, "the server has too many connections; try again later");
    Read();
    return;
  }
  Advance();
}

// --- Reading
// -------------------------------------------------------------------------------------------

void Connection::Read() {
  if (reading_ || read_ended_ || phase_ == Phase::kClosed) return;
  reading_ = true;
  transport_->AsyncReadSome(asio::buffer(read_buffer_),
                            [self = shared_from_this()](const error_code& error, size_t count) {
                              self->reading_ = false;
                              self->OnRead(error, count);
                            });
}

void Connection::OnRead(const error_code& error, size_t count) {
  if (phase_ == Phase::kClosed) return;
  if (error) {
    read_ended_ = true;
    OnReadEnd(error);
    return;
  }
  const std::string_view bytes(read_buffer_.data(), count);
  switch (phase_) {
    case Phase::kIdle:
    case Phase::kReadHead:
    case Phase::kReadBody:
      parser_.Append(bytes);
      Advance();
      return;
    case Phase::kHandling:
      KeepPipelined(bytes);
      break;
    case Phase::kHandshake:
    case Phase::kFailing:
    case Phase::kLinger:
    case Phase::kClosed:
      break;  // Read and dropped, so that the client gets to the answer.
  }
  Read();
}

void Connection::KeepPipelined(std::string_view bytes) {
  if (close_after_) return;
  if (parser_.buffered_bytes() + bytes.size() > options().max_header_bytes + kPipelineBytes) {
    close_after_ = true;
    exchange_->RequestClose();
    return;
  }
  parser_.Append(bytes);
}

void Connection::OnReadEnd(const error_code& error) {
  const bool half_closed = error == asio::error::eof && transport_->can_half_close();
  switch (phase_) {
    case Phase::kReadHead:
    case Phase::kReadBody:
      if (half_closed) {
        Fail(400, "the connection ended inside the request");
      } else {
        Close();
      }
      return;
    case Phase::kHandling:
      if (half_closed && parser_.http11()) {
        exchange_->QueueProbe();
        WatchHalfClosed();
      } else {
        Close();
      }
      return;
    case Phase::kFailing:
      if (!half_closed) Close();
      return;
    case Phase::kHandshake:
    case Phase::kIdle:
    case Phase::kLinger:
    case Phase::kClosed:
      Close();
      return;
  }
}

void Connection::WatchHalfClosed() {
  transport_->AsyncWaitFailed([self = shared_from_this()](const error_code& error, size_t) {
    if (error || self->phase_ == Phase::kClosed) return;
    if (self->transport_->HasFailed()) {
      self->Close();
    } else {
      self->WatchHalfClosed();
    }
  });
}

void Connection::EnterReading(Phase phase, std::chrono::milliseconds timeout) {
  if (phase_ == phase) return;
  phase_ = phase;
  Arm(read_timer_, timeout, &Connection::OnReadTimeout);
}

void Connection::Advance() {
  switch (parser_.Advance()) {
    case ParseState::kIdle:
      if (read_ended_ || close_after_ || context_->stopping) {
        Close();
        return;
      }
      EnterReading(Phase::kIdle,
                   first_request_ ? options().header_timeout : options().idle_timeout);
      break;
    case ParseState::kHead:
      EnterReading(Phase::kReadHead, options().header_timeout);
      break;
    case ParseState::kBody:
      if (phase_ != Phase::kReadBody && parser_.expects_continue()) {
        own_output_.append(kContinueResponse);
      }
      EnterReading(Phase::kReadBody, options().body_timeout);
      Pump();
      break;
    case ParseState::kDone:
      Dispatch();
      break;
    case ParseState::kFailed:
      Fail(parser_.failure_status(), parser_.failure_message());
      break;
  }
  if (read_ended_ && (phase_ == Phase::kReadHead || phase_ == Phase::kReadBody)) {
    Fail(400, "the connection ended inside the request");
  }
  Read();
}

void Connection::OnReadTimeout() {
  switch (phase_) {
    case Phase::kReadHead:
      Fail(408, "the request head did not arrive in time");
      return;
    case Phase::kReadBody:
      Fail(408, "the request body did not arrive in time");
      return;
    case Phase::kHandshake:
    case Phase::kIdle:
    case Phase::kLinger:
      Close();
      return;
    case Phase::kHandling:
    case Phase::kFailing:
    case Phase::kClosed:
      return;
  }
}

// --- Handling
// ------------------------------------------------------------------------------------------

void Connection::Dispatch() {
  phase_ = Phase::kHandling;
  first_request_ = false;
  progress_ = Exchange::Progress::kMore;
  Disarm(read_timer_);
  Request request = parser_.TakeRequest();
  request.peer = peer_;
  const Exchange::Traits traits = {
      .http11 = parser_.http11(),
      .head_request = request.method == "HEAD",
      .keep_alive = parser_.keep_alive() && !close_after_ && !context_->stopping,
  };
  exchange_ = std::make_shared<Exchange>(traits, context_->options, [self = shared_from_this()] {
    asio::post(self->transport_->socket().get_executor(), [self] { self->Pump(); });
  });
  if (read_ended_) {
    exchange_->QueueProbe();
    WatchHalfClosed();
  }
  auto responder = std::make_shared<ExchangeResponder>(exchange_);
  try {
    context_->handler(std::move(request), responder);
  } catch (const std::exception& e) {
    HM_LOG_ERROR("net: the handler threw: {}", e.what());
    ErrorBody error = options().error_body(500, "internal error");
    responder->Send(
        {500, {{"Content-Type", std::move(error.content_type)}}, std::move(error.body)});
  }
}

void Connection::ScheduleHeartbeat() {
  if (heartbeat_armed_ || phase_ != Phase::kHandling) return;
  const std::chrono::milliseconds interval = exchange_->heartbeat_interval();
  if (interval.count() <= 0) return;
  heartbeat_armed_ = true;
  heartbeat_timer_.expires_after(interval);
  heartbeat_timer_.async_wait([self = shared_from_this(), exchange = exchange_](const error_code&) {
    self->heartbeat_armed_ = false;
    if (self->phase_ != Phase::kHandling) return;
    if (self->exchange_ == exchange) exchange->QueueHeartbeat();
    self->ScheduleHeartbeat();
  });
}

void Connection::Fail(int status, std::string_view message) {
  if (phase_ == Phase::kClosed) return;
  HM_LOG_DEBUG("net: {}: {} {}", peer_, status, message);
  phase_ = Phase::kFailing;
  close_after_ = true;
  Disarm(read_timer_);
  ErrorBody error = options().error_body(status, message);
  Headers headers = {{"Content-Type", std::move(error.content_type)}};
  if (status == 503) headers.Add("Retry-After", std::to_string(options().retry_after_s));
  const ResponseHead head = {
      .status = status, .content_length = error.body.size(), .keep_alive = false};
  AppendHead(head, headers, options().server_name, &own_output_);
  own_output_.append(error.body);
  Pump();
}

// --- Writing
// -------------------------------------------------------------------------------------------

void Connection::Pump() {
  if (writing_ || phase_ == Phase::kClosed || phase_ == Phase::kLinger) return;
  if (output_begin_ == output_.size() && !RefillOutput()) return;
  writing_ = true;
  const size_t piece_bytes = std::min(output_.size() - output_begin_, kWritePieceBytes);
  Arm(write_timer_, options().write_timeout, &Connection::Close);
  transport_->AsyncWrite(asio::buffer(output_.data() + output_begin_, piece_bytes),
                         [self = shared_from_this()](const error_code& error, size_t count) {
                           self->writing_ = false;
                           self->OnWritten(error, count);
                         });
}

// False where there is nothing to write now.
bool Connection::RefillOutput() {
  output_.clear();
  output_begin_ = 0;
  output_of_exchange_ = false;
  if (!own_output_.empty()) {
    output_.swap(own_output_);
    return true;
  }
  if (phase_ == Phase::kFailing) {
    Linger();
    return false;
  }
  if (phase_ != Phase::kHandling) return false;
  if (progress_ == Exchange::Progress::kMore) {
    Exchange::Output taken = exchange_->TakeOutput();
    progress_ = taken.progress;
    output_ = std::move(taken.bytes);
    ScheduleHeartbeat();
  }
  if (!output_.empty()) {
    output_of_exchange_ = true;
    return true;
  }
  if (progress_ == Exchange::Progress::kComplete) EndExchange();
  if (progress_ == Exchange::Progress::kBroken) {
    // Without chunks the end of the connection is the end of the body, so an unfinished one needs a
    // reset.
    if (!parser_.http11()) transport_->Abort();
    Close();
  }
  return false;
}

void Connection::OnWritten(const error_code& error, size_t count) {
  if (phase_ == Phase::kClosed) return;
  Disarm(write_timer_);
  if (error) {
    Close();
    return;
  }
  output_begin_ += count;
  if (output_of_exchange_ && exchange_) exchange_->OnWritten(count);
  Pump();
}

void Connection::EndExchange() {
  const bool keep_alive = exchange_->keep_alive() && !close_after_ && !context_->stopping;
  exchange_->Complete();
  exchange_.reset();
  progress_ = Exchange::Progress::kMore;
  Disarm(heartbeat_timer_);
  if (!keep_alive) {
    Linger();
    return;
  }
  // The phase is set by Advance, which may find the next request in the buffer already.
  Advance();
}

// --- Closing
// -------------------------------------------------------------------------------------------

void Connection::Linger() {
  if (read_ended_) {
    Close();
    return;
  }
  phase_ = Phase::kLinger;
  Arm(read_timer_, context_->stopping ? kLingerTimeStopping : kLingerTime, &Connection::Close);
  transport_->AsyncShutdownSend([self = shared_from_this()](const error_code&, size_t) {});
  Read();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  Disarm(read_timer_);
  Disarm(write_timer_);
  Disarm(heartbeat_timer_);
  transport_->Close();
  if (exchange_) {
    const std::shared_ptr<Exchange> exchange = std::exchange(exchange_, nullptr);
    exchange->Lost();
  }
  context_->on_closed(this);
}

}  // namespace halfmoon::net
