// SPDX-License-Identifier: Apache-2.0
// The system's sockets: addresses, TCP between hosts, Unix sockets within one.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"

namespace halfmoon::transfer {

/// An IPv4 or IPv6 address with its port.
struct Address {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  int port() const;
  bool IsLoopback() const;
  bool IsWildcard() const;
  /// "10.0.0.1:7001", "[::1]:7001".
  std::string ToText() const;
};

/// Asks the system's resolver, so it may block: at start only. Errors: kInvalidArgument.
Result<Address> LookUp(const std::string& host, int port);
/// What ToText gives; no names. Errors: kInvalidArgument.
Result<Address> ParseAddress(std::string_view text);

/// Sockets are non-blocking and close on exec. Errors: kIo naming the address.
Result<FileDescriptor> ListenTcp(const Address& address);
Result<Address> BoundAddress(int fd);
/// Whether it worked is known once it can be written to (SocketError). Errors: kUnavailable.
Result<FileDescriptor> ConnectTcp(const Address& address);
/// No delay of small messages; the connection breaks when the other host answers nothing for
/// `silence_us`, whether or not something is being sent.
void SetTcpOptions(int fd, TimeUs silence_us);

/// In the abstract namespace: a name, no file. Errors: kIo.
Result<FileDescriptor> ListenUnix(const std::string& name);
/// Errors: kUnavailable.
Result<FileDescriptor> ConnectUnix(const std::string& name);
/// Whether the process at the other end is one of this user.
bool PeerIsSameUser(int fd);

/// errno of what went wrong since last asked; 0: nothing.
int SocketError(int fd);

/// Sends as far as the socket takes it; errno is set where it is -1. `file` >= 0 goes along.
ssize_t SendMessage(int fd, std::span<const iovec> pieces, int flags, int file = -1);
/// Receives what is there. A file that came along goes to `file`, where that is not nullptr.
ssize_t ReceiveMessage(int fd, std::span<const iovec> pieces, FileDescriptor* file = nullptr);

}  // namespace halfmoon::transfer
