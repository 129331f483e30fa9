// SPDX-License-Identifier: Apache-2.0
// Internal to net: how servers get their listening socket.
#pragma once

#include <string>

#include "base/result.h"
#include "net/asio.h"

namespace halfmoon::net {

/// Opens, binds and listens; returns where. Errors:
/// kInvalidArgument (host), kUnavailable (address in use), kIo.
Result<tcp::endpoint> Listen(tcp::acceptor& acceptor, asio::io_context& context,
                             const std::string& host, uint16_t port);

}  // namespace halfmoon::net
