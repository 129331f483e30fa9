// SPDX-License-Identifier: Apache-2.0
// Bytes of a peer between nodes: segment descriptors, handshakes, requests and replies. What is
// accepted is within its limits, and writes itself as it was read.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "transfer/descriptor.h"
#include "transfer/socket.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {
namespace {

void ParseDescriptor(std::string_view text) {
  const Result<Descriptor> descriptor = Descriptor::Parse(text);
  if (!descriptor.ok()) return;
  const Result<Descriptor> again = Descriptor::Parse(descriptor->Format());
  HM_CHECK(again.ok(), "a descriptor does not read what it wrote");
  HM_CHECK(*again == *descriptor, "a descriptor changes when it is written");
  const Result<Address> address = ParseAddress(descriptor->address(PathKind::kTcp));
  if (!address.ok()) return;
  HM_CHECK(address->port() > 0, "an address without a port");
}

void ParseRequests(std::string_view bytes) {
  Request request;
  while (!bytes.empty()) {
    const Result<size_t> used = Request::Parse(bytes, &request);
    if (!used.ok() || *used == 0) return;
    HM_CHECK(*used <= bytes.size(), "a request that is longer than its bytes");
    HM_CHECK(request.pieces.size() <= kMaxPieces, "too many pieces");
    HM_CHECK(request.worker_address.size() <= kMaxWorkerAddressBytes, "too long an address");
    HM_CHECK(request.TotalBytes() <= kMaxRequestBytes, "too many bytes");
    for (const Piece& piece : request.pieces) {
      HM_CHECK(piece.length > 0, "an empty piece");
      HM_CHECK(piece.length <= kMaxRequestBytes, "a piece beyond the limit");
    }
    std::string written;
    request.AppendTo(&written);
    HM_CHECK(written.size() == *used, "a request of another size");
    // The second byte means nothing.
    HM_CHECK(written.substr(2) == bytes.substr(2, *used - 2), "a request changes");
    bytes.remove_prefix(*used);
  }
}

void ParseReplies(std::string_view bytes) {
  std::array<char, kReplyBytes> buffer;
  while (bytes.size() >= buffer.size()) {
    std::copy_n(bytes.begin(), buffer.size(), buffer.begin());
    const Result<Reply> reply = Reply::Parse(buffer);
    if (!reply.ok()) return;
    const Result<Reply> again = Reply::Parse(reply->Format());
    HM_CHECK(again.ok(), "a reply does not read what it wrote");
    HM_CHECK(again->length == reply->length, "a reply changes");
    bytes.remove_prefix(buffer.size());
  }
}

void ParseHandshake(std::string_view bytes) {
  if (bytes.size() >= kHelloBytes) {
    const Result<Hello> hello = Hello::Parse(bytes.substr(0, kHelloBytes));
    if (hello.ok()) {
      HM_CHECK(static_cast<int>(hello->path) < kNumPaths, "a path that there is not");
      HM_CHECK(Hello::Parse(hello->Format()).ok(), "a hello does not read what it wrote");
    }
  }
  const Result<UcxHeader> header = UcxHeader::Parse(bytes.substr(0, kUcxHeaderBytes));
  if (header.ok()) {
    const auto written = header->Format();
    HM_CHECK(std::string_view(written.data(), written.size()) == bytes.substr(0, kUcxHeaderBytes),
             "a UCX header changes");
  }
  if (bytes.size() >= kVerdictBytes) {
    const Verdict verdict = Verdict::Parse(bytes.substr(0, kVerdictBytes));
    HM_CHECK(verdict.proof.size() == kProofBytes, "a proof of another size");
  }
}

}  // namespace
}  // namespace halfmoon::transfer

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace halfmoon::transfer;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  ParseDescriptor(bytes);
  ParseRequests(bytes);
  ParseReplies(bytes);
  ParseHandshake(bytes);
  return 0;
}
