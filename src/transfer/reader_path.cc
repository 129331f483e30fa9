// SPDX-License-Identifier: Apache-2.0
#include "transfer/reader_path.h"

namespace halfmoon::transfer {

namespace {

// Requests ahead of the replies: 16 of 1 MiB on four connections fill 10 Gbit/s over 50 ms.
constexpr size_t kMaxInFlight = 16;

}  // namespace

void ReaderPath::Add(Job& job) {
  const std::string& address = job.descriptor().address(kind_);
  std::unique_ptr<Peer>& peer = peers_[address];
  if (peer == nullptr) {
    peer = std::make_unique<Peer>(Peer::Context{
        .loop = context_.loop,
        .sink = context_.sink,
        .kind = kind_,
        .address = address,
        .max_connections = MaxConnections(),
        .max_in_flight = kMaxInFlight,
        .idle_us = context_.options->idle_us,
        .connect = [this, address](Peer* of) { return Connect(address, of); },
        .on_idle = [this](const std::string& idle) { peers_.erase(idle); },
    });
  }
  peer->Add(job);
}

void ReaderPath::More(Job& job) {
  const auto found = peers_.find(job.descriptor().address(kind_));
  if (found != peers_.end()) found->second->More();
}

void ReaderPath::Remove(Job& job, Suspicion suspicion) {
  const auto found = peers_.find(job.descriptor().address(kind_));
  if (found != peers_.end()) found->second->Remove(job, suspicion);
}

}  // namespace halfmoon::transfer
