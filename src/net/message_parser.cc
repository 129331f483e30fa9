// SPDX-License-Identifier: Apache-2.0
#include "net/message_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "net/beast.h"

namespace halfmoon::net {
namespace {

namespace beast_http = boost::beast::http;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

/// Reads one complete head and keeps what it says. Beast's own idea of the body is switched off
/// (skip): framing is decided here, more strictly.
template <bool kIsRequest>
class HeadReader final : public beast_http::basic_parser<kIsRequest> {
 public:
  explicit HeadReader(size_t max_bytes) {
    this->header_limit(static_cast<uint32_t>(std::min<size_t>(max_bytes, UINT32_MAX)));
    this->body_limit(boost::none);
    this->skip(true);
  }

  /// `head` ends with its empty line. Errors: kCorrupt.
  Status Read(std::string_view head) {
    error_code error;
    const size_t consumed = this->put(asio::const_buffer(head.data(), head.size()), error);
    if (error) return Error(ErrorCode::kCorrupt, error.message());
    if (consumed != head.size() || !this->is_done()) {
      return Error(ErrorCode::kCorrupt, "head ends early");
    }
    return {};
  }

  std::string method;
  std::string target;
  int status = 0;
  int version = 0;  // 10 or 11
  Headers headers;

 private:
  using string_view = boost::beast::string_view;

  void on_request_impl(beast_http::verb, string_view method_text, string_view target_text,
                       int version_number, error_code& error) override {
    error = {};
    method = View(method_text);
    target = View(target_text);
    version = version_number;
  }
  void on_response_impl(int status_code, string_view, int version_number,
                        error_code& error) override {
    error = {};
    status = status_code;
    version = version_number;
  }
  void on_field_impl(beast_http::field, string_view name, string_view value,
                     error_code& error) override {
    error = {};
    headers.Add(std::string(View(name)), std::string(View(value)));
  }
  void on_header_impl(error_code& error) override { error = {}; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code& error) override {
    error = {};
  }
  std::size_t on_body_impl(string_view body, error_code& error) override {
    error = {};
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code& error) override { error = {}; }
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, error_code& error) override {
    error = {};
    return body.size();
  }
  void on_finish_impl(error_code& error) override { error = {}; }
};

/// Digits only: no sign, no space, no list.
std::optional<uint64_t> ParseLength(std::string_view text) {
  uint64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return length;
}

bool KeepsAlive(bool http11, const Headers& headers) {
  if (headers.HasToken("Connection", "close")) return false;
  return http11 || headers.HasToken("Connection", "keep-alive");
}

/// True for a request line that names an HTTP version which is not spoken here.
bool NamesOtherVersion(std::string_view head) {
  const std::string_view line = head.substr(0, head.find("\r\n"));
  const size_t at = line.rfind(" HTTP/");
  if (at == std::string_view::npos) return false;
  const std::string_view version = line.substr(at + 6);
  return version.size() == 3 && version[0] >= '0' && version[0] <= '9' && version[1] == '.' &&
         version[2] >= '0' && version[2] <= '9' && version != "1.0" && version != "1.1";
}

}  // namespace

void HeadBuffer::Append(std::string_view bytes) {
  if (begin_ > 0) {
    bytes_.erase(0, begin_);
    begin_ = 0;
  }
  bytes_.append(bytes);
}

void HeadBuffer::Consume(size_t count) {
  begin_ += count;
  scanned_ = 0;
  if (begin_ == bytes_.size()) {
    bytes_.clear();
    begin_ = 0;
  }
}

Result<size_t> HeadBuffer::FindHead(size_t max_bytes) {
  const std::string_view bytes = rest();
  for (;;) {
    const size_t newline = bytes.find('\n', scanned_);
    const size_t size = newline == std::string_view::npos ? bytes.size() : newline + 1;
    if (size > max_bytes) {
      return Error(ErrorCode::kResourceExhausted,
                   "head is over " + std::to_string(max_bytes) + " bytes");
    }
    if (newline == std::string_view::npos) return size_t{0};
    const std::string_view line = bytes.substr(scanned_, newline - scanned_);
    if (!line.ends_with('\r')) {
      return Error(ErrorCode::kCorrupt, "line end without carriage return");
    }
    if (scanned_ > 0 && (line.front() == ' ' || line.front() == '\t')) {
      return Error(ErrorCode::kCorrupt, "folded header line");
    }
    scanned_ = newline + 1;
    if (line.size() == 1) return scanned_;
  }
}

ParseState RequestParser::Fail(int status, std::string message) {
  failure_status_ = status;
  failure_message_ = std::move(message);
  return state_ = ParseState::kFailed;
}

ParseState RequestParser::Advance() {
  if (state_ == ParseState::kIdle) {
    // An empty line in front of a request is what some clients leave behind an earlier body.
    while (buffer_.rest().starts_with("\r\n")) buffer_.Consume(2);
    if (buffer_.rest().empty() || buffer_.rest() == "\r") return state_;
    state_ = ParseState::kHead;
    http11_ = true;
    keep_alive_ = false;
    expects_continue_ = false;
  }
  if (state_ == ParseState::kHead) {
    const Result<size_t> head = buffer_.FindHead(limits_.max_header_bytes);
    if (!head.ok()) {
      return Fail(head.error().code() == ErrorCode::kResourceExhausted ? 431 : 400,
                  "request " + head.error().message());
    }
    if (*head == 0) return state_;
    ParseHead(*head);
  }
  if (state_ == ParseState::kBody) {
    const Result<size_t> consumed = body_.Feed(buffer_.rest(), &request_.body);
    if (!consumed.ok()) {
      return Fail(consumed.error().code() == ErrorCode::kResourceExhausted ? 413 : 400,
                  "request " + consumed.error().message());
    }
    buffer_.Consume(*consumed);
    if (body_.done()) state_ = ParseState::kDone;
  }
  return state_;
}

ParseState RequestParser::ParseHead(size_t size_bytes) {
  const std::string_view head = buffer_.rest().substr(0, size_bytes);
  HeadReader<true> reader(limits_.max_header_bytes);
  const Status read = reader.Read(head);
  if (!read.ok()) {
    if (NamesOtherVersion(head)) return Fail(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    return Fail(400, "malformed request: " + read.error().message());
  }
  buffer_.Consume(size_bytes);
  http11_ = reader.version == 11;
  keep_alive_ = KeepsAlive(http11_, reader.headers);
  request_ = {};
  request_.method = std::move(reader.method);
  request_.target = std::move(reader.target);
  request_.headers = std::move(reader.headers);
  for (const Headers::Field& field : request_.headers) {
    if (!IsValidHeader(field.name, field.value)) {
      return Fail(400, "malformed request: control character in a header");
    }
  }
  if (request_.method == "CONNECT") return Fail(501, "this server is no proxy");
  Result<ParsedTarget> target = ParseTarget(request_.target);
  if (!target.ok()) return Fail(400, "malformed request: " + target.error().message());
  request_.path = std::move(target->path);
  request_.query = std::move(target->query);
  const size_t num_hosts = request_.headers.Count("Host");
  if (num_hosts > 1 || (http11_ && num_hosts == 0)) {
    return Fail(400, "malformed request: exactly one Host header expected");
  }
  if (!target->authority.empty()) request_.headers.Set("Host", std::move(target->authority));
  return ChooseFraming();
}

ParseState RequestParser::ChooseFraming() {
  const Headers& headers = request_.headers;
  const size_t num_lengths = headers.Count("Content-Length");
  const size_t num_codings = headers.Count("Transfer-Encoding");
  if (num_lengths > 1 || num_codings > 1 || (num_lengths > 0 && num_codings > 0)) {
    return Fail(400, "malformed request: more than one statement of the body's length");
  }
  if (num_codings > 0) {
    if (!http11_) return Fail(400, "malformed request: Transfer-Encoding in HTTP/1.0");
    if (!EqualsIgnoreCase(*headers.Find("Transfer-Encoding"), "chunked")) {
      return Fail(501, "the only Transfer-Encoding understood is chunked");
    }
    body_ = BodyDecoder::Chunked(limits_.max_body_bytes);
  } else if (num_lengths > 0) {
    const std::optional<uint64_t> length = ParseLength(*headers.Find("Content-Length"));
    if (!length) return Fail(400, "malformed request: Content-Length is not a number");
    if (*length > limits_.max_body_bytes) {
      return Fail(413, "request body is over " + std::to_string(limits_.max_body_bytes) + " bytes");
    }
    body_ = BodyDecoder::WithLength(*length);
  } else {
    body_ = BodyDecoder();
  }
  if (const auto expectation = headers.Find("Expect"); expectation && http11_) {
    if (!EqualsIgnoreCase(*expectation, "100-continue")) {
      return Fail(417, "the only expectation understood is 100-continue");
    }
    expects_continue_ = !body_.done();
  }
  return state_ = ParseState::kBody;
}

Request RequestParser::TakeRequest() {
  HM_CHECK(state_ == ParseState::kDone, "TakeRequest before the request is complete");
  state_ = ParseState::kIdle;
  return std::exchange(request_, {});
}

ParseState ResponseParser::Fail(Error error) {
  failure_ = std::move(error);
  return state_ = ParseState::kFailed;
}

ParseState ResponseParser::Advance() {
  if (state_ == ParseState::kIdle && !buffer_.rest().empty()) state_ = ParseState::kHead;
  while (state_ == ParseState::kHead) {
    const Result<size_t> head = buffer_.FindHead(limits_.max_header_bytes);
    if (!head.ok()) return Fail(head.error().WithContext("response"));
    if (*head == 0) return state_;
    ParseHead(*head);
  }
  if (state_ == ParseState::kBody) {
    const Result<size_t> consumed = body_.Feed(buffer_.rest(), &content_);
    if (!consumed.ok()) return Fail(consumed.error().WithContext("response"));
    buffer_.Consume(*consumed);
    if (body_.done()) state_ = ParseState::kDone;
  }
  return state_;
}

ParseState ResponseParser::Eof() {
  if (state_ == ParseState::kDone || state_ == ParseState::kFailed) return state_;
  if (state_ == ParseState::kBody && body_.FinishAtEof()) return state_ = ParseState::kDone;
  return Fail(Error(ErrorCode::kCorrupt, state_ == ParseState::kIdle
                                             ? "connection closed without a response"
                                             : "connection closed inside the response"));
}

ParseState ResponseParser::ParseHead(size_t size_bytes) {
  HeadReader<false> reader(limits_.max_header_bytes);
  const Status read = reader.Read(buffer_.rest().substr(0, size_bytes));
  if (!read.ok()) return Fail(read.error().WithContext("malformed response"));
  buffer_.Consume(size_bytes);
  if (reader.status < 100) {
    return Fail(Error(ErrorCode::kCorrupt, "malformed response: status below 100"));
  }
  if (reader.status < 200) return state_;  // Interim: the real head follows.
  head_.status = reader.status;
  head_.headers = std::move(reader.headers);
  keep_alive_ = KeepsAlive(reader.version == 11, head_.headers);
  return ChooseFraming();
}

ParseState ResponseParser::ChooseFraming() {
  const Headers& headers = head_.headers;
  const size_t num_lengths = headers.Count("Content-Length");
  const size_t num_codings = headers.Count("Transfer-Encoding");
  if (to_head_ || head_.status == 204 || head_.status == 304) {
    body_ = BodyDecoder();
  } else if (num_lengths > 1 || num_codings > 1 || (num_lengths > 0 && num_codings > 0)) {
    return Fail(Error(ErrorCode::kCorrupt, "response states its length more than once"));
  } else if (num_codings > 0) {
    if (!EqualsIgnoreCase(*headers.Find("Transfer-Encoding"), "chunked")) {
      return Fail(Error(ErrorCode::kUnsupported, "response has an unknown Transfer-Encoding"));
    }
    body_ = BodyDecoder::Chunked(limits_.max_body_bytes);
  } else if (num_lengths > 0) {
    const std::optional<uint64_t> length = ParseLength(*headers.Find("Content-Length"));
    if (!length) return Fail(Error(ErrorCode::kCorrupt, "response Content-Length is no number"));
    if (*length > limits_.max_body_bytes) {
      return Fail(
          Error(ErrorCode::kResourceExhausted,
                "response body is over " + std::to_string(limits_.max_body_bytes) + " bytes"));
    }
    body_ = BodyDecoder::WithLength(*length);
  } else {
    body_ = BodyDecoder::UntilClose(limits_.max_body_bytes);
    keep_alive_ = false;
  }
  return state_ = ParseState::kBody;
}

}  // namespace halfmoon::net
