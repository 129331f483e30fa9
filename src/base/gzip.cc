// SPDX-License-Identifier: Apache-2.0
#include "base/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <memory>

namespace halfmoon {
namespace {

constexpr size_t kStepBytes = size_t{1} << 20;
constexpr int kGzipOnly = 15 + 16;  // zlib: the largest window, and no other format

struct InflateEnd {
  void operator()(z_stream* stream) const { inflateEnd(stream); }
};

}  // namespace

bool IsGzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

Result<std::string> Gunzip(std::string_view bytes, size_t max_bytes) {
  z_stream stream{};
  if (inflateInit2(&stream, kGzipOnly) != Z_OK) {
    return Error(ErrorCode::kResourceExhausted, "no memory to decompress");
  }
  const std::unique_ptr<z_stream, InflateEnd> guard(&stream);
  std::string text;
  size_t taken = 0;
  for (;;) {
    // zlib counts in 32 bits and wants what it does not write to as not const.
    const size_t piece = std::min<size_t>(bytes.size() - taken, std::numeric_limits<uInt>::max());
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data() + taken));
    stream.avail_in = static_cast<uInt>(piece);
    const size_t room = std::min(kStepBytes, max_bytes + 1 - text.size());
    const size_t old = text.size();
    text.resize(old + room);
    stream.next_out = reinterpret_cast<Bytef*>(text.data() + old);
    stream.avail_out = static_cast<uInt>(room);
    const int status = inflate(&stream, Z_NO_FLUSH);
    taken += piece - stream.avail_in;
    text.resize(old + room - stream.avail_out);
    if (text.size() > max_bytes) {
      return Error(ErrorCode::kResourceExhausted,
                   "more than " + std::to_string(max_bytes) + " bytes when decompressed");
    }
    if (status == Z_STREAM_END) {
      if (taken == bytes.size()) return text;
      if (inflateReset(&stream) != Z_OK) return Error(ErrorCode::kCorrupt, "gzip: bad state");
    } else if (status != Z_OK) {
      const char* why = status == Z_BUF_ERROR   ? "cut short"
                        : stream.msg != nullptr ? stream.msg
                                                : "not a gzip file";
      return Error(ErrorCode::kCorrupt,
                   "gzip: " + std::string(why) + " at byte " + std::to_string(taken));
    }
  }
}

}  // namespace halfmoon
