// SPDX-License-Identifier: Apache-2.0
#include "net/channel.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
// clang-format off: asio.h has to come first, it decides how Asio is compiled.
#include "net/asio.h"
#include <boost/asio/connect.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
// clang-format on
#include "net/digest.h"
#include "net/io_pool.h"
#include "net/listen.h"
#include "net/transport.h"

namespace halfmoon::net {
namespace {

// docs/formats/channel.md.
constexpr std::string_view kMagic = "HMCHAN01";
constexpr size_t kNonceBytes = 32;
constexpr size_t kProofBytes = 32;
constexpr size_t kHeaderBytes = 8;
constexpr uint16_t kSignOfLife = 0xFFFF;
constexpr std::string_view kByDialler = "dialler";
constexpr std::string_view kByAcceptor = "acceptor";
// What is written at once: small messages share a system call.
constexpr size_t kWriteBytes = 256 << 10;
constexpr std::chrono::milliseconds kAcceptPause{100};

using Header = std::array<unsigned char, kHeaderBytes>;

void AppendHeader(uint16_t type, size_t size, std::string* out) {
  for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(size >> (8 * i)));
  out->push_back(static_cast<char>(type));
  out->push_back(static_cast<char>(type >> 8));
  out->append(2, '\0');
}

// Both nonces are in each proof, and who gives it, so that none can be played back.
Result<std::string> ProofOf(const std::string& token, std::string_view who,
                            std::string_view dialler_nonce, std::string_view acceptor_nonce) {
  std::string message(kMagic);
  message.append(who).append(dialler_nonce).append(acceptor_nonce);
  return HmacSha256(token, message);
}

void Keep(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
}

}  // namespace

/// What channels share with their service. Outlives it where a Channel does.
struct ChannelShared {
  explicit ChannelShared(ChannelOptions given)
      : options(std::move(given)), pool(std::make_shared<IoPool>(1)), timers(pool) {}

  const ChannelOptions options;
  const std::shared_ptr<IoPool> pool;
  TimerService timers;
  ChannelService::Accept accept;
};

namespace {

/// A state machine on the IO thread. Whoever waits for an operation holds a shared_ptr.
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

  void StartAccepted(tcp::socket socket) {
    socket_ = std::move(socket);
    StartTimer();
    Greet();
  }

  void StartDialling(const std::string& host, uint16_t port, ChannelHandlers handlers) {
    handlers_ = std::move(handlers);
    StartTimer();
    resolver_.async_resolve(
        host, std::to_string(port),
        [self = shared_from_this()](const error_code& error, const auto& found) {
          if (self->gone_) return;
          if (error) return self->Lose("cannot look up", error);
          asio::async_connect(self->socket_, found,
                              [self](const error_code& failed, const tcp::endpoint&) {
                                if (self->gone_) return;
                                if (failed) return self->Lose("cannot connect", failed);
                                self->Greet();
                              });
        });
  }

  /// Any thread.
  bool Send(uint16_t type, std::string payload) override {
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

  /// Any thread.
  void Close() override {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(closing_, true)) return;
    }
    EndLater(Error(ErrorCode::kCancelled, "closed"));
  }

  bool open() const override { return open_.load(std::memory_order_acquire); }
  const std::string& peer() const override { return peer_; }

 private:
  struct Message {
    uint16_t type = 0;
    std::string payload;
  };

  void EndLater(Error error) {
    asio::post(shared_->pool->context(),
               [self = shared_from_this(), error = std::move(error)] { self->End(error); });
  }

  void StartTimer() { WaitUntilLate(shared_->options.connect_timeout); }

  void WaitUntilLate(std::chrono::milliseconds after) {
    timer_.expires_after(after);
    timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (error || self->gone_) return;
      self->End(Error(ErrorCode::kDeadlineExceeded, self->peer_ + " does not answer"));
    });
  }

  // Each side says who it is and a number nobody has seen; the dialler proves itself first, so that
  // nobody gets a proof for the asking.
  void Greet() {
    Keep(socket_);
    Result<std::string> nonce = RandomBytes(kNonceBytes);
    if (!nonce.ok()) return End(nonce.error());
    nonce_ = *nonce;
    WriteText(std::string(kMagic) + nonce_, [self = shared_from_this()] { self->ReadGreeting(); });
  }

  void ReadGreeting() {
    ReadText(kMagic.size() + kNonceBytes, [self = shared_from_this()](const std::string& text) {
      if (!text.starts_with(kMagic)) {
        return self->End(Error(ErrorCode::kCorrupt, self->peer_ + " speaks another protocol"));
      }
      self->peer_nonce_ = text.substr(kMagic.size());
      self->role_ == Role::kDialler ? self->ProveFirst() : self->CheckFirst();
    });
  }

  Result<std::string> ProofBy(Role role) const {
    const bool dials = role_ == Role::kDialler;
    return ProofOf(shared_->options.token, role == Role::kDialler ? kByDialler : kByAcceptor,
                   dials ? nonce_ : peer_nonce_, dials ? peer_nonce_ : nonce_);
  }

  void ProveFirst() {
    Result<std::string> proof = ProofBy(Role::kDialler);
    if (!proof.ok()) return End(proof.error());
    WriteText(*proof, [self = shared_from_this()] {
      self->CheckProof(Role::kAcceptor, [self] { self->BeOpen(); });
    });
  }

  void CheckFirst() {
    CheckProof(Role::kDialler, [self = shared_from_this()] {
      Result<std::string> proof = self->ProofBy(Role::kAcceptor);
      if (!proof.ok()) return self->End(proof.error());
      self->WriteText(*proof, [self] {
        self->handlers_ = self->shared_->accept(self);
        self->BeOpen();
      });
    });
  }

  void CheckProof(Role by, std::function<void()> then) {
    ReadText(kProofBytes,
             [self = shared_from_this(), by, then = std::move(then)](const std::string& proof) {
               const Result<std::string> expected = self->ProofBy(by);
               if (!expected.ok()) return self->End(expected.error());
               if (!SecretsEqual(proof, *expected)) return self->RefuseToken();
               then();
             });
  }

  void RefuseToken() {
    End(Error(ErrorCode::kInvalidArgument, peer_ + " has another cluster token"));
  }

  void BeOpen() {
    if (gone_) return;
    open_.store(true, std::memory_order_release);
    heard_ = spoke_ = SteadyNow();
    Watch();
    if (role_ == Role::kDialler && handlers_.on_open) handlers_.on_open();
    Write();
    ReadHeader();
  }

  static std::chrono::steady_clock::time_point SteadyNow() {
    return std::chrono::steady_clock::now();
  }

  // Both ends send something at least every `heartbeat`, so a peer that does not for `dead_after`
  // is gone or cut off. Where this process itself did not run, what has come meanwhile is read
  // before anybody is called silent.
  void Watch() {
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

  void ReadHeader() {
    asio::async_read(socket_, asio::buffer(header_),
                     [self = shared_from_this()](const error_code& error, size_t) {
                       if (self->gone_) return;
                       if (error) return self->Lose("lost", error);
                       self->TakeHeader();
                     });
  }

  void TakeHeader() {
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

  // In pieces, so that memory grows with what has arrived and not with what was announced. Whatever
  // arrives of a long message is a sign of life, however slow the link is.
  void ReadPayload(uint16_t type, size_t size, size_t have = 0) {
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

  void Write() {
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

  void WriteText(std::string text, std::function<void()> then) {
    out_ = std::move(text);
    asio::async_write(
        socket_, asio::buffer(out_),
        [self = shared_from_this(), then = std::move(then)](const error_code& error, size_t) {
          if (self->gone_) return;
          if (error) return self->Lose("lost", error);
          then();
        });
  }

  void ReadText(size_t size, std::function<void(const std::string&)> then) {
    payload_.resize(size);
    asio::async_read(
        socket_, asio::buffer(payload_.data(), size),
        [self = shared_from_this(), then = std::move(then)](const error_code& error, size_t) {
          if (self->gone_) return;
          // An acceptor ends without a word where the dialler's proof is wrong.
          if (error && self->role_ == Role::kDialler && !self->peer_nonce_.empty()) {
            return self->RefuseToken();
          }
          if (error) return self->Lose("lost", error);
          then(self->payload_);
        });
  }

  void Lose(const char* what, const error_code& error) {
    End(Error(ErrorCode::kUnavailable, std::string(what) + " " + peer_ + ": " + error.message()));
  }

  void End(const Error& error) {
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
  Header header_{};
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
