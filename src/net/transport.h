// SPDX-License-Identifier: Apache-2.0
// Internal to net: a byte stream to one peer, plain or TLS, behind one interface, so that
// connection and client logic is written and compiled once.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "net/asio.h"

namespace boost::asio::ssl {
class context;
}

namespace halfmoon::net {

/// All functions on the socket's executor (a strand, or a loop with one thread). At most one read
/// and one write at a time. Every operation ends with exactly one call of its `done`, never from
/// inside the call that began it.
class Transport {
 public:
  using Done = std::function<void(const error_code& error, size_t count)>;

  virtual ~Transport() = default;

  /// TLS handshake; at once for a plain stream.
  virtual void AsyncHandshake(Done done) = 0;
  virtual void AsyncReadSome(asio::mutable_buffer buffer, Done done) = 0;
  /// Writes everything or fails.
  virtual void AsyncWrite(asio::const_buffer buffer, Done done) = 0;
  /// Tells the peer that nothing more comes.
  virtual void AsyncShutdownSend(Done done) = 0;
  /// True where the end of the peer's sending side can mean that it still listens.
  virtual bool can_half_close() const = 0;
  virtual tcp::socket& socket() = 0;

  /// Calls back when the connection has failed (reset, timed out), whether or not anyone reads or
  /// writes. May also call back without cause; HasFailed tells.
  void AsyncWaitFailed(Done done);
  bool HasFailed();
  /// Ends all operations. Idempotent.
  void Close();
  /// As Close, but the peer sees a reset instead of an orderly end.
  void Abort();
};

enum class TlsRole { kServer, kClient };

std::unique_ptr<Transport> MakePlainTransport(tcp::socket socket);
/// verify_host: name that the peer's certificate must carry (client only); empty checks none.
Result<std::unique_ptr<Transport>> MakeTlsTransport(tcp::socket socket, asio::ssl::context& context,
                                                    TlsRole role, const std::string& verify_host);

/// TLS settings of a server. Errors: kInvalidArgument naming the file.
Result<std::shared_ptr<asio::ssl::context>> MakeServerTls(const std::string& certificate_file,
                                                          const std::string& key_file);
/// TLS settings of a client. ca_file: trusted roots; empty takes the system's. Errors:
/// kInvalidArgument.
Result<std::shared_ptr<asio::ssl::context>> MakeClientTls(const std::string& ca_file, bool verify);

/// "127.0.0.1:80", "[::1]:80".
std::string EndpointText(const tcp::endpoint& endpoint);

}  // namespace halfmoon::net
