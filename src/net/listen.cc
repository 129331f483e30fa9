// SPDX-License-Identifier: Apache-2.0
#include "net/listen.h"

#include <string_view>

namespace halfmoon::net {
namespace {

Result<tcp::endpoint> ResolveLocal(asio::io_context& context, const std::string& host,
                                   uint16_t port) {
  std::string_view name = host;
  if (name.starts_with('[') && name.ends_with(']')) name = name.substr(1, name.size() - 2);
  error_code error;
  const asio::ip::address address = asio::ip::make_address(name, error);
  if (!error) return tcp::endpoint(address, port);
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(name, std::to_string(port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    return Error(ErrorCode::kInvalidArgument, "host '" + host +
                                                  "' is neither an address nor a known name" +
                                                  (error ? ": " + error.message() : ""));
  }
  return found.begin()->endpoint();
}

}  // namespace

Result<tcp::endpoint> Listen(tcp::acceptor& acceptor, asio::io_context& context,
                             const std::string& host, uint16_t port) {
  HM_ASSIGN(const tcp::endpoint endpoint, ResolveLocal(context, host, port));
  const std::string where = "cannot listen on " + host + " port " + std::to_string(port);
  tcp::endpoint local;
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) local = acceptor.local_endpoint(error);
  if (error == asio::error::address_in_use) {
    return Error(ErrorCode::kUnavailable, where + ": the address is in use by another program");
  }
  if (error == boost::system::errc::address_not_available) {
    return Error(ErrorCode::kInvalidArgument, where + ": no interface here has that address");
  }
  if (error) return Error(ErrorCode::kIo, where + ": " + error.message());
  return local;
}

}  // namespace halfmoon::net
