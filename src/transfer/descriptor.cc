// SPDX-License-Identifier: Apache-2.0
#include "transfer/descriptor.h"

#include <sys/random.h>

#include <charconv>
#include <cstring>

namespace halfmoon::transfer {

namespace {

constexpr std::string_view kMagic = "hmseg1";
constexpr std::array<std::string_view, kNumPaths> kPathNames = {"shm", "ucx", "tcp"};

Error Invalid(std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, "segment descriptor: " + std::string(what));
}

template <typename Number>
bool ParseNumber(std::string_view text, int base, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value, base);
  return error == std::errc() && end == text.data() + text.size();
}

bool ParseSecret(std::string_view text, Secret* secret) {
  if (text.size() != 2 * secret->size()) return false;
  for (size_t i = 0; i < secret->size(); ++i) {
    uint8_t byte = 0;
    if (!ParseNumber(text.substr(2 * i, 2), 16, &byte)) return false;
    (*secret)[i] = static_cast<char>(byte);
  }
  return true;
}

bool IsAddress(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c <= ' ' || c > '~' || c == ',' || c == '=') return false;
  }
  return true;
}

}  // namespace

std::string_view PathName(PathKind kind) { return kPathNames[static_cast<size_t>(kind)]; }

Result<Secret> RandomSecret() {
  Secret secret;
  // Up to 256 bytes are never cut short, once the system's generator has been seeded.
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return Error(ErrorCode::kIo, std::string("random bytes: ") + std::strerror(errno));
  }
  return secret;
}

std::string HexOf(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += kDigits[static_cast<uint8_t>(c) >> 4];
    hex += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return hex;
}

std::string Descriptor::Format() const {
  std::array<char, 16> id;
  const auto [end, error] = std::to_chars(id.data(), id.data() + id.size(), segment, 16);
  std::string text = std::string(kMagic) + ",id=" + std::string(id.data(), end) +
                     ",size=" + std::to_string(size_bytes) +
                     ",secret=" + HexOf({secret.data(), secret.size()});
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (!addresses[i].empty()) text += "," + std::string(kPathNames[i]) + "=" + addresses[i];
  }
  return text;
}

Result<Descriptor> Descriptor::Parse(std::string_view text) {
  if (text.size() > kMaxTextBytes) return Invalid("longer than 8192 bytes");
  if (!text.starts_with(kMagic)) return Invalid("does not start with " + std::string(kMagic));
  text.remove_prefix(kMagic.size());
  Descriptor descriptor;
  bool has_id = false;
  bool has_size = false;
  bool has_secret = false;
  while (!text.empty()) {
    if (text.front() != ',') return Invalid("fields are not apart by commas");
    text.remove_prefix(1);
    const std::string_view field = text.substr(0, text.find(','));
    text.remove_prefix(field.size());
    const size_t equals = field.find('=');
    if (equals == std::string_view::npos) return Invalid("a field without a value");
    const std::string_view name = field.substr(0, equals);
    const std::string_view value = field.substr(equals + 1);
    if (name == "id" && !has_id) {
      has_id = ParseNumber(value, 16, &descriptor.segment);
      if (!has_id) return Invalid("id is not a hexadecimal number");
    } else if (name == "size" && !has_size) {
      has_size = ParseNumber(value, 10, &descriptor.size_bytes);
      if (!has_size) return Invalid("size is not a number");
    } else if (name == "secret" && !has_secret) {
      has_secret = ParseSecret(value, &descriptor.secret);
      if (!has_secret) return Invalid("secret is not 32 hexadecimal digits");
    } else if (name == "id" || name == "size" || name == "secret") {
      return Invalid(std::string(name) + " twice");
    } else {
      if (!IsAddress(value)) return Invalid("an address that is none");
      for (size_t i = 0; i < kPathNames.size(); ++i) {
        if (name != kPathNames[i]) continue;
        if (!descriptor.addresses[i].empty()) return Invalid(std::string(name) + " twice");
        descriptor.addresses[i] = value;
      }
    }
  }
  if (!has_id || !has_size || !has_secret) return Invalid("id, size or secret is missing");
  return descriptor;
}

}  // namespace halfmoon::transfer
