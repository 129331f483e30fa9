// SPDX-License-Identifier: Apache-2.0
// The reader's end of a connection: connects, proves the token, sends requests. What replies mean
// is up to the path (tcp_path.h, shm_path.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "transfer/event_loop.h"
#include "transfer/job.h"
#include "transfer/socket.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {

class PeerConnection;

/// Why a connection has ended, as far as what to do next depends on it.
enum class Loss {
  kRefused,  ///< nobody listens there, or the token is another: no use to try again
  kBroken,   ///< reset or closed: try again a few times
  kSilent,   ///< the host does not answer: try again while there is time
};

/// What a reply other than kOk means for the read.
Error RefusalOf(ReplyStatus status);

/// Told of what happens on a connection. Loop thread only.
class PeerEvents {
 public:
  virtual ~PeerEvents() = default;
  virtual void OnReady(PeerConnection& connection) = 0;
  /// A batch of events has been handled; more slices may be started.
  virtual void OnProgress() = 0;
  virtual void OnSlice(PeerConnection& connection, Job& job, size_t slice) = 0;
  /// The owner refuses the job's segment.
  virtual void OnRefused(Job& job, const Error& error) = 0;
  /// This path is nothing for the job.
  virtual void OnUnfit(Job& job, const Error& error) = 0;
  /// Disposes of the connection.
  virtual void OnLost(PeerConnection& connection, Loss loss, const Error& error) = 0;
};

/// Loop thread only.
class PeerConnection : public EventHandler {
 public:
  struct Context {
    EventLoop* loop = nullptr;
    PeerEvents* events = nullptr;
    PathKind kind = PathKind::kTcp;
    const TransferOptions* options = nullptr;
  };

  PeerConnection(const Context& context, FileDescriptor fd)
      : context_(context), fd_(std::move(fd)) {}
  ~PeerConnection() override;

  /// Errors: kIo.
  Status Start();
  bool ready() const { return state_ == State::kReady; }
  /// Whether it has ever been, before it was lost.
  bool was_ready() const { return was_ready_; }
  /// Whether a slice has ever arrived here.
  bool proven() const { return proven_; }

  /// Requires ready(). The request leaves with Flush.
  virtual void StartSlice(Job& job, size_t slice) = 0;
  virtual size_t num_in_flight() const = 0;
  /// Returns the job's slices to it, but for those that a worker copies; ignores their replies.
  /// True where there were some.
  virtual bool Forget(Job& job) = 0;
  /// The same for all jobs, at the end.
  virtual void ForgetAll() = 0;
  void Flush();

  void OnEvents(uint32_t events) final;

 protected:
  /// Reads what is there. Returns false once the connection is lost.
  virtual bool ReadReplies() = 0;
  void Queue(const Request& request) { request.AppendTo(&out_); }
  bool Lose(Loss loss, const Error& error);
  /// Of a failed send, receive or connect.
  bool LoseBySystem(int system_error, std::string_view what);

  const Context context_;
  FileDescriptor fd_;
  bool proven_ = false;

 private:
  enum class State { kConnecting, kHello, kVerdict, kReady, kLost };
  bool AdvanceHandshake();
  bool CheckVerdict();
  void UpdateEvents();

  State state_ = State::kConnecting;
  bool was_ready_ = false;
  std::optional<WatchId> watch_;
  uint32_t events_ = 0;
  std::optional<EventLoop::TimerId> timer_;
  Hello hello_;
  Hello owner_;
  std::string in_;   // of the handshake
  std::string out_;  // bounded: requests of the slices in flight
};

}  // namespace halfmoon::transfer
