// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire.h"

#include <bit>
#include <cstring>

#include "net/digest.h"

namespace halfmoon::transfer {

namespace {

static_assert(std::endian::native == std::endian::little, "numbers go over the wire as they lie");

constexpr std::string_view kMagic = "HMTRANSF";
constexpr uint16_t kVersion = 1;

template <typename Number>
void Append(std::string* bytes, Number number) {
  bytes->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
Number Load(const char* bytes) {
  Number number;
  std::memcpy(&number, bytes, sizeof(number));
  return number;
}

Error Corrupt(const std::string& what) { return Error(ErrorCode::kCorrupt, what); }

}  // namespace

std::string Hello::Format() const {
  std::string bytes(kMagic);
  Append(&bytes, kVersion);
  Append(&bytes, static_cast<uint8_t>(path));
  bytes.append(5, '\0');
  bytes.append(nonce.data(), nonce.size());
  return bytes;
}

Result<Hello> Hello::Parse(std::string_view bytes) {
  if (!bytes.starts_with(kMagic)) return Corrupt("the other end is no halfmoon transfer");
  const auto version = Load<uint16_t>(bytes.data() + 8);
  if (version != kVersion) {
    return Error(ErrorCode::kUnsupported, "the other end speaks version " +
                                              std::to_string(version) + " of the transfer, not " +
                                              std::to_string(kVersion));
  }
  const auto path = static_cast<uint8_t>(bytes[10]);
  if (path >= kNumPaths) return Corrupt("hello: no path has number " + std::to_string(path));
  Hello hello{.path = static_cast<PathKind>(path)};
  std::memcpy(hello.nonce.data(), bytes.data() + 16, hello.nonce.size());
  return hello;
}

Result<std::string> Proof(Role role, std::string_view token, const Hello& reader,
                          const Hello& owner) {
  // The role keeps a proof from being sent back to whoever made it.
  return net::HmacSha256(
      token, (role == Role::kReader ? "reader" : "owner ") + reader.Format() + owner.Format());
}

std::string Verdict::Format() const {
  std::string bytes(1, accepted ? '\1' : '\0');
  bytes.append(7, '\0');
  bytes += proof;
  bytes.resize(kVerdictBytes);
  return bytes;
}

Verdict Verdict::Parse(std::string_view bytes) {
  return {.accepted = bytes[0] == '\1', .proof = std::string(bytes.substr(8, kProofBytes))};
}

uint64_t Request::TotalBytes() const {
  uint64_t total = 0;
  for (const Piece& piece : pieces) total += piece.length;
  return total;
}

void Request::AppendTo(std::string* bytes) const {
  const size_t count = type == MessageType::kConnect ? worker_address.size() : pieces.size();
  Append(bytes, static_cast<uint8_t>(type));
  Append(bytes, uint8_t{0});
  Append(bytes, static_cast<uint16_t>(count));
  Append(bytes, number);
  Append(bytes, segment);
  bytes->append(secret.data(), secret.size());
  if (type == MessageType::kConnect) {
    *bytes += worker_address;
    return;
  }
  for (const Piece& piece : pieces) {
    Append(bytes, piece.offset);
    Append(bytes, piece.length);
  }
}

Result<size_t> Request::Parse(std::string_view bytes, Request* request) {
  if (bytes.size() < kRequestHeaderBytes) return size_t{0};
  const auto type = static_cast<uint8_t>(bytes[0]);
  const bool connects = type == static_cast<uint8_t>(MessageType::kConnect);
  if (type < static_cast<uint8_t>(MessageType::kRead) ||
      (type > static_cast<uint8_t>(MessageType::kConfirm) && !connects)) {
    return Corrupt("request of unknown type " + std::to_string(type));
  }
  const auto count = Load<uint16_t>(bytes.data() + 2);
  if (connects && (count == 0 || count > kMaxWorkerAddressBytes)) {
    return Corrupt("address of " + std::to_string(count) + " bytes");
  }
  if (!connects && count > kMaxPieces) {
    return Corrupt("request of " + std::to_string(count) + " pieces");
  }
  const size_t size = kRequestHeaderBytes + (connects ? count : count * kPieceBytes);
  if (bytes.size() < size) return size_t{0};
  request->type = static_cast<MessageType>(type);
  request->number = Load<uint32_t>(bytes.data() + 4);
  request->segment = Load<uint64_t>(bytes.data() + 8);
  std::memcpy(request->secret.data(), bytes.data() + 16, request->secret.size());
  request->pieces.clear();
  request->worker_address.assign(bytes.substr(kRequestHeaderBytes, connects ? count : 0));
  if (connects) return size;
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) {
    const char* at = bytes.data() + kRequestHeaderBytes + i * kPieceBytes;
    const Piece piece = {.offset = Load<uint64_t>(at), .length = Load<uint64_t>(at + 8)};
    if (piece.length == 0 || piece.length > kMaxRequestBytes - total) {
      return Corrupt("request of no bytes, or of more than " + std::to_string(kMaxRequestBytes));
    }
    total += piece.length;
    request->pieces.push_back(piece);
  }
  if (request->type == MessageType::kRead && count == 0) return Corrupt("read of nothing");
  return size;
}

std::array<char, kReplyBytes> Reply::Format() const {
  std::array<char, kReplyBytes> bytes = {};
  bytes[0] = static_cast<char>(type);
  bytes[1] = static_cast<char>(status);
  std::memcpy(bytes.data() + 4, &number, sizeof(number));
  std::memcpy(bytes.data() + 8, &length, sizeof(length));
  std::memcpy(bytes.data() + 16, &offset, sizeof(offset));
  return bytes;
}

Result<Reply> Reply::Parse(const std::array<char, kReplyBytes>& bytes) {
  const auto type = static_cast<uint8_t>(bytes[0]);
  const auto status = static_cast<uint8_t>(bytes[1]);
  if (type < static_cast<uint8_t>(MessageType::kRead) ||
      type > static_cast<uint8_t>(MessageType::kConnect)) {
    return Corrupt("reply of unknown type " + std::to_string(type));
  }
  if (status > static_cast<uint8_t>(ReplyStatus::kNoWay)) {
    return Corrupt("reply with unknown status " + std::to_string(status));
  }
  return Reply{.type = static_cast<MessageType>(type),
               .status = static_cast<ReplyStatus>(status),
               .number = Load<uint32_t>(bytes.data() + 4),
               .length = Load<uint64_t>(bytes.data() + 8),
               .offset = Load<uint64_t>(bytes.data() + 16)};
}

std::array<char, kUcxHeaderBytes> UcxHeader::Format() const {
  std::array<char, kUcxHeaderBytes> bytes = {};
  std::memcpy(bytes.data(), secret.data(), secret.size());
  std::memcpy(bytes.data() + 16, &number, sizeof(number));
  std::memcpy(bytes.data() + 20, &piece, sizeof(piece));
  return bytes;
}

Result<UcxHeader> UcxHeader::Parse(std::string_view bytes) {
  if (bytes.size() != kUcxHeaderBytes) {
    return Corrupt("UCX message with a header of " + std::to_string(bytes.size()) + " bytes");
  }
  UcxHeader header{.number = Load<uint32_t>(bytes.data() + 16),
                   .piece = Load<uint32_t>(bytes.data() + 20)};
  std::memcpy(header.secret.data(), bytes.data(), header.secret.size());
  return header;
}

}  // namespace halfmoon::transfer
