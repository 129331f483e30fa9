// SPDX-License-Identifier: Apache-2.0
// One reader, as its owner sees it. Nothing that arrives is believed before it is checked, and all
// that a reader can make us hold is bounded: its input, its unanswered requests, its leases.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "transfer/event_loop.h"
#include "transfer/owner.h"
#include "transfer/segment_table.h"
#include "transfer/ucx.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {

/// Where the reader is.
enum class PeerHost { kOurs, kOther };

/// Loop thread only.
class OwnerConnection final : public EventHandler, private UcxEvents {
 public:
  OwnerConnection(Owner* owner, PathKind kind, FileDescriptor fd, PeerHost host);
  ~OwnerConnection() override;

  /// Errors: kIo.
  Status Start();
  void OnEvents(uint32_t events) override;

  bool Holds(uint64_t segment) const;
  void TellGone(uint64_t segment);
  /// Breaks the connection: what has not been sent never will be. It goes once the kernel has let
  /// go of the memory.
  void Close(std::string_view why);

 private:
  enum class State { kHello, kProof, kReady, kDraining, kClosed };

  // A message on its way out: `head`, then pieces of the pinned memory.
  struct Outgoing {
    std::string head;
    std::vector<Piece> pieces;
    SegmentPin pin;
    uint64_t total = 0;
    uint64_t sent = 0;
    int file = -1;  // goes with the first byte; the pinned segment's
  };
  // Messages of one request that UCX has not yet sent.
  struct UcxSends {
    SegmentPin pin;
    size_t left = 0;
  };

  std::byte* OnMessage(const UcxHeader&, uint64_t) override {
    return nullptr;
  }  // readers send none
  void OnReceived(const UcxHeader&, const Status&) override {}
  void OnTurn(const Status& status) override;

  void Work();
  void Read();
  /// Handles what has been read, as far as there is room for answers. Errors: kCorrupt.
  Status Advance();
  Result<bool> AdvanceHandshake();
  void Answer(const Request& request);
  ReplyStatus AnswerPinned(const Request& request, SegmentPin pin, Reply* reply, Outgoing* message);
  ReplyStatus ConnectUcx(const Request& request);
  ReplyStatus SendOverUcx(const Request& request, SegmentPin pin);
  void Send(Outgoing message);
  void Flush();
  ssize_t SendSome(Outgoing& message);
  ssize_t SendZeroCopy(const Outgoing& message, std::span<const iovec> pieces);
  void TakeCompletions();
  void CheckIdle();
  void UpdateEvents();
  bool IsOpen() const { return state_ < State::kDraining; }
  // A lease and its confirmation both count, hence twice.
  bool HasRoom() const {
    return out_.size() + leases_.size() + ucx_sends_.size() < 2 * kMaxOutstanding;
  }
  void End();

  Owner* const owner_;
  const Owner::Context& context_;
  const PathKind kind_;
  FileDescriptor fd_;
  std::optional<WatchId> watch_;
  uint32_t events_ = 0;
  std::optional<EventLoop::TimerId> timer_;
  State state_ = State::kHello;
  Hello reader_;
  Hello hello_;
  std::string in_;
  std::deque<Outgoing> out_;
  std::map<uint32_t, SegmentPin> leases_;
  std::set<uint64_t> opened_;
  TimeUs used_us_ = 0;

  bool zero_copy_;
  uint32_t next_zero_copy_ = 0;                 // the kernel counts alike
  std::map<uint32_t, SegmentPin> zero_copies_;  // sent, and not yet let go of by the kernel

  Secret ucx_secret_ = {};
  std::map<uint64_t, UcxSends> ucx_sends_;
  uint64_t next_ucx_sends_ = 0;
  std::unique_ptr<UcxWorker> ucx_;  // sends from what is above: goes first
};

}  // namespace halfmoon::transfer
