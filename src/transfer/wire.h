// SPDX-License-Identifier: Apache-2.0
// Messages between two engines (docs/formats/transfer.md). The reader is the end that connects; the
// owner has the memory. Parsers take bytes of a peer that is not trusted.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "transfer/descriptor.h"

namespace halfmoon::transfer {

inline constexpr size_t kHelloBytes = 32;
inline constexpr size_t kProofBytes = 32;
inline constexpr size_t kVerdictBytes = 8 + kProofBytes;
inline constexpr size_t kRequestHeaderBytes = 32;
inline constexpr size_t kPieceBytes = 16;
inline constexpr size_t kReplyBytes = 24;
/// Pieces in one request, and their bytes together.
inline constexpr size_t kMaxPieces = 128;
inline constexpr uint64_t kMaxRequestBytes = 64 << 20;
inline constexpr size_t kMaxWorkerAddressBytes = 4096;
inline constexpr size_t kUcxHeaderBytes = 24;
/// Requests that a reader may have sent on a connection and not yet got the reply of.
inline constexpr size_t kMaxOutstanding = 64;

/// First message of both ends.
struct Hello {
  PathKind path = PathKind::kTcp;
  Secret nonce = {};
  std::string Format() const;
  /// Requires kHelloBytes. Errors: kCorrupt (no halfmoon), kUnsupported (its version).
  static Result<Hello> Parse(std::string_view bytes);
};

enum class Role { kReader, kOwner };
/// That `role` knows the token, in an answer to both nonces. kProofBytes.
Result<std::string> Proof(Role role, std::string_view token, const Hello& reader,
                          const Hello& owner);

/// The owner's answer to the reader's proof: whether it holds, and then its own proof.
struct Verdict {
  bool accepted = false;
  std::string proof;
  std::string Format() const;
  /// Requires kVerdictBytes.
  static Verdict Parse(std::string_view bytes);
};

enum class MessageType : uint8_t {
  kRead = 1,     ///< pieces of a segment; their bytes follow the reply
  kOpen = 2,     ///< the segment's memory file, which comes with the reply
  kLease = 3,    ///< the segment stays until kConfirm
  kConfirm = 4,  ///< ends the lease with the same number; the reply says that it held
  kGone = 5,     ///< of the owner, unasked: the segment has gone
  kConnect = 6,  ///< over UCX, first: the address that bytes are to be sent to
};

struct Piece {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool operator==(const Piece&) const = default;
};

struct Request {
  MessageType type = MessageType::kRead;
  uint32_t number = 0;
  uint64_t segment = 0;
  Secret secret = {};
  std::vector<Piece> pieces;
  /// kConnect: of the reader's UCX worker. `segment` is then the version of UCX
  /// (Ucx::wire_version), `secret` what every message is to begin with.
  std::string worker_address;

  uint64_t TotalBytes() const;
  void AppendTo(std::string* bytes) const;
  /// Takes a request from the front of `bytes`; returns its size, 0 where it is not yet whole.
  /// Errors: kCorrupt.
  static Result<size_t> Parse(std::string_view bytes, Request* request);
};

enum class ReplyStatus : uint8_t {
  kOk = 0,
  kGone = 1,        ///< no such segment, or not with that secret
  kOutOfRange = 2,  ///< a piece is not within it
  kNoFile = 3,      ///< it has no memory file
  kNoWay = 4,       ///< UCX has no transport that leads to the reader
};

struct Reply {
  MessageType type = MessageType::kRead;
  ReplyStatus status = ReplyStatus::kOk;
  uint32_t number = 0;
  uint64_t length =
      0;  ///< kRead: bytes that follow; kOpen: size of the segment; kGone: the segment
  uint64_t offset = 0;  ///< kOpen: of the segment in its file

  std::array<char, kReplyBytes> Format() const;
  /// Errors: kCorrupt.
  static Result<Reply> Parse(const std::array<char, kReplyBytes>& bytes);
};

/// What a message over UCX begins with: whose it is, and which piece of which request follows.
struct UcxHeader {
  Secret secret = {};
  uint32_t number = 0;
  uint32_t piece = 0;

  std::array<char, kUcxHeaderBytes> Format() const;
  /// Errors: kCorrupt (size).
  static Result<UcxHeader> Parse(std::string_view bytes);
};

}  // namespace halfmoon::transfer
