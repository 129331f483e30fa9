// SPDX-License-Identifier: Apache-2.0
#include "cluster/node_record.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "base/json.h"
#include "cluster/meta_store.h"

namespace halfmoon::cluster {
namespace {

constexpr int64_t kRecordVersion = 1;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxAddressBytes = 300;  // a DNS name has at most 253
constexpr size_t kMaxRecordBytes = 16 << 10;

bool IsPrintable(char c) { return c > 0x20 && c < 0x7f; }

}  // namespace

Status CheckName(std::string_view what, std::string_view name) {
  const auto invalid = [&](std::string_view why) {
    return Error(ErrorCode::kInvalidArgument, std::string(what) + " " + std::string(why));
  };
  if (name.empty()) return invalid("is empty");
  if (name.size() > kMaxNameBytes) return invalid("is longer than 255 characters");
  if (!std::all_of(name.begin(), name.end(), [](char c) { return IsPrintable(c) && c != '/'; })) {
    return invalid("has a character other than printable ASCII without space and '/'");
  }
  return {};
}

std::string NodePrefix(std::string_view cluster) {
  return "/halfmoon/" + std::string(cluster) + "/nodes/";
}

Status CheckAddress(std::string_view address) {
  const auto invalid = [](std::string_view why) {
    return Error(ErrorCode::kInvalidArgument, "address " + std::string(why));
  };
  if (address.size() > kMaxAddressBytes) return invalid("is longer than 300 characters");
  if (!std::all_of(address.begin(), address.end(), IsPrintable)) {
    return invalid("has a character other than printable ASCII");
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return invalid("is not host:port");
  const std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (!bracketed && host.find_first_of(":[]") != std::string_view::npos) {
    return invalid("is IPv6 without brackets around the host");
  }
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number == 0) {
    return invalid("has a port that is not a number from 1 to 65535");
  }
  return {};
}

std::string EncodeNodeRecord(std::string_view address) {
  return json::Serialize(json::object{{"version", kRecordVersion}, {"address", address}});
}

Result<std::string> ParseNodeRecord(std::string_view record) {
  const auto corrupt = [](const Error& error) {
    return Error(ErrorCode::kCorrupt, error.message());
  };
  if (record.size() > kMaxRecordBytes) {
    return Error(ErrorCode::kCorrupt, "larger than a node's record can be");
  }
  const auto document = json::ParseObject(record);
  if (!document.ok()) return corrupt(document.error());
  const auto version = json::RequireInt(*document, "version");
  if (!version.ok()) return corrupt(version.error());
  if (*version != kRecordVersion) {
    return Error(ErrorCode::kUnsupported,
                 "version " + std::to_string(*version) + "; this program reads version 1");
  }
  auto address = json::RequireString(*document, "address");
  if (!address.ok()) return corrupt(address.error());
  if (const Status valid = CheckAddress(*address); !valid.ok()) return corrupt(valid.error());
  return address;
}

}  // namespace halfmoon::cluster
