// SPDX-License-Identifier: Apache-2.0
#include "transfer/owner.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <string>

#include "base/log.h"
#include "transfer/owner_connection.h"

namespace halfmoon::transfer {

class Owner::Listener final : public EventHandler {
 public:
  Listener(Owner* owner, PathKind kind, FileDescriptor fd)
      : owner_(owner), kind_(kind), fd_(std::move(fd)) {}
  ~Listener() override { owner_->context_.loop->Unwatch(watch_); }

  Status Watch() {
    HM_ASSIGN(watch_, owner_->context_.loop->Watch(fd_.get(), EPOLLIN, this));
    return {};
  }
  void OnEvents(uint32_t) override { owner_->Accept(kind_, fd_.get()); }

 private:
  Owner* const owner_;
  const PathKind kind_;
  FileDescriptor fd_;
  WatchId watch_{};
};

Owner::Owner(const Context& context) : context_(context) {}
Owner::~Owner() = default;

Result<std::unique_ptr<Owner>> Owner::Create(const Context& context) {
  std::unique_ptr<Owner> owner(new Owner(context));
  owner->spare_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC));
  if (context.options.allow_tcp) {
    HM_TRY(owner->ListenTcpPath(PathKind::kTcp, context.options.port));
  }
  if (context.ucx != nullptr) HM_TRY(owner->ListenTcpPath(PathKind::kUcx, 0));
  if (context.options.allow_shared_memory) {
    HM_ASSIGN(const Secret name, RandomSecret());
    const std::string text = "halfmoon-" + HexOf({name.data(), name.size()});
    HM_ASSIGN(FileDescriptor fd, ListenUnix(text));
    HM_TRY(owner->ListenOn(PathKind::kSharedMemory, std::move(fd)));
    owner->addresses_[static_cast<size_t>(PathKind::kSharedMemory)] = text;
  }
  return owner;
}

Status Owner::ListenTcpPath(PathKind kind, int port) {
  const TransferOptions& options = context_.options;
  HM_ASSIGN(const Address wanted, LookUp(options.host, port));
  if (options.token.empty() && !wanted.IsLoopback()) {
    return Error(ErrorCode::kInvalidArgument, "transfer on " + options.host +
                                                  " without a token: anybody could read; only "
                                                  "loopback may go without");
  }
  if (wanted.IsWildcard() && options.advertised_host.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 "transfer on " + options.host + ": say which address peers reach it at");
  }
  HM_ASSIGN(FileDescriptor fd, ListenTcp(wanted));
  HM_ASSIGN(Address address, BoundAddress(fd.get()));
  if (!options.advertised_host.empty()) {
    HM_ASSIGN(address, LookUp(options.advertised_host, address.port()));
  }
  addresses_[static_cast<size_t>(kind)] = address.ToText();
  return ListenOn(kind, std::move(fd));
}

Status Owner::ListenOn(PathKind kind, FileDescriptor fd) {
  auto listener = std::make_unique<Listener>(this, kind, std::move(fd));
  HM_TRY(listener->Watch());
  listeners_.push_back(std::move(listener));
  return {};
}

void Owner::Accept(PathKind kind, int listener) {
  Address peer;
  peer.size = sizeof(peer.storage);
  FileDescriptor fd(::accept4(listener, reinterpret_cast<sockaddr*>(&peer.storage), &peer.size,
                              SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.get() < 0) {
    // Out of files, and the listener would be ready again at once: the spare one lets the peer in,
    // to be turned away.
    if (errno == EMFILE || errno == ENFILE) {
      HM_LOG_WARN("transfer: a peer is refused, no file descriptor is left");
      spare_ = FileDescriptor();
      fd = FileDescriptor(::accept(listener, nullptr, nullptr));
      fd = FileDescriptor();
      spare_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC));
    }
    return;
  }
  if (connections_.size() >= static_cast<size_t>(context_.options.max_connections)) {
    HM_LOG_WARN("transfer: a peer is refused, {} are connected", connections_.size());
    return;
  }
  const bool local = kind == PathKind::kSharedMemory;
  // The memory file of one user is no business of another's.
  if (local && !PeerIsSameUser(fd.get())) return;
  if (!local) SetTcpOptions(fd.get(), context_.options.silence_us);
  auto connection = std::make_unique<OwnerConnection>(
      this, kind, std::move(fd), local || peer.IsLoopback() ? PeerHost::kOurs : PeerHost::kOther);
  if (!connection->Start().ok()) return;
  OwnerConnection* const raw = connection.get();
  connections_.emplace(raw, std::move(connection));
}

void Owner::TellGone(uint64_t segment) {
  for (const auto& [raw, connection] : connections_) raw->TellGone(segment);
}

void Owner::Cut(uint64_t segment) {
  std::vector<OwnerConnection*> sending;
  for (const auto& [raw, connection] : connections_) {
    if (raw->Holds(segment)) sending.push_back(raw);
  }
  for (OwnerConnection* connection : sending) {
    connection->Close("it took no bytes of a segment that is to go");
  }
}

void Owner::Drop(OwnerConnection* connection) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  context_.loop->Dispose(std::move(found->second));
  connections_.erase(found);
}

}  // namespace halfmoon::transfer
