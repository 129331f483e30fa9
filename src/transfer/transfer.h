// SPDX-License-Identifier: Apache-2.0
// transfer: copies of bytes between nodes. A node registers memory as segments; a peer that knows
// a segment's descriptor reads ranges of it into its own memory, over whatever path the two have in
// common: shared memory on one host, TCP in any case, UCX where it is present. It knows nothing of
// KV, and who may read what, and for how long, is settled by whoever hands out descriptors.
//
// Threads: one runs everything that has to do with sockets (event_loop.h); workers copy from shared
// memory and check sums. Bytes are authenticated by nothing but the connection they come over and
// are not encrypted: between hosts that do not trust their network, put a tunnel below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace halfmoon::transfer {

/// Names one copy of this process.
enum class TransferId : uint64_t {};

/// One range to copy.
struct ReadRange {
  uint64_t offset = 0;          ///< in the segment
  std::span<std::byte> target;  ///< this process' memory; the transfer's until it has ended
  /// Checksum (base/hash.h) of the bytes, where the sender told it; a copy that differs is
  /// kCorrupt.
  std::optional<uint64_t> checksum;
};

struct ReadOptions {
  TimeUs timeout_us = 30'000'000;  ///< of the whole transfer
};

/// Memory that peers may read until it goes. Move-only in its owner's hands (unique_ptr).
class Segment {
 public:
  /// Waits until no peer is being sent from it; one that takes no bytes for a while
  /// (TransferOptions::release_us) is cut off. To go before its engine.
  virtual ~Segment() = default;
  /// What a peer needs to read it: paths with their addresses, id, size and a secret of its own.
  /// A short text without spaces (docs/formats/transfer.md); carries no pointer.
  virtual std::string descriptor() const = 0;
};

struct SegmentOptions {
  /// A memory file (memfd) that `memory` is a shared mapping of, so that processes of the same host
  /// copy from it directly; -1: none. Duplicated, so the caller may close its own.
  /// It is sealed against shrinking (F_SEAL_SHRINK), for which it has to allow seals.
  int memory_file = -1;
  uint64_t memory_file_offset = 0;  ///< of `memory` in the file; a multiple of the page size
};

/// What moved, since start.
struct TransferStats {
  struct Path {
    std::string name;  ///< "shm", "tcp", "ucx"
    uint64_t sent_bytes = 0;
    uint64_t received_bytes = 0;
    uint64_t failures = 0;  ///< slices that ended in an error or a wrong checksum
  };
  std::vector<Path> paths;
  uint64_t reads = 0;
  uint64_t failed_reads = 0;
  uint64_t failovers = 0;  ///< reads that went on over another path
  int active = 0;          ///< reads in flight now
};

/// All transfers of one node. Thread-safe.
class TransferEngine {
 public:
  /// Ends transfers in flight with kCancelled, once nothing writes to their targets. Not to be
  /// called from a `done`.
  virtual ~TransferEngine() = default;

  /// Errors: kInvalidArgument, kResourceExhausted.
  virtual Result<std::unique_ptr<Segment>> Register(std::span<std::byte> memory,
                                                    const SegmentOptions& options) = 0;

  /// Starts to copy ranges of the segment that `descriptor` names. `done` runs once, on a thread of
  /// the engine (must be quick), when every range has arrived or the transfer has failed: kCorrupt
  /// (checksum), kUnavailable (peer gone, segment gone, no path), kDeadlineExceeded, kCancelled,
  /// kInvalidArgument (descriptor or range), kResourceExhausted (too many transfers or ranges).
  /// Messages name peer, path and range. After a failure, targets hold any bytes, and nothing
  /// writes to them any more.
  virtual TransferId Read(std::string_view descriptor, std::span<const ReadRange> ranges,
                          const ReadOptions& options, std::function<void(Status)> done) = 0;
  /// The transfer ends soon, with kCancelled or as it would have; `done` still runs.
  virtual void Cancel(TransferId id) = 0;

  virtual TransferStats Stats() const = 0;
  /// Where it listens, for people: "tcp 10.0.0.1:7001, shm".
  virtual std::string Describe() const = 0;
};

/// Ways to a peer, best first.
enum class PathKind : uint8_t { kSharedMemory, kUcx, kTcp };
inline constexpr int kNumPaths = 3;
/// "shm", "ucx" or "tcp".
std::string_view PathName(PathKind kind);

/// What a test makes go wrong with one slice that has arrived.
enum class Fault { kNone, kBrokenPath, kWrongBytes };

/// When to send registered memory without a copy into the kernel (MSG_ZEROCOPY). The kernel copies
/// anyway where both ends are on one host, and is then not asked again on that connection.
enum class ZeroCopy { kOff, kToOtherHosts, kAlways };

struct TransferOptions {
  std::string host = "127.0.0.1";  ///< bound exactly; a name is looked up once
  int port = 0;                    ///< 0: any that is free
  /// Host that peers connect to; empty: `host`, which must not be a wildcard then.
  std::string advertised_host;
  /// Both ends of a connection prove that they have it. May be empty on loopback only.
  std::string token;
  bool allow_shared_memory = true;
  bool allow_tcp = true;
  bool allow_ucx = true;  ///< where this build has it and the machine too
  int connections_per_peer = 4;
  uint32_t slice_bytes = 1 << 20;                ///< over TCP; 16 KiB to 8 MiB
  uint32_t shared_memory_slice_bytes = 8 << 20;  ///< over UCX too; 16 KiB to 64 MiB
  int worker_threads = 1;                        ///< copy from shared memory, check sums
  int max_connections = 1024;                    ///< from peers; more are refused
  int max_transfers = 4096;                      ///< in flight; more fail
  ZeroCopy zero_copy = ZeroCopy::kToOtherHosts;
  /// How long a peer's host may be silent before its connection is opened anew.
  TimeUs silence_us = 5'000'000;
  TimeUs connect_timeout_us = 3'000'000;  ///< to connect and prove the token
  TimeUs idle_us = 60'000'000;            ///< unused connections are closed after it
  TimeUs release_us = 2'000'000;          ///< see ~Segment
  const Clock* clock = nullptr;           ///< outlives the engine; nullptr: the machine's
  /// For tests: decides over each slice that arrived. Called on a thread of the engine.
  std::function<Fault(PathKind)> fault;
};

/// UCX as it is here, for people: "UCX 1.13.1 (cma, posix, sysv)", or "none: " and why.
std::string DescribeUcx();

/// An engine that listens. Starts its threads: one for events, and the workers. Errors:
/// kInvalidArgument naming the option, kIo naming the address.
Result<std::unique_ptr<TransferEngine>> StartTransfer(const TransferOptions& options);

}  // namespace halfmoon::transfer
