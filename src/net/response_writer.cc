// SPDX-License-Identifier: Apache-2.0
#include "net/response_writer.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>

#include "base/log.h"

namespace halfmoon::net {
namespace {

// Not strftime: its names of days and months follow the locale.
std::string HttpDate(std::time_t now) {
  constexpr std::array<const char*, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array<const char*, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                kDays[static_cast<size_t>(utc.tm_wday)], utc.tm_mday,
                kMonths[static_cast<size_t>(utc.tm_mon)], utc.tm_year + 1900, utc.tm_hour,
                utc.tm_min, utc.tm_sec);
  return text.data();
}

bool IsDecidedByServer(std::string_view name) {
  for (const std::string_view decided :
       {"Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Date", "Server"}) {
    if (EqualsIgnoreCase(name, decided)) return true;
  }
  return false;
}

void AppendField(std::string_view name, std::string_view value, std::string* out) {
  out->append(name).append(": ").append(value).append("\r\n");
}

}  // namespace

bool StatusForbidsBody(int status) { return status < 200 || status == 204 || status == 304; }

void AppendHead(const ResponseHead& head, const Headers& headers, std::string_view server_name,
                std::string* out) {
  out->append("HTTP/1.1 ").append(std::to_string(head.status)).append(" ");
  out->append(ReasonPhrase(head.status)).append("\r\n");
  AppendField("Date", HttpDate(std::time(nullptr)), out);
  if (!server_name.empty()) AppendField("Server", server_name, out);
  for (const Headers::Field& field : headers) {
    if (IsDecidedByServer(field.name)) continue;
    if (!IsValidHeader(field.name, field.value)) {
      HM_LOG_WARN("net: response header with a forbidden character left out");
      continue;
    }
    AppendField(field.name, field.value, out);
  }
  if (head.framing == Framing::kLength) {
    AppendField("Content-Length", std::to_string(head.content_length), out);
  } else if (head.framing == Framing::kChunked) {
    AppendField("Transfer-Encoding", "chunked", out);
  }
  if (!head.keep_alive) {
    AppendField("Connection", "close", out);
  } else if (!head.http11_client) {
    AppendField("Connection", "keep-alive", out);
  }
  out->append("\r\n");
}

void AppendChunk(std::string_view content, std::string* out) {
  if (content.empty()) return;
  std::array<char, 16> size{};
  const auto end = std::to_chars(size.data(), size.data() + size.size(), content.size(), 16).ptr;
  out->append(size.data(), end).append("\r\n").append(content).append("\r\n");
}

}  // namespace halfmoon::net
