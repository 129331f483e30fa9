// SPDX-License-Identifier: Apache-2.0
#include "transfer/peer.h"

#include <algorithm>

namespace halfmoon::transfer {

namespace {

// Connections in a row that break before they bring anything, until the peer counts as gone.
constexpr int kMaxFailures = 4;
constexpr TimeUs kFirstRetryUs = 50'000;
constexpr TimeUs kLastRetryUs = 1'000'000;

}  // namespace

Peer::~Peer() {
  if (retry_) context_.loop->CancelTimer(*retry_);
  if (idle_) context_.loop->CancelTimer(*idle_);
}

Error Peer::Named(const Error& error) const {
  return error.WithContext(std::string(PathName(context_.kind)) + " " + context_.address);
}

void Peer::Add(Job& job) {
  jobs_.push_back(&job);
  UpdateIdle();
  Fill();
}

void Peer::Remove(Job& job, Suspicion suspicion) {
  std::erase(jobs_, &job);
  std::vector<PeerConnection*> stalled;
  for (const auto& connection : connections_) {
    if (connection->Forget(job) && suspicion == Suspicion::kStalled) {
      stalled.push_back(connection.get());
    }
  }
  // Others that wait behind it get a fresh connection.
  for (PeerConnection* connection : stalled) {
    connection->ForgetAll();
    Drop(*connection);
  }
  UpdateIdle();
  if (!stalled.empty()) Fill();
}

void Peer::UpdateIdle() {
  if (idle_) context_.loop->CancelTimer(*idle_);
  idle_.reset();
  if (!jobs_.empty()) return;
  idle_ = context_.loop->After(context_.idle_us, [this] {
    idle_.reset();
    // Copies: the peer ends with this call.
    const auto on_idle = context_.on_idle;
    const std::string address = context_.address;
    on_idle(address);
  });
}

Job* Peer::NextWithMissing() {
  for (size_t i = 0; i < jobs_.size(); ++i) {
    Job* const job = jobs_.front();
    jobs_.pop_front();
    jobs_.push_back(job);
    if (job->has_missing()) return job;
  }
  return nullptr;
}

PeerConnection* Peer::LeastBusy() const {
  PeerConnection* best = nullptr;
  for (const auto& connection : connections_) {
    if (!connection->ready() || connection->num_in_flight() >= context_.max_in_flight) continue;
    if (best == nullptr || connection->num_in_flight() < best->num_in_flight()) {
      best = connection.get();
    }
  }
  return best;
}

bool Peer::HasReady() const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [](const auto& connection) { return connection->ready(); });
}

bool Peer::IsOpening() const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [](const auto& connection) { return !connection->ready(); });
}

void Peer::Fill() {
  while (PeerConnection* connection = LeastBusy()) {
    Job* const job = NextWithMissing();
    if (job == nullptr) break;
    connection->StartSlice(*job, job->TakeSlice());
  }
  for (const auto& connection : connections_) {
    if (connection->ready()) connection->Flush();
  }
  if (full_ || retry_ || IsOpening() || connections_.size() >= context_.max_connections) return;
  if (NextWithMissing() != nullptr) Open();
}

void Peer::Open() {
  Result<std::unique_ptr<PeerConnection>> connection = context_.connect(this);
  Status status;
  if (connection.ok()) {
    status = (*connection)->Start();
    if (status.ok()) {
      connections_.push_back(std::move(connection).value());
      return;
    }
  } else {
    status = connection.error();
  }
  if (HasReady()) {
    full_ = true;
    return;
  }
  FailAll(status.error());
}

void Peer::OnReady(PeerConnection&) { Fill(); }

void Peer::OnSlice(PeerConnection&, Job& job, size_t slice) {
  failures_ = 0;
  context_.sink->SliceArrived(job, slice, context_.kind);
}

void Peer::OnRefused(Job& job, const Error& error) {
  Remove(job, Suspicion::kNone);
  context_.sink->JobFailed(job, Named(error));
}

void Peer::OnUnfit(Job& job, const Error& error) {
  Remove(job, Suspicion::kNone);
  context_.sink->PathFailed(job, context_.kind, Named(error));
}

void Peer::Drop(PeerConnection& connection) {
  const auto found = std::find_if(connections_.begin(), connections_.end(),
                                  [&](const auto& one) { return one.get() == &connection; });
  context_.loop->Dispose(std::move(*found));
  connections_.erase(found);
  full_ = false;
}

void Peer::OnLost(PeerConnection& connection, Loss loss, const Error& error) {
  const bool proven = connection.proven();
  const bool was_ready = connection.was_ready();
  connection.ForgetAll();
  Drop(connection);
  for (Job* job : jobs_) job->last_trouble = Named(error).message();
  // One that was good until now, perhaps unused for long: that says nothing of the next.
  if (proven && loss == Loss::kBroken) return Fill();
  ++failures_;
  if (loss != Loss::kSilent) {
    const bool hopeless = loss == Loss::kRefused || failures_ >= kMaxFailures;
    if (HasReady()) {
      full_ = hopeless || !was_ready;
      return Fill();
    }
    if (hopeless) {
      failures_ = 0;
      return FailAll(error);
    }
  }
  RetryAfter(std::min(kFirstRetryUs << std::min(failures_ - 1, 10), kLastRetryUs));
}

void Peer::RetryAfter(TimeUs delay_us) {
  if (retry_ || jobs_.empty()) return;
  retry_ = context_.loop->After(delay_us, [this] {
    retry_.reset();
    Fill();
  });
}

void Peer::FailAll(const Error& error) {
  const std::deque<Job*> jobs = std::move(jobs_);
  jobs_.clear();
  full_ = false;
  for (Job* job : jobs) {
    for (const auto& connection : connections_) connection->Forget(*job);
  }
  UpdateIdle();
  for (Job* job : jobs) context_.sink->PathFailed(*job, context_.kind, Named(error));
}

}  // namespace halfmoon::transfer
