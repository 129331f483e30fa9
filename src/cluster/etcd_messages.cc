// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_messages.h"

#include <algorithm>
#include <charconv>

#include "base/json.h"

namespace halfmoon::cluster::etcd {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Of text from outside in messages.
constexpr size_t kMaxQuotedBytes = 200;

// gRPC status codes, as etcd's errors carry them.
constexpr int64_t kGrpcNotFound = 5;
constexpr int64_t kGrpcFailedPrecondition = 9;
constexpr int64_t kGrpcUnauthenticated = 16;

Error Corrupt(const Error& error) { return Error(ErrorCode::kCorrupt, error.message()); }

std::string Printable(std::string_view text) {
  std::string out(text.substr(0, kMaxQuotedBytes));
  std::replace_if(out.begin(), out.end(), [](char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

Result<json::object> ParseBody(std::string_view body) {
  auto document = json::ParseObject(body);
  if (!document.ok()) return Corrupt(document.error());
  return document;
}

/// The object in a field; an empty one where it is absent.
Result<json::object> ObjectIn(const json::object& o, std::string_view key) {
  const auto found = json::FindObject(o, key);
  if (!found.ok()) return Corrupt(found.error());
  return *found == nullptr ? json::object() : **found;
}

Result<std::string> StringIn(const json::object& o, std::string_view key) {
  auto found = json::FindString(o, key);
  if (!found.ok()) return Corrupt(found.error());
  return std::move(*found).value_or("");
}

Result<bool> BoolIn(const json::object& o, std::string_view key) {
  const auto found = json::FindBool(o, key);
  if (!found.ok()) return Corrupt(found.error());
  return found->value_or(false);
}

/// A 64-bit number, as a string or (as other gateways write small ones) as a number.
Result<int64_t> NumberIn(const json::object& o, std::string_view key) {
  const json::value* v = o.if_contains(key);
  if (v == nullptr || !v->is_string()) {
    const auto found = json::FindInt(o, key);
    if (!found.ok()) return Corrupt(found.error());
    return found->value_or(0);
  }
  const std::string_view text = v->as_string();
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return Error(ErrorCode::kCorrupt, "field '" + std::string(key) +
                                          "': expected a 64-bit number, found '" + Printable(text) +
                                          "'");
  }
  return number;
}

Result<std::string> BytesIn(const json::object& o, std::string_view key) {
  HM_ASSIGN(const std::string text, StringIn(o, key));
  return DecodeBase64(text).WithContext("field '" + std::string(key) + "'");
}

Result<Header> HeaderIn(const json::object& answer) {
  HM_ASSIGN(const json::object o, ObjectIn(answer, "header"));
  Header header;
  HM_ASSIGN(header.cluster_id, StringIn(o, "cluster_id"));
  HM_ASSIGN(header.revision, NumberIn(o, "revision"));
  if (header.revision < 0) {
    return Error(ErrorCode::kCorrupt, "field 'revision': below zero");
  }
  return header;
}

Result<KeyValue> ParseKeyValue(const json::object& o) {
  KeyValue kv;
  HM_ASSIGN(kv.key, BytesIn(o, "key"));
  HM_ASSIGN(kv.value, BytesIn(o, "value"));
  HM_ASSIGN(kv.mod_revision, NumberIn(o, "mod_revision"));
  HM_ASSIGN(const int64_t lease, NumberIn(o, "lease"));
  kv.lease = LeaseId{lease};
  if (kv.key.empty()) return Error(ErrorCode::kCorrupt, "field 'key' is missing");
  if (kv.mod_revision < 1) return Error(ErrorCode::kCorrupt, "field 'mod_revision' is missing");
  return kv;
}

/// Calls `take` with every object of an array, which may be absent.
template <typename Take>
Status ForEachObject(const json::object& o, std::string_view key, const Take& take) {
  const auto items = json::FindArray(o, key);
  if (!items.ok()) return Corrupt(items.error());
  if (*items == nullptr) return {};
  for (size_t i = 0; i < (*items)->size(); ++i) {
    const auto context = [&] { return std::string(key) + "[" + std::to_string(i) + "]"; };
    const json::value& item = (**items)[i];
    if (!item.is_object()) return Error(ErrorCode::kCorrupt, context() + ": expected an object");
    if (const Status taken = take(item.as_object()); !taken.ok()) {
      return taken.error().WithContext(context());
    }
  }
  return {};
}

Result<WatchEvent> ParseEvent(const json::object& o) {
  WatchEvent event;
  HM_ASSIGN(const std::string type, StringIn(o, "type"));
  if (!type.empty() && type != "PUT" && type != "DELETE") {
    return Error(ErrorCode::kCorrupt, "field 'type': '" + Printable(type) + "' is no event");
  }
  event.deleted = type == "DELETE";
  HM_ASSIGN(const json::object kv, ObjectIn(o, "kv"));
  HM_ASSIGN(event.kv, ParseKeyValue(kv));
  return event;
}

Result<LeaseAnswer> ParseLease(const json::object& o) {
  LeaseAnswer answer;
  HM_ASSIGN(answer.header, HeaderIn(o));
  HM_ASSIGN(const int64_t id, NumberIn(o, "ID"));
  answer.id = LeaseId{id};
  HM_ASSIGN(answer.ttl_s, NumberIn(o, "TTL"));
  return answer;
}

/// The "result" of one line of a stream.
Result<json::object> StreamResult(std::string_view line) {
  HM_ASSIGN(const json::object document, ParseBody(line));
  if (const json::value* error = document.if_contains("error"); error != nullptr) {
    std::string message = "etcd ended the stream";
    if (error->is_string()) message += ": " + Printable(error->as_string());
    if (error->is_object()) {
      HM_ASSIGN(const std::string said, StringIn(error->as_object(), "message"));
      message += ": " + Printable(said);
    }
    return Error(ErrorCode::kUnavailable, message);
  }
  if (!document.contains("result")) {
    return Error(ErrorCode::kCorrupt, "field 'result' is missing");
  }
  return ObjectIn(document, "result");
}

/// The key after all keys that begin with `prefix`, which does not end in byte 255.
std::string PrefixEnd(std::string_view prefix) {
  std::string end(prefix);
  ++end.back();
  return end;
}

}  // namespace

std::string EncodeBase64(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) {
      group = group << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += k <= count ? kAlphabet[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

Result<std::string> DecodeBase64(std::string_view text) {
  if (text.size() % 4 != 0) {
    return Error(ErrorCode::kCorrupt, "not base64: its length is no multiple of four");
  }
  size_t padding = 0;
  while (padding < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++padding;
  }
  std::string out;
  out.reserve(text.size() / 4 * 3 + 2);
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    const size_t digit = kAlphabet.find(c);
    if (digit == std::string_view::npos) {
      return Error(ErrorCode::kCorrupt, "not base64: a character outside its alphabet");
    }
    group = (group << 6 | static_cast<uint32_t>(digit)) & 0xffffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    out += static_cast<char>(group >> bits & 0xff);
  }
  return out;
}

std::string LeaseGrantRequest(int64_t ttl_s) {
  return json::Serialize(json::object{{"TTL", std::to_string(ttl_s)}});
}

std::string LeaseRequest(LeaseId id) {
  return json::Serialize(json::object{{"ID", std::to_string(static_cast<int64_t>(id))}});
}

std::string PutRequest(std::string_view key, std::string_view value, LeaseId lease) {
  return json::Serialize(json::object{{"key", EncodeBase64(key)},
                                      {"value", EncodeBase64(value)},
                                      {"lease", std::to_string(static_cast<int64_t>(lease))}});
}

std::string RangeRequest(std::string_view key) {
  return json::Serialize(json::object{{"key", EncodeBase64(key)}});
}

std::string PrefixRequest(std::string_view prefix, int64_t limit) {
  return json::Serialize(json::object{{"key", EncodeBase64(prefix)},
                                      {"range_end", EncodeBase64(PrefixEnd(prefix))},
                                      {"limit", std::to_string(limit)}});
}

std::string WatchRequest(std::string_view prefix, int64_t start_revision) {
  return json::Serialize(json::object{
      {"create_request", json::object{{"key", EncodeBase64(prefix)},
                                      {"range_end", EncodeBase64(PrefixEnd(prefix))},
                                      {"start_revision", std::to_string(start_revision)},
                                      {"progress_notify", true}}}});
}

std::string AuthenticateRequest(std::string_view user, std::string_view password) {
  return json::Serialize(json::object{{"name", user}, {"password", password}});
}

Result<LeaseAnswer> ParseLeaseGrant(std::string_view body) {
  HM_ASSIGN(const json::object document, ParseBody(body));
  HM_ASSIGN(LeaseAnswer answer, ParseLease(document));
  if (answer.id == LeaseId::kNone) return Error(ErrorCode::kCorrupt, "field 'ID' is missing");
  if (answer.ttl_s < 1) return Error(ErrorCode::kCorrupt, "field 'TTL' is missing or below 1");
  return answer;
}

Result<LeaseAnswer> ParseKeepAlive(std::string_view body) {
  HM_ASSIGN(const json::object result, StreamResult(body));
  return ParseLease(result);
}

Result<RangeAnswer> ParseRange(std::string_view body) {
  HM_ASSIGN(const json::object document, ParseBody(body));
  RangeAnswer answer;
  HM_ASSIGN(answer.header, HeaderIn(document));
  // A body that is JSON but none of etcd's would otherwise pass for an empty list.
  if (answer.header.revision == 0) {
    return Error(ErrorCode::kCorrupt, "field 'revision' of the header is missing");
  }
  HM_TRY(ForEachObject(document, "kvs", [&](const json::object& o) -> Status {
    HM_ASSIGN(KeyValue kv, ParseKeyValue(o));
    answer.kvs.push_back(std::move(kv));
    return {};
  }));
  return answer;
}

Result<WatchAnswer> ParseWatchLine(std::string_view line) {
  HM_ASSIGN(const json::object result, StreamResult(line));
  WatchAnswer answer;
  HM_ASSIGN(answer.header, HeaderIn(result));
  HM_ASSIGN(answer.created, BoolIn(result, "created"));
  HM_ASSIGN(answer.cancelled, BoolIn(result, "canceled"));
  HM_ASSIGN(answer.compact_revision, NumberIn(result, "compact_revision"));
  HM_ASSIGN(answer.cancel_reason, StringIn(result, "cancel_reason"));
  answer.cancel_reason = Printable(answer.cancel_reason);
  HM_TRY(ForEachObject(result, "events", [&](const json::object& o) -> Status {
    HM_ASSIGN(WatchEvent event, ParseEvent(o));
    answer.events.push_back(std::move(event));
    return {};
  }));
  return answer;
}

Result<std::string> ParseToken(std::string_view body) {
  HM_ASSIGN(const json::object document, ParseBody(body));
  HM_ASSIGN(std::string token, StringIn(document, "token"));
  if (token.empty()) return Error(ErrorCode::kCorrupt, "field 'token' is missing");
  return token;
}

Failure ParseFailure(int status, std::string_view body) {
  const std::string context = "status " + std::to_string(status);
  Failure failure{.kind = Failure::Kind::kMember};
  const auto document = ParseBody(body);
  const auto message =
      document.ok() ? StringIn(*document, "message") : Result<std::string>(document.error());
  const auto code = document.ok() ? NumberIn(*document, "code") : Result<int64_t>(int64_t{0});
  if (!message.ok() || message->empty() || !code.ok()) {
    failure.message =
        context + ", which is not how etcd 3.4 or later answers: '" + Printable(body) + "'";
    return failure;
  }
  failure.message = context + ": " + Printable(*message);
  if (*code == kGrpcNotFound) {
    failure.kind = Failure::Kind::kNotFound;
  } else if (*code == kGrpcUnauthenticated) {
    failure.kind = Failure::Kind::kToken;
  } else if (*code == kGrpcFailedPrecondition) {
    failure.kind = Failure::Kind::kNoUsers;
  } else if (status / 100 == 4) {
    failure.kind = Failure::Kind::kRefused;
  }
  return failure;
}

}  // namespace halfmoon::cluster::etcd
