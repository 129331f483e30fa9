// SPDX-License-Identifier: Apache-2.0
#include "net/channel.h"

#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "net/channel_connection.h"
#include "net/listen.h"

namespace halfmoon::net {
namespace {

constexpr std::chrono::milliseconds kAcceptPause{100};

}  // namespace

class ChannelService::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(ChannelOptions options, Accept accept)
      : shared_(std::make_shared<ChannelShared>(std::move(options))),
        acceptor_(shared_->pool->context()),
        accept_timer_(shared_->pool->context()) {
    shared_->accept = std::move(accept);
  }

  Result<uint16_t> Bind() {
    HM_ASSIGN(local_, net::Listen(acceptor_, shared_->pool->context(), shared_->options.host,
                                  shared_->options.port));
    return local_.port();
  }

  void Listen() {
    asio::post(shared_->pool->context(), [self = shared_from_this()] { self->AcceptNext(); });
  }

  uint16_t port() const { return local_.port(); }
  TimerService& timers() { return shared_->timers; }

  std::shared_ptr<Channel> Dial(const std::string& host, uint16_t port, ChannelHandlers handlers) {
    const auto channel = std::make_shared<ChannelImpl>(shared_, ChannelImpl::Role::kDialler,
                                                       host + ":" + std::to_string(port), Gone());
    asio::post(shared_->pool->context(), [self = shared_from_this(), channel, host, port,
                                          handlers = std::move(handlers)]() mutable {
      self->Register(channel);
      channel->StartDialling(host, port, std::move(handlers));
      if (self->stopping_) channel->Close();
    });
    return channel;
  }

  void Shutdown() {
    std::lock_guard join(join_mutex_);
    if (std::exchange(joined_, true)) return;
    timers().Shutdown();
    asio::post(shared_->pool->context(), [self = shared_from_this()] {
      self->stopping_ = true;
      error_code ignored;
      self->acceptor_.close(ignored);
      self->accept_timer_.cancel();
      for (const auto& channel : std::vector(self->channels_.begin(), self->channels_.end())) {
        channel->Close();
      }
    });
    shared_->pool->Join();
    shared_->accept = nullptr;
  }

 private:
  ChannelImpl::OnGone Gone() {
    return [weak = weak_from_this()](ChannelImpl* channel) {
      if (const auto self = weak.lock()) self->channels_.erase(channel->shared_from_this());
    };
  }

  void Register(const std::shared_ptr<ChannelImpl>& channel) { channels_.insert(channel); }

  void AcceptNext() {
    if (!acceptor_.is_open()) return;
    acceptor_.async_accept(
        [self = shared_from_this()](const error_code& error, tcp::socket socket) {
          if (!self->acceptor_.is_open()) return;
          if (!error) {
            self->Admit(std::move(socket));
          } else if (error != asio::error::connection_aborted) {
            HM_LOG_WARN("cluster: accept failed: {}", error.message());
            self->accept_timer_.expires_after(kAcceptPause);
            self->accept_timer_.async_wait([self](const error_code&) { self->AcceptNext(); });
            return;
          }
          self->AcceptNext();
        });
  }

  void Admit(tcp::socket socket) {
    error_code error;
    const tcp::endpoint peer = socket.remote_endpoint(error);
    if (error || channels_.size() >= shared_->options.max_channels) return;
    const auto channel = std::make_shared<ChannelImpl>(shared_, ChannelImpl::Role::kAcceptor,
                                                       EndpointText(peer), Gone());
    Register(channel);
    channel->StartAccepted(std::move(socket));
  }

  const std::shared_ptr<ChannelShared> shared_;
  tcp::acceptor acceptor_;           // IO thread, after Bind
  asio::steady_timer accept_timer_;  // IO thread
  tcp::endpoint local_;
  bool stopping_ = false;                                      // IO thread
  std::unordered_set<std::shared_ptr<ChannelImpl>> channels_;  // IO thread
  std::mutex join_mutex_;
  bool joined_ = false;  // GUARDED_BY(join_mutex_)
};

Result<std::unique_ptr<ChannelService>> ChannelService::Create(ChannelOptions options,
                                                               Accept accept) {
  if (options.token.empty()) {
    return Error(ErrorCode::kInvalidArgument, "the cluster token is empty");
  }
  return std::unique_ptr<ChannelService>(
      new ChannelService(std::make_shared<Impl>(std::move(options), std::move(accept))));
}

ChannelService::ChannelService(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChannelService::~ChannelService() { Shutdown(); }
Result<uint16_t> ChannelService::Bind() { return impl_->Bind(); }
void ChannelService::Listen() { impl_->Listen(); }
uint16_t ChannelService::port() const { return impl_->port(); }
std::shared_ptr<Channel> ChannelService::Dial(const std::string& host, uint16_t port,
                                              ChannelHandlers handlers) {
  return impl_->Dial(host, port, std::move(handlers));
}
TimerService& ChannelService::timers() { return impl_->timers(); }
void ChannelService::Shutdown() { impl_->Shutdown(); }

Result<HostPort> ParseHostPort(const std::string& text) {
  const auto invalid = [&] {
    return Error(ErrorCode::kInvalidArgument, "'" + text + "' is not HOST:PORT");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return invalid();
  HostPort parsed{.host = text.substr(0, colon)};
  if (parsed.host.starts_with('[') && parsed.host.ends_with(']')) {
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  } else if (parsed.host.find(':') != std::string::npos) {
    return invalid();
  }
  const std::string port = text.substr(colon + 1);
  if (port.empty() || port.size() > 5 ||
      port.find_first_not_of("0123456789") != std::string::npos || parsed.host.empty()) {
    return invalid();
  }
  const unsigned long value = std::stoul(port);
  if (value == 0 || value > 65535) return invalid();
  parsed.port = static_cast<uint16_t>(value);
  return parsed;
}

}  // namespace halfmoon::net
