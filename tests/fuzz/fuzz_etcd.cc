// SPDX-License-Identifier: Apache-2.0
// What an etcd, or whatever listens in its place, answers: whatever the bytes, a list of addresses
// that somebody can dial, or an error. The first byte says what was asked for.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cluster/etcd_client.h"
#include "cluster/etcd_messages.h"
#include "cluster/node_record.h"
#include "cluster/node_set.h"

namespace {

using namespace halfmoon::cluster;

void Require(bool fact) {
  if (!fact) std::abort();
}

template <typename T>
void RequireWords(const halfmoon::Result<T>& result) {
  if (!result.ok()) Require(!result.error().message().empty());
}

void CheckNodes(const NodeSet& nodes) {
  Require(nodes.revision() >= 0);
  for (const std::string& address : nodes.Addresses()) Require(CheckAddress(address).ok());
}

/// Lines of a session: lists that begin with 'L', events, and failures in between.
void Follow(std::string_view lines) {
  NodeSet nodes({.trust_us = 10, .grace_us = 20});
  halfmoon::TimeUs now_us = 0;
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(line.size() + 1, lines.size()));
    now_us += 3;
    if (line.starts_with('L')) {
      const auto list = etcd::ParseRange(line.substr(1));
      if (list.ok()) RequireWords(nodes.OnList(*list, nodes.revision(), now_us));
    } else if (line.empty()) {
      nodes.OnFailure();
    } else if (const auto answer = etcd::ParseWatchLine(line); answer.ok()) {
      (void)nodes.OnEvents(*answer, now_us);
    }
    CheckNodes(nodes);
    for (const std::string& complaint : nodes.TakeComplaints()) {
      Require(complaint.find('\n') == std::string::npos);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'g':
      if (const auto lease = etcd::ParseLeaseGrant(body); lease.ok()) {
        Require(lease->id != etcd::LeaseId::kNone && lease->ttl_s > 0);
      }
      break;
    case 'k':
      RequireWords(etcd::ParseKeepAlive(body));
      break;
    case 't':
      if (const auto token = etcd::ParseToken(body); token.ok()) Require(!token->empty());
      break;
    case 'f':
      for (const int status : {400, 503}) {
        Require(!etcd::ParseFailure(status, body).message.empty());
      }
      break;
    case 'b':
      if (const auto bytes = etcd::DecodeBase64(body); bytes.ok()) {
        Require(*etcd::DecodeBase64(etcd::EncodeBase64(*bytes)) == *bytes);
      }
      break;
    case 'r':
      if (const auto address = ParseNodeRecord(body); address.ok()) {
        Require(*ParseNodeRecord(EncodeNodeRecord(*address)) == *address);
      }
      break;
    case 'u':
      if (const auto endpoints = etcd::ParseEndpoints(body); endpoints.ok()) {
        for (const etcd::Endpoint& endpoint : *endpoints) {
          Require(etcd::ParseEndpoints(endpoint.url()).ok());
        }
      }
      break;
    default:
      Follow(body);
  }
  return 0;
}
