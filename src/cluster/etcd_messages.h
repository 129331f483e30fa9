// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: requests to and answers from etcd's JSON gateway (etcd 3.4,
// etcdserverpb/rpc.proto as JSON: 64-bit numbers are strings, bytes are base64, fields of value 0
// are left out). Pure functions. Errors of all parsers: kCorrupt, naming the field.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::cluster::etcd {

std::string EncodeBase64(std::string_view bytes);
Result<std::string> DecodeBase64(std::string_view text);

enum class LeaseId : int64_t { kNone = 0 };

/// Of every answer. 0 and "" where etcd left them out.
struct Header {
  std::string cluster_id;
  int64_t revision = 0;  ///< of the store; goes up with every change
};

struct KeyValue {
  std::string key;
  std::string value;
  int64_t mod_revision = 0;
  LeaseId lease = LeaseId::kNone;
};

struct LeaseAnswer {
  Header header;
  LeaseId id = LeaseId::kNone;
  int64_t ttl_s = 0;  ///< 0: there is no such lease (any more)
};

struct RangeAnswer {
  Header header;
  std::vector<KeyValue> kvs;
};

struct WatchEvent {
  bool deleted = false;  ///< kv then has key and mod_revision only
  KeyValue kv;
};

/// One line of a watch.
struct WatchAnswer {
  Header header;
  bool created = false;
  bool cancelled = false;
  int64_t compact_revision = 0;  ///< above 0: events below are gone, the watch began too early
  std::string cancel_reason;
  std::vector<WatchEvent> events;
};

std::string LeaseGrantRequest(int64_t ttl_s);
std::string LeaseRequest(LeaseId id);  ///< to keep one alive, and to revoke it
std::string PutRequest(std::string_view key, std::string_view value, LeaseId lease);
std::string RangeRequest(std::string_view key);
/// Of all keys that begin with `prefix`, at most `limit`.
std::string PrefixRequest(std::string_view prefix, int64_t limit);
std::string WatchRequest(std::string_view prefix, int64_t start_revision);
std::string AuthenticateRequest(std::string_view user, std::string_view password);

/// An id of kNone or a lifetime below 1 is an error.
Result<LeaseAnswer> ParseLeaseGrant(std::string_view body);
Result<LeaseAnswer> ParseKeepAlive(std::string_view body);
Result<RangeAnswer> ParseRange(std::string_view body);
/// kUnavailable where the line is an error of etcd's.
Result<WatchAnswer> ParseWatchLine(std::string_view line);
Result<std::string> ParseToken(std::string_view body);

/// What an answer with a status other than 200 says.
struct Failure {
  enum class Kind {
    kNotFound,  ///< no such lease
    kToken,     ///< the token of a user is not good, or no longer
    kNoUsers,   ///< this etcd asks nobody who they are
    kRefused,   ///< as wrong for another member of the same etcd
    kMember,    ///< this member cannot answer; another may
  };
  Kind kind{};
  std::string message;
};
Failure ParseFailure(int status, std::string_view body);

}  // namespace halfmoon::cluster::etcd
