// SPDX-License-Identifier: Apache-2.0
#include "transfer/shm_path.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <vector>

#include "transfer/shared_mapping.h"
#include "transfer/streaming_copy.h"

namespace halfmoon::transfer {

class ShmConnection final : public PeerConnection {
 public:
  ShmConnection(ShmPath* path, const Context& context, FileDescriptor fd)
      : PeerConnection(context, std::move(fd)), path_(path), id_(path->next_connection_++) {
    path_->connections_[id_] = this;
  }
  ~ShmConnection() override { path_->connections_.erase(id_); }

  void StartSlice(Job& job, size_t slice) override;
  size_t num_in_flight() const override { return flights_.size(); }
  bool Forget(Job& job) override;
  void ForgetAll() override;
  /// The slice's copy is there. False where nobody waits for it any more.
  bool CopyDone(uint32_t number);

 protected:
  bool ReadReplies() override;

 private:
  enum class Stage { kMapping, kLease, kCopy, kConfirm };
  struct Flight {
    Job* job = nullptr;  // nullptr: forgotten
    size_t slice = 0;
    Stage stage = Stage::kMapping;
    uint64_t segment = 0;
  };
  // A segment of the peer; without a mapping while the peer is asked for its file.
  struct Opened {
    std::shared_ptr<const SharedMapping> mapping;
    uint32_t open_number = 0;
  };

  void Ask(MessageType type, uint32_t number, const Job& job, uint64_t bytes);
  bool TakeReply(const Reply& reply);
  bool TakeOpened(const Reply& reply);
  bool TakeLease(uint32_t number, Flight& flight);
  void Refuse(uint32_t number, ReplyStatus status);
  void Copy(uint32_t number, Flight& flight);
  void Confirm(uint32_t number, Flight& flight);
  void FailMapping(uint64_t segment, const Error& error, bool gone);
  bool Nonsense() {
    return Lose(Loss::kRefused,
                Error(ErrorCode::kUnavailable, "a reply to nothing that was asked"));
  }

  ShmPath* const path_;
  const uint64_t id_;
  std::map<uint32_t, Flight> flights_;
  std::map<uint64_t, Opened> opened_;
  uint32_t next_number_ = 0;
  std::array<char, kReplyBytes> reply_ = {};
  size_t reply_bytes_ = 0;
  FileDescriptor file_;  // came with a reply that is not yet handled
};

void ShmConnection::Ask(MessageType type, uint32_t number, const Job& job, uint64_t bytes) {
  Request request = {.type = type,
                     .number = number,
                     .segment = job.descriptor().segment,
                     .secret = job.descriptor().secret};
  if (bytes > 0) request.pieces.push_back({.offset = 0, .length = bytes});
  Queue(request);
}

void ShmConnection::StartSlice(Job& job, size_t slice) {
  const uint64_t segment = job.descriptor().segment;
  const uint32_t number = next_number_++;
  const auto [opened, is_new] = opened_.try_emplace(segment);
  if (is_new) {
    opened->second.open_number = next_number_++;
    Ask(MessageType::kOpen, opened->second.open_number, job, 0);
  }
  Flight& flight = flights_[number] = {.job = &job, .slice = slice, .segment = segment};
  if (opened->second.mapping == nullptr) return;
  flight.stage = Stage::kLease;
  Ask(MessageType::kLease, number, job, job.slice(slice).bytes);
}

bool ShmConnection::Forget(Job& job) {
  bool any = false;
  for (auto at = flights_.rbegin(); at != flights_.rend();) {
    Flight& flight = at->second;
    if (flight.job != &job) {
      ++at;
      continue;
    }
    any = true;
    // One that is being copied comes back when that has ended.
    if (flight.stage != Stage::kCopy) job.ReturnSlice(flight.slice);
    flight.job = nullptr;
    if (flight.stage == Stage::kMapping) {
      at = decltype(at)(flights_.erase(std::next(at).base()));
    } else {
      ++at;
    }
  }
  return any;
}

void ShmConnection::ForgetAll() {
  for (auto at = flights_.rbegin(); at != flights_.rend(); ++at) {
    Flight& flight = at->second;
    if (flight.job != nullptr && flight.stage != Stage::kCopy)
      flight.job->ReturnSlice(flight.slice);
  }
  flights_.clear();
}

bool ShmConnection::ReadReplies() {
  while (true) {
    const iovec piece = {.iov_base = reply_.data() + reply_bytes_,
                         .iov_len = kReplyBytes - reply_bytes_};
    FileDescriptor file;
    const ssize_t bytes = ReceiveMessage(fd_.get(), {&piece, 1}, &file);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == EAGAIN) return true;
    if (bytes < 0) return LoseBySystem(errno, "receive");
    if (bytes == 0) {
      return Lose(Loss::kBroken, Error(ErrorCode::kUnavailable, "the peer closed the connection"));
    }
    if (file.get() >= 0) file_ = std::move(file);
    reply_bytes_ += static_cast<size_t>(bytes);
    if (reply_bytes_ < kReplyBytes) continue;
    reply_bytes_ = 0;
    const Result<Reply> reply = Reply::Parse(reply_);
    if (!reply.ok()) return Lose(Loss::kRefused, reply.error());
    if (!TakeReply(*reply)) return false;
  }
}

bool ShmConnection::TakeReply(const Reply& reply) {
  if (reply.type == MessageType::kGone) {
    opened_.erase(reply.length);
    return true;
  }
  if (reply.type == MessageType::kOpen) return TakeOpened(reply);
  const auto found = flights_.find(reply.number);
  if (found == flights_.end()) return Nonsense();
  Flight& flight = found->second;
  const bool expected = (reply.type == MessageType::kLease && flight.stage == Stage::kLease) ||
                        (reply.type == MessageType::kConfirm && flight.stage == Stage::kConfirm);
  if (!expected) return Nonsense();
  proven_ = true;
  if (reply.status != ReplyStatus::kOk) {
    Refuse(reply.number, reply.status);
    return true;
  }
  if (reply.type == MessageType::kLease) return TakeLease(reply.number, flight);
  const Flight done = flight;
  flights_.erase(found);
  if (done.job != nullptr) context_.events->OnSlice(*this, *done.job, done.slice);
  return true;
}

void ShmConnection::Refuse(uint32_t number, ReplyStatus status) {
  const Flight flight = flights_.at(number);
  flights_.erase(number);
  if (flight.job == nullptr) return;
  flight.job->ReturnSlice(flight.slice);
  context_.events->OnRefused(*flight.job, RefusalOf(status));
}

bool ShmConnection::TakeOpened(const Reply& reply) {
  const auto found = std::find_if(opened_.begin(), opened_.end(), [&](const auto& opened) {
    return opened.second.mapping == nullptr && opened.second.open_number == reply.number;
  });
  const FileDescriptor file = std::move(file_);
  if (found == opened_.end()) return Nonsense();
  proven_ = true;
  const uint64_t segment = found->first;
  if (reply.status != ReplyStatus::kOk) {
    FailMapping(segment, RefusalOf(reply.status), reply.status == ReplyStatus::kGone);
    return true;
  }
  Result<std::shared_ptr<const SharedMapping>> mapping =
      SharedMapping::Map(file, reply.offset, reply.length);
  if (!mapping.ok()) {
    FailMapping(segment, mapping.error(), false);
    return true;
  }
  found->second.mapping = std::move(mapping).value();
  for (auto& [number, flight] : flights_) {
    if (flight.segment != segment || flight.stage != Stage::kMapping) continue;
    flight.stage = Stage::kLease;
    Ask(MessageType::kLease, number, *flight.job, flight.job->slice(flight.slice).bytes);
  }
  return true;
}

void ShmConnection::FailMapping(uint64_t segment, const Error& error, bool gone) {
  opened_.erase(segment);
  std::vector<Job*> jobs;
  for (const auto& [number, flight] : flights_) {
    if (flight.segment != segment || flight.stage != Stage::kMapping) continue;
    if (std::find(jobs.begin(), jobs.end(), flight.job) == jobs.end()) jobs.push_back(flight.job);
  }
  for (Job* job : jobs) {
    gone ? context_.events->OnRefused(*job, error) : context_.events->OnUnfit(*job, error);
  }
}

bool ShmConnection::TakeLease(uint32_t number, Flight& flight) {
  if (flight.job == nullptr) {
    Confirm(number, flight);
    return true;
  }
  const auto opened = opened_.find(flight.segment);
  // The peer said that it has gone, and now that it is there.
  if (opened == opened_.end() || opened->second.mapping == nullptr) return Nonsense();
  for (const Job::JobPiece& piece : flight.job->PiecesOf(flight.slice)) {
    const uint64_t size = opened->second.mapping->bytes().size();
    if (piece.offset <= size && piece.length <= size - piece.offset) continue;
    Job* const job = flight.job;
    job->ReturnSlice(flight.slice);
    flight.job = nullptr;
    Confirm(number, flight);
    context_.events->OnRefused(*job, RefusalOf(ReplyStatus::kOutOfRange));
    return true;
  }
  Copy(number, flight);
  return true;
}

void ShmConnection::Copy(uint32_t number, Flight& flight) {
  flight.stage = Stage::kCopy;
  Job* const job = flight.job;
  ++job->pins;
  const size_t slice = flight.slice;
  ShmPath* const path = path_;
  auto finish = [path, id = id_, number, job, slice] {
    const auto connection = path->connections_.find(id);
    const bool waited_for =
        connection != path->connections_.end() && connection->second->CopyDone(number);
    // Nothing has confirmed that these are the segment's bytes.
    if (!waited_for) job->ReturnSlice(slice);
    path->context_.sink->Unpinned(*job);
  };
  // The job's pieces stay as they are while it is pinned.
  path_->context_.workers->Run(
      [path, mapping = opened_.at(flight.segment).mapping, pieces = job->PiecesOf(slice), finish] {
        for (const Job::JobPiece& piece : pieces) {
          StreamingCopy(piece.target, mapping->bytes().data() + piece.offset, piece.length);
        }
        path->context_.loop->Post(finish);
      });
}

bool ShmConnection::CopyDone(uint32_t number) {
  const auto found = flights_.find(number);
  if (found == flights_.end()) return false;
  const bool waited_for = found->second.job != nullptr;
  Confirm(number, found->second);
  Flush();
  return waited_for;
}

void ShmConnection::Confirm(uint32_t number, Flight& flight) {
  flight.stage = Stage::kConfirm;
  Queue({.type = MessageType::kConfirm, .number = number, .segment = flight.segment});
}

Result<std::unique_ptr<PeerConnection>> ShmPath::Connect(const std::string& address, Peer* peer) {
  HM_ASSIGN(FileDescriptor fd, ConnectUnix(address));
  return std::unique_ptr<PeerConnection>(
      std::make_unique<ShmConnection>(this, ConnectionContext(peer), std::move(fd)));
}

}  // namespace halfmoon::transfer
