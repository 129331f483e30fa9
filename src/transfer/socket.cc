// SPDX-License-Identifier: Apache-2.0
#include "transfer/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>

namespace halfmoon::transfer {

namespace {

Error SystemError(ErrorCode code, const std::string& what) {
  return Error(code, what + ": " + std::strerror(errno));
}

const sockaddr* Raw(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address.storage);
}

void SetOption(int fd, int level, int name, int value) {
  setsockopt(fd, level, name, &value, sizeof(value));
}

Result<Address> UnixAddress(const std::string& name) {
  sockaddr_un raw = {};
  raw.sun_family = AF_UNIX;
  if (name.size() + 1 > sizeof(raw.sun_path)) {
    return Error(ErrorCode::kUnavailable, "name of a Unix socket is too long");
  }
  std::memcpy(raw.sun_path + 1, name.data(), name.size());  // a zero first: abstract
  Address address;
  std::memcpy(&address.storage, &raw, sizeof(raw));
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

Result<FileDescriptor> Open(int family, ErrorCode code) {
  FileDescriptor fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return SystemError(code, "socket");
  return fd;
}

Result<FileDescriptor> Listen(const Address& address, const std::string& name) {
  HM_ASSIGN(FileDescriptor fd, Open(address.storage.ss_family, ErrorCode::kIo));
  if (address.storage.ss_family != AF_UNIX) SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(fd.get(), Raw(address), address.size) != 0 || ::listen(fd.get(), 128) != 0) {
    return SystemError(ErrorCode::kIo, "listen on " + name);
  }
  return fd;
}

Result<FileDescriptor> Connect(const Address& address) {
  HM_ASSIGN(FileDescriptor fd, Open(address.storage.ss_family, ErrorCode::kUnavailable));
  if (::connect(fd.get(), Raw(address), address.size) != 0 && errno != EINPROGRESS) {
    return SystemError(ErrorCode::kUnavailable, "connect");
  }
  return fd;
}

}  // namespace

int Address::port() const {
  sockaddr_in6 six;
  sockaddr_in four;
  std::memcpy(&six, &storage, sizeof(six));
  std::memcpy(&four, &storage, sizeof(four));
  return ntohs(storage.ss_family == AF_INET6 ? six.sin6_port : four.sin_port);
}

bool Address::IsLoopback() const {
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 six;
    std::memcpy(&six, &storage, sizeof(six));
    return IN6_IS_ADDR_LOOPBACK(&six.sin6_addr);
  }
  sockaddr_in four;
  std::memcpy(&four, &storage, sizeof(four));
  return ntohl(four.sin_addr.s_addr) >> 24 == 127;
}

bool Address::IsWildcard() const {
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 six;
    std::memcpy(&six, &storage, sizeof(six));
    return IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr);
  }
  sockaddr_in four;
  std::memcpy(&four, &storage, sizeof(four));
  return four.sin_addr.s_addr == INADDR_ANY;
}

std::string Address::ToText() const {
  std::array<char, NI_MAXHOST> host = {};
  getnameinfo(Raw(*this), size, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST);
  const std::string text = host.data();
  return (storage.ss_family == AF_INET6 ? "[" + text + "]" : text) + ":" + std::to_string(port());
}

namespace {

Result<Address> AddressOf(const std::string& host, int port, int flags) {
  addrinfo hints = {};
  hints.ai_flags = flags | AI_NUMERICSERV;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (status != 0) {
    return Error(ErrorCode::kInvalidArgument, "address " + host + ": " + gai_strerror(status));
  }
  Address address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.size = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

}  // namespace

Result<Address> LookUp(const std::string& host, int port) { return AddressOf(host, port, 0); }

Result<Address> ParseAddress(std::string_view text) {
  const Error invalid(ErrorCode::kInvalidArgument,
                      "\"" + std::string(text) + "\" is no address with a port");
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return invalid;
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  uint16_t port = 0;
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc() || end != port_text.data() + port_text.size() || port == 0) {
    return invalid;
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty()) return invalid;
  return AddressOf(std::string(host), port, AI_NUMERICHOST);
}

Result<FileDescriptor> ListenTcp(const Address& address) {
  return Listen(address, address.ToText());
}

Result<Address> BoundAddress(int fd) {
  Address address;
  address.size = sizeof(address.storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.size) != 0) {
    return SystemError(ErrorCode::kIo, "getsockname");
  }
  return address;
}

Result<FileDescriptor> ConnectTcp(const Address& address) { return Connect(address); }

void SetTcpOptions(int fd, TimeUs silence_us) {
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  // Data that is not acknowledged breaks the connection after this time, and so do unanswered
  // probes, which are sent where nothing else is.
  SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(silence_us / 1000));
  const int probe_s = static_cast<int>(std::clamp<TimeUs>(silence_us / 3'000'000, 1, 3600));
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, probe_s);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, probe_s);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

Result<FileDescriptor> ListenUnix(const std::string& name) {
  HM_ASSIGN(const Address address, UnixAddress(name));
  return Listen(address, "abstract Unix socket " + name);
}

Result<FileDescriptor> ConnectUnix(const std::string& name) {
  HM_ASSIGN(const Address address, UnixAddress(name));
  return Connect(address);
}

bool PeerIsSameUser(int fd) {
  ucred user = {};
  socklen_t size = sizeof(user);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &size) == 0 && user.uid == geteuid();
}

int SocketError(int fd) {
  int error = 0;
  socklen_t size = sizeof(error);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

ssize_t SendMessage(int fd, std::span<const iovec> pieces, int flags, int file) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  if (file >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &file, sizeof(file));
  }
  return ::sendmsg(fd, &message, flags | MSG_NOSIGNAL | MSG_DONTWAIT);
}

ssize_t ReceiveMessage(int fd, std::span<const iovec> pieces, FileDescriptor* file) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  // Room for one file: the kernel closes what does not fit.
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  if (file != nullptr) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
  const ssize_t bytes = ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (file == nullptr || bytes < 0) return bytes;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof(received));
    *file = FileDescriptor(received);
  }
  return bytes;
}

}  // namespace halfmoon::transfer
