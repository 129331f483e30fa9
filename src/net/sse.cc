// SPDX-License-Identifier: Apache-2.0
#include "net/sse.h"

#include <algorithm>
#include <charconv>

namespace halfmoon::net {
namespace {

// Appends `prefix` + line + LF for each line of `text`.
void AppendLines(std::string_view prefix, std::string_view text, std::string* out) {
  for (;;) {
    const size_t end = text.find_first_of("\r\n");
    out->append(prefix).append(text.substr(0, end)).push_back('\n');
    if (end == std::string_view::npos) return;
    const bool crlf = text.substr(end, 2) == "\r\n";
    text.remove_prefix(end + (crlf ? 2 : 1));
  }
}

void AppendField(std::string_view prefix, std::string_view value, std::string* out) {
  if (value.empty()) return;
  out->append(prefix);
  for (const char c : value) {
    // A reader ignores an id that holds a zero byte, so it is dropped as well.
    if (c != '\r' && c != '\n' && c != '\0') out->push_back(c);
  }
  out->push_back('\n');
}

}  // namespace

std::string SseData(std::string_view data) { return SseEvent({}, data); }

std::string SseEvent(std::string_view type, std::string_view data, std::string_view id) {
  std::string out;
  out.reserve(data.size() + type.size() + id.size() + 32);
  AppendField("event: ", type, &out);
  AppendField("id: ", id, &out);
  AppendLines("data: ", data, &out);
  out.push_back('\n');
  return out;
}

std::string SseComment(std::string_view text) {
  std::string out;
  AppendLines(": ", text, &out);
  out.push_back('\n');
  return out;
}

SseParser::SseParser(Callback on_message, size_t max_event_bytes)
    : on_message_(std::move(on_message)), max_event_bytes_(max_event_bytes) {}

Status SseParser::Feed(std::string_view bytes) {
  while (!bytes.empty() && !failed_) {
    if (last_was_cr_) {
      last_was_cr_ = false;
      if (bytes.front() == '\n') {
        bytes.remove_prefix(1);
        continue;
      }
    }
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view part = bytes.substr(0, end);
    if (part.size() > max_event_bytes_ - line_.size()) {
      failed_ = true;
      break;
    }
    line_.append(part);
    if (end == std::string_view::npos) return {};
    last_was_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    EndLine();
  }
  if (failed_) {
    return Error(ErrorCode::kResourceExhausted,
                 "server-sent event is over " + std::to_string(max_event_bytes_) + " bytes");
  }
  return {};
}

void SseParser::EndLine() {
  std::string_view line = line_;
  if (first_line_ && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  first_line_ = false;
  if (line.empty()) {
    Dispatch();
  } else {
    // An empty field name is a comment.
    const std::string_view name = line.substr(0, line.find(':'));
    std::string_view value = name.size() < line.size() ? line.substr(name.size() + 1) : "";
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (name == "data") {
      if (value.size() + 1 > max_event_bytes_ - std::min(data_.size(), max_event_bytes_)) {
        failed_ = true;
        return;
      }
      if (has_data_) data_.push_back('\n');
      data_.append(value);
      has_data_ = true;
    } else if (name == "event") {
      type_ = value;
    } else if (name == "id") {
      if (value.find('\0') == std::string_view::npos) last_id_ = value;
    } else if (name == "retry") {
      int64_t parsed = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), parsed);
      if (error == std::errc() && end == value.data() + value.size() && parsed >= 0) {
        retry_ms_ = parsed;
      }
    }
  }
  line_.clear();
}

void SseParser::Dispatch() {
  if (has_data_) {
    SseMessage message;
    if (!type_.empty()) message.type = type_;
    message.data = std::move(data_);
    message.id = last_id_;
    message.retry_ms = retry_ms_;
    on_message_(message);
  }
  data_.clear();
  type_.clear();
  retry_ms_.reset();
  has_data_ = false;
}

}  // namespace halfmoon::net
