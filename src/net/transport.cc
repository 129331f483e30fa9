// SPDX-License-Identifier: Apache-2.0
#include "net/transport.h"

#include <poll.h>

#include <boost/asio/write.hpp>
#include <utility>

#include "net/asio_ssl.h"

namespace halfmoon::net {
namespace {

namespace ssl = asio::ssl;

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(tcp::socket socket) : socket_(std::move(socket)) {}

  void AsyncHandshake(Done done) override {
    asio::post(socket_.get_executor(), [done = std::move(done)] { done({}, 0); });
  }
  void AsyncReadSome(asio::mutable_buffer buffer, Done done) override {
    socket_.async_read_some(buffer, std::move(done));
  }
  void AsyncWrite(asio::const_buffer buffer, Done done) override {
    asio::async_write(socket_, buffer, std::move(done));
  }
  void AsyncShutdownSend(Done done) override {
    error_code error;
    socket_.shutdown(tcp::socket::shutdown_send, error);
    asio::post(socket_.get_executor(), [done = std::move(done), error] { done(error, 0); });
  }
  bool can_half_close() const override { return true; }
  tcp::socket& socket() override { return socket_; }

 private:
  tcp::socket socket_;
};

class TlsTransport final : public Transport {
 public:
  TlsTransport(tcp::socket socket, ssl::context& context, TlsRole role)
      : stream_(std::move(socket), context), role_(role) {}

  /// Errors: kInvalidArgument where OpenSSL refuses the name.
  Status VerifyHost(const std::string& host) {
    error_code error;
    stream_.set_verify_callback(ssl::host_name_verification(host), error);
    // Server name indication takes names only; for an address the call is refused, which is fine.
    SSL_set_tlsext_host_name(stream_.native_handle(), host.c_str());
    if (error) return Error(ErrorCode::kInvalidArgument, "TLS host name: " + error.message());
    return {};
  }

  void AsyncHandshake(Done done) override {
    stream_.async_handshake(
        role_ == TlsRole::kServer ? ssl::stream_base::server : ssl::stream_base::client,
        [done = std::move(done)](const error_code& error) { done(error, 0); });
  }
  void AsyncReadSome(asio::mutable_buffer buffer, Done done) override {
    stream_.async_read_some(buffer, std::move(done));
  }
  void AsyncWrite(asio::const_buffer buffer, Done done) override {
    asio::async_write(stream_, buffer, std::move(done));
  }
  void AsyncShutdownSend(Done done) override {
    stream_.async_shutdown([done = std::move(done)](const error_code& error) { done(error, 0); });
  }
  bool can_half_close() const override { return false; }
  tcp::socket& socket() override { return stream_.next_layer(); }

 private:
  ssl::stream<tcp::socket> stream_;
  const TlsRole role_;
};

std::shared_ptr<ssl::context> NewContext(ssl::context::method method) {
  auto context = std::make_shared<ssl::context>(method);
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                       ssl::context::no_sslv3 | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1 |
                       SSL_OP_NO_RENEGOTIATION);
  return context;
}

}  // namespace

void Transport::AsyncWaitFailed(Done done) {
  socket().async_wait(tcp::socket::wait_error,
                      [done = std::move(done)](const error_code& error) { done(error, 0); });
}

bool Transport::HasFailed() {
  if (!socket().is_open()) return true;
  pollfd state{.fd = socket().native_handle(), .events = 0, .revents = 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLERR | POLLHUP)) != 0;
}

void Transport::Close() {
  error_code ignored;
  socket().close(ignored);
}

void Transport::Abort() {
  error_code ignored;
  socket().set_option(asio::socket_base::linger(true, 0), ignored);
  Close();
}

std::unique_ptr<Transport> MakePlainTransport(tcp::socket socket) {
  return std::make_unique<PlainTransport>(std::move(socket));
}

Result<std::unique_ptr<Transport>> MakeTlsTransport(tcp::socket socket, ssl::context& context,
                                                    TlsRole role, const std::string& verify_host) {
  try {
    auto transport = std::make_unique<TlsTransport>(std::move(socket), context, role);
    if (!verify_host.empty()) HM_TRY(transport->VerifyHost(verify_host));
    return std::unique_ptr<Transport>(std::move(transport));
  } catch (const std::exception& e) {
    return Error(ErrorCode::kInternal, std::string("TLS stream: ") + e.what());
  }
}

Result<std::shared_ptr<ssl::context>> MakeServerTls(const std::string& certificate_file,
                                                    const std::string& key_file) {
  try {
    auto context = NewContext(ssl::context::tls_server);
    error_code error;
    context->use_certificate_chain_file(certificate_file, error);
    if (error) {
      return Error(ErrorCode::kInvalidArgument,
                   "TLS certificate file " + certificate_file + ": " + error.message());
    }
    context->use_private_key_file(key_file, ssl::context::pem, error);
    if (error) {
      return Error(ErrorCode::kInvalidArgument,
                   "TLS key file " + key_file + ": " + error.message());
    }
    if (SSL_CTX_check_private_key(context->native_handle()) != 1) {
      return Error(
          ErrorCode::kInvalidArgument,
          "TLS key file " + key_file + " does not belong to certificate " + certificate_file);
    }
    return context;
  } catch (const std::exception& e) {
    return Error(ErrorCode::kInternal, std::string("TLS: ") + e.what());
  }
}

Result<std::shared_ptr<ssl::context>> MakeClientTls(const std::string& ca_file, bool verify) {
  try {
    auto context = NewContext(ssl::context::tls_client);
    error_code error;
    if (!verify) {
      context->set_verify_mode(ssl::verify_none);
      return context;
    }
    context->set_verify_mode(ssl::verify_peer);
    if (ca_file.empty()) {
      context->set_default_verify_paths(error);
    } else {
      context->load_verify_file(ca_file, error);
    }
    if (error) {
      return Error(
          ErrorCode::kInvalidArgument,
          "TLS roots " + (ca_file.empty() ? "of the system" : ca_file) + ": " + error.message());
    }
    return context;
  } catch (const std::exception& e) {
    return Error(ErrorCode::kInternal, std::string("TLS: ") + e.what());
  }
}

std::string EndpointText(const tcp::endpoint& endpoint) {
  const std::string address = endpoint.address().to_string();
  const std::string port = std::to_string(endpoint.port());
  return endpoint.address().is_v6() ? "[" + address + "]:" + port : address + ":" + port;
}

}  // namespace halfmoon::net
