// SPDX-License-Identifier: Apache-2.0
// clang-format off: asio.h has to come first, it decides how Asio is compiled.
#include "net/asio.h"
#include <boost/asio/connect.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
// clang-format on
#include "net/channel_connection.h"

#include "base/check.h"

namespace halfmoon::net {
namespace {

constexpr uint16_t kSignOfLife = 0xFFFF;
// What is written at once: small messages share a system call.
constexpr size_t kWriteBytes = 256 << 10;

void AppendHeader(uint16_t type, size_t size, std::string* out) {
  for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(size >> (8 * i)));
  out->push_back(static_cast<char>(type));
  out->push_back(static_cast<char>(type >> 8));
  out->append(2, '\0');
}

}  // namespace

void ChannelImpl::StartAccepted(tcp::socket socket) {
  socket_ = std::move(socket);
  StartTimer();
  Greet();
}

void ChannelImpl::StartDialling(const std::string& host, uint16_t port, ChannelHandlers handlers) {
  handlers_ = std::move(handlers);
  StartTimer();
  resolver_.async_resolve(host, std::to_string(port),
                          [self = shared_from_this()](const error_code& error, const auto& found) {
                            if (self->gone_) return;
                            if (error) return self->Lose("cannot look up", error);
                            asio::async_connect(
                                self->socket_, found,
                                [self](const error_code& failed, const tcp::endpoint&) {
                                  if (self->gone_) return;
                                  if (failed) return self->Lose("cannot connect", failed);
                                  self->Greet();
                                });
                          });
}

bool ChannelImpl::Send(uint16_t type, std::string payload) {
  HM_CHECK(type != kSignOfLife, "a reserved type");
  const ChannelOptions& options = shared_->options;
  const bool fits = payload.size() <= options.max_message_bytes;
  {
    std::lock_guard lock(mutex_);
    if (closing_) return false;
    if (fits && queued_bytes_ + payload.size() + kHeaderBytes <= options.max_queued_bytes) {
      queued_bytes_ += payload.size() + kHeaderBytes;
      queue_.push_back({.type = type, .payload = std::move(payload)});
      if (std::exchange(write_posted_, true)) return true;
      asio::post(shared_->pool->context(), [self = shared_from_this()] { self->Write(); });
      return true;
    }
    closing_ = true;
  }
  EndLater(fits ? Error(ErrorCode::kUnavailable,
                        peer_ + " does not keep up: " + std::to_string(options.max_queued_bytes) +
                            " bytes wait for it")
                : Error(ErrorCode::kResourceExhausted,
                        "a message of " + std::to_string(payload.size()) + " bytes to " + peer_ +
                            ": it may have " + std::to_string(options.max_message_bytes)));
  return false;
}

void ChannelImpl::Close() {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(closing_, true)) return;
  }
  EndLater(Error(ErrorCode::kCancelled, "closed"));
}

void ChannelImpl::EndLater(Error error) {
  asio::post(shared_->pool->context(),
             [self = shared_from_this(), error = std::move(error)] { self->End(error); });
}

void ChannelImpl::WaitUntilLate(std::chrono::milliseconds after) {
  timer_.expires_after(after);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->gone_) return;
    self->End(Error(ErrorCode::kDeadlineExceeded, self->peer_ + " does not answer"));
  });
}

void ChannelImpl::BeOpen() {
  if (gone_) return;
  open_.store(true, std::memory_order_release);
  heard_ = spoke_ = SteadyNow();
  Watch();
  if (role_ == Role::kDialler && handlers_.on_open) handlers_.on_open();
  Write();
  ReadHeader();
}

std::chrono::steady_clock::time_point ChannelImpl::SteadyNow() {
  return std::chrono::steady_clock::now();
}

void ChannelImpl::Watch() {
  const auto heartbeat = shared_->options.heartbeat;
  timer_.expires_after(heartbeat);
  timer_.async_wait([self = shared_from_this(), heartbeat,
                     due = SteadyNow() + heartbeat](const error_code& error) {
    if (error || self->gone_) return;
    const auto now = SteadyNow();
    if (now - due < heartbeat && now - self->heard_ > self->shared_->options.dead_after) {
      return self->End(Error(ErrorCode::kDeadlineExceeded,
                             self->peer_ + " has been silent for " +
                                 std::to_string(self->shared_->options.dead_after.count()) +
                                 " ms"));
    }
    self->alive_due_ = now - self->spoke_ >= self->shared_->options.heartbeat / 2;
    self->Write();
    self->Watch();
  });
}

void ChannelImpl::ReadHeader() {
  asio::async_read(socket_, asio::buffer(header_),
                   [self = shared_from_this()](const error_code& error, size_t) {
                     if (self->gone_) return;
                     if (error) return self->Lose("lost", error);
                     self->TakeHeader();
                   });
}

void ChannelImpl::TakeHeader() {
  heard_ = SteadyNow();
  size_t size = 0;
  for (size_t i = 0; i < 4; ++i) size |= static_cast<size_t>(header_[i]) << (8 * i);
  const auto type = static_cast<uint16_t>(header_[4] | (header_[5] << 8));
  if (size > shared_->options.max_message_bytes || (type == kSignOfLife && size > 0)) {
    return End(Error(ErrorCode::kCorrupt,
                     peer_ + " announces a message of " + std::to_string(size) + " bytes"));
  }
  if (type == kSignOfLife) return ReadHeader();
  payload_.clear();
  ReadPayload(type, size);
}

void ChannelImpl::ReadPayload(uint16_t type, size_t size, size_t have) {
  if (have == size) {
    if (handlers_.on_message) handlers_.on_message(type, std::move(payload_));
    payload_ = {};
    if (!gone_) ReadHeader();
    return;
  }
  if (payload_.size() == have) payload_.resize(std::min(size, have + (size_t{1} << 20)));
  socket_.async_read_some(
      asio::buffer(payload_.data() + have, payload_.size() - have),
      [self = shared_from_this(), type, size, have](const error_code& error, size_t count) {
        if (self->gone_) return;
        if (error) return self->Lose("lost", error);
        self->heard_ = SteadyNow();
        self->ReadPayload(type, size, have + count);
      });
}

void ChannelImpl::Write() {
  if (gone_ || writing_ || !open()) return;
  out_.clear();
  {
    std::lock_guard lock(mutex_);
    write_posted_ = false;
    while (!queue_.empty() && (out_.empty() || out_.size() < kWriteBytes)) {
      AppendHeader(queue_.front().type, queue_.front().payload.size(), &out_);
      out_ += queue_.front().payload;
      queue_.pop_front();
    }
  }
  if (out_.empty() && std::exchange(alive_due_, false)) AppendHeader(kSignOfLife, 0, &out_);
  if (out_.empty()) return;
  writing_ = true;
  asio::async_write(socket_, asio::buffer(out_),
                    [self = shared_from_this()](const error_code& error, size_t count) {
                      if (self->gone_) return;
                      if (error) return self->Lose("lost", error);
                      self->writing_ = false;
                      self->spoke_ = SteadyNow();
                      {
                        std::lock_guard lock(self->mutex_);
                        self->queued_bytes_ -= std::min(self->queued_bytes_, count);
                      }
                      self->Write();
                    });
}

void ChannelImpl::Lose(const char* what, const error_code& error) {
  End(Error(ErrorCode::kUnavailable, std::string(what) + " " + peer_ + ": " + error.message()));
}

void ChannelImpl::End(const Error& error) {
  if (std::exchange(gone_, true)) return;
  open_.store(false, std::memory_order_release);
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    queue_.clear();
  }
  error_code ignored;
  socket_.close(ignored);
  resolver_.cancel();
  timer_.cancel();
  const ChannelHandlers handlers = std::exchange(handlers_, {});
  if (handlers.on_closed) handlers.on_closed(error);
  on_gone_(this);
}

}  // namespace halfmoon::net
