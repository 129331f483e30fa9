// SPDX-License-Identifier: Apache-2.0
#include "net/body_decoder.h"

#include <algorithm>

namespace halfmoon::net {
namespace {

constexpr size_t kMaxLineBytes = 4 << 10;
constexpr size_t kMaxTrailerBytes = 16 << 10;
// Fifteen digits cannot overflow 64 bits, and no real chunk has more.
constexpr int kMaxSizeDigits = 15;

Error Broken(std::string_view what) {
  return Error(ErrorCode::kCorrupt, "chunked body: " + std::string(what));
}

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t') || byte == 0x7f;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

BodyDecoder BodyDecoder::WithLength(uint64_t length_bytes) {
  BodyDecoder decoder;
  decoder.state_ = length_bytes > 0 ? State::kLength : State::kDone;
  decoder.remaining_ = length_bytes;
  return decoder;
}

BodyDecoder BodyDecoder::Chunked(uint64_t max_bytes) {
  BodyDecoder decoder;
  decoder.state_ = State::kChunkSize;
  decoder.budget_ = decoder.max_bytes_ = max_bytes;
  return decoder;
}

BodyDecoder BodyDecoder::UntilClose(uint64_t max_bytes) {
  BodyDecoder decoder;
  decoder.state_ = State::kUntilClose;
  decoder.budget_ = decoder.max_bytes_ = max_bytes;
  return decoder;
}

bool BodyDecoder::FinishAtEof() {
  if (state_ == State::kUntilClose) state_ = State::kDone;
  return done();
}

Result<size_t> BodyDecoder::Feed(std::string_view bytes, std::string* out) {
  size_t consumed = 0;
  while (consumed < bytes.size() && !done()) {
    const std::string_view rest = bytes.substr(consumed);
    switch (state_) {
      case State::kLength:
      case State::kChunkData: {
        const size_t take = static_cast<size_t>(std::min<uint64_t>(remaining_, rest.size()));
        out->append(rest.substr(0, take));
        consumed += take;
        remaining_ -= take;
        if (remaining_ == 0) {
          state_ = state_ == State::kLength ? State::kDone : State::kChunkDataCr;
        }
        break;
      }
      case State::kUntilClose:
        if (rest.size() > budget_) {
          return Error(ErrorCode::kResourceExhausted,
                       "body is over " + std::to_string(max_bytes_) + " bytes");
        }
        budget_ -= rest.size();
        out->append(rest);
        consumed += rest.size();
        break;
      default:
        HM_TRY(FeedFraming(rest.front()));
        ++consumed;
    }
  }
  return consumed;
}

Status BodyDecoder::FeedFraming(char c) {
  switch (state_) {
    case State::kChunkSize: {
      const int digit = HexDigit(c);
      if (digit >= 0) {
        if (++size_digits_ > kMaxSizeDigits) return Broken("chunk size has too many digits");
        remaining_ = remaining_ * 16 + static_cast<uint64_t>(digit);
        return {};
      }
      if (size_digits_ == 0) return Broken("chunk size expected");
      line_bytes_ = 0;
      if (c == '\r') {
        state_ = State::kChunkSizeLf;
      } else if (c == ';') {
        state_ = State::kChunkExtension;
      } else {
        return Broken("chunk size is followed by something else than an extension or a line end");
      }
      return {};
    }
    case State::kChunkExtension:
      if (c == '\r') {
        state_ = State::kChunkSizeLf;
      } else if (IsControl(c)) {
        return Broken("control character in a chunk extension");
      } else if (++line_bytes_ > kMaxLineBytes) {
        return Broken("chunk extension is too long");
      }
      return {};
    case State::kChunkSizeLf:
      if (c != '\n') return Broken("line end expected after chunk size");
      return EndChunkSize();
    case State::kChunkDataCr:
      if (c != '\r') return Broken("chunk is longer than its size");
      state_ = State::kChunkDataLf;
      return {};
    case State::kChunkDataLf:
      if (c != '\n') return Broken("line end expected after chunk");
      state_ = State::kChunkSize;
      size_digits_ = 0;
      return {};
    case State::kTrailerLineStart:
      if (c == '\r') {
        state_ = State::kLastLf;
        return {};
      }
      line_bytes_ = 0;
      state_ = State::kTrailerLine;
      [[fallthrough]];
    case State::kTrailerLine:
      if (c == '\r') {
        state_ = State::kTrailerLineLf;
      } else if (IsControl(c)) {
        return Broken("control character in a trailer");
      } else if (++line_bytes_ > kMaxLineBytes || ++trailer_bytes_ > kMaxTrailerBytes) {
        return Broken("trailers are too long");
      }
      return {};
    case State::kTrailerLineLf:
      if (c != '\n') return Broken("line end expected after trailer");
      state_ = State::kTrailerLineStart;
      return {};
    case State::kLastLf:
      if (c != '\n') return Broken("line end expected after last chunk");
      state_ = State::kDone;
      return {};
    default:
      return Broken("no framing expected here");
  }
}

Status BodyDecoder::EndChunkSize() {
  if (remaining_ == 0) {
    state_ = State::kTrailerLineStart;
    return {};
  }
  if (remaining_ > budget_) {
    return Error(ErrorCode::kResourceExhausted,
                 "body is over " + std::to_string(max_bytes_) + " bytes");
  }
  budget_ -= remaining_;
  state_ = State::kChunkData;
  return {};
}

}  // namespace halfmoon::net
