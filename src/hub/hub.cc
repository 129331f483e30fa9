// SPDX-License-Identifier: Apache-2.0
#include "hub/hub.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>

namespace halfmoon::hub {
namespace {

bool IsNameCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
}

/// A part of a repository's name: what hubs allow, so that none can leave a folder.
bool IsNamePart(std::string_view part) {
  return !part.empty() && part.size() <= 96 && part.front() != '.' && part.front() != '-' &&
         part.back() != '.' && std::all_of(part.begin(), part.end(), IsNameCharacter) &&
         part.find("..") == std::string_view::npos && part.find("--") == std::string_view::npos;
}

/// Bytes of the UTF-8 character that `text` begins with; 0 where it begins with none.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t count = byte(0) < 0x80   ? 1
                       : byte(0) < 0xc2 ? 0
                       : byte(0) < 0xe0 ? 2
                       : byte(0) < 0xf0 ? 3
                       : byte(0) < 0xf5 ? 4
                                        : 0;
  if (count > text.size()) return 0;
  for (size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Longer forms than needed, surrogates, and what lies beyond the last character.
  if (byte(0) == 0xe0 && byte(1) < 0xa0) return 0;
  if (byte(0) == 0xed && byte(1) >= 0xa0) return 0;
  if (byte(0) == 0xf0 && byte(1) < 0x90) return 0;
  if (byte(0) == 0xf4 && byte(1) >= 0x90) return 0;
  return count;
}

}  // namespace

std::string_view HubKindName(HubKind kind) {
  switch (kind) {
    case HubKind::kHuggingFace:
      return "huggingface";
    case HubKind::kModelScope:
      return "modelscope";
    case HubKind::kOllama:
      return "ollama";
  }
  return "unknown";
}

Result<ModelName> ModelName::Parse(std::string_view text) {
  const auto invalid = [&](std::string_view why) {
    return Error(ErrorCode::kInvalidArgument, "model name '" + OneLine(text) +
                                                  "': " + std::string(why) +
                                                  "; it is written org/name[@revision][:quant]");
  };
  ModelName name;
  std::string_view rest = text;
  for (const std::string_view prefix :
       {"https://huggingface.co/", "huggingface.co/", "hf.co/", "hf://"}) {
    if (!rest.starts_with(prefix)) continue;
    rest.remove_prefix(prefix.size());
    break;
  }
  if (const size_t colon = rest.find(':'); colon != std::string_view::npos) {
    name.quant = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (name.quant.empty()) return invalid("nothing follows ':'");
    HM_TRY(CheckRelativePath(name.quant).WithContext("model name '" + OneLine(text) + "'"));
  }
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    name.revision = rest.substr(at + 1);
    rest = rest.substr(0, at);
    if (name.revision.empty()) return invalid("nothing follows '@'");
    HM_TRY(CheckRelativePath(name.revision).WithContext("model name '" + OneLine(text) + "'"));
  }
  const size_t slash = rest.find('/');
  const bool parts_ok = slash == std::string_view::npos ? IsNamePart(rest)
                                                        : IsNamePart(rest.substr(0, slash)) &&
                                                              IsNamePart(rest.substr(slash + 1));
  // The address of a hub is no organisation: names lead to themselves.
  const bool host = rest.starts_with("hf.co/") || rest.starts_with("huggingface.co/");
  if (!parts_ok || host) return invalid("not the name of a repository");
  name.id = rest;
  return name;
}

std::string ModelName::ToString() const {
  return id + (revision.empty() ? "" : "@" + revision) + (quant.empty() ? "" : ":" + quant);
}

bool IsHex(std::string_view text, size_t count) {
  return text.size() == count && std::all_of(text.begin(), text.end(),
                                             [](unsigned char c) { return std::isxdigit(c) != 0; });
}

Status CheckRelativePath(std::string_view path) {
  const auto bad = [&](std::string_view why) {
    return Error(ErrorCode::kCorrupt,
                 "file name '" + OneLine(path) + "' refused: " + std::string(why));
  };
  if (path.empty()) return bad("empty");
  if (path.size() > 1024) return bad("longer than 1024 bytes");
  if (path.front() == '/') return bad("absolute");
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return bad("it holds a control character");
    if (c == '\\') return bad("it holds a backslash");
  }
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") {
      return bad("a part of it is empty, '.' or '..'");
    }
    if (part.size() > 255) return bad("a part of it is longer than 255 bytes");
    begin = end + 1;
  }
  return {};
}

std::string OneLine(std::string_view text, size_t max_bytes) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const std::string_view character = text.substr(i, CharacterBytes(text.substr(i)));
    i += std::max<size_t>(character.size(), 1);
    if (out.size() + character.size() > max_bytes) break;
    const auto first = static_cast<unsigned char>(character.empty() ? '?' : character.front());
    // U+0080 to U+009F are C1, which some terminals obey.
    const bool c1 = first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
    if (first < 0x20 || first == 0x7f || c1) continue;
    out += character.empty() ? "?" : character;
  }
  return out;
}

std::string SizeText(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), unit == 0 || value >= 100.0 ? "%.0f %s" : "%.1f %s",
                value, kUnits[unit]);
  return text.data();
}

}  // namespace halfmoon::hub
