// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/fingerprint.h"

#include <algorithm>
#include <cstring>

#include "base/hash.h"

namespace halfmoon::checkpoint {
namespace {

// Samples of a page each: denser than one in 200 KiB for the smallest model served, so that every
// matrix of it is touched.
constexpr size_t kNumSamples = 512;
constexpr size_t kSampleBytes = 4096;

struct Sample {
  const MappedFile* file;
  size_t offset;
  size_t size_bytes;
};

/// Evenly spread over the data of all files, the first and the last bytes of each included.
std::vector<Sample> ChooseSamples(const std::vector<FingerprintFile>& files) {
  size_t total = 0;
  for (const FingerprintFile& f : files) total += f.file->bytes().size() - f.header_bytes;
  const size_t stride = std::max(kSampleBytes, total / kNumSamples);
  std::vector<Sample> samples;
  for (const FingerprintFile& f : files) {
    const size_t end = f.file->bytes().size();
    for (size_t at = f.header_bytes; at < end; at += std::min(stride, end - at)) {
      samples.push_back(
          {.file = f.file, .offset = at, .size_bytes = std::min(kSampleBytes, end - at)});
    }
    const size_t tail = std::min(kSampleBytes, end - f.header_bytes);
    samples.push_back({.file = f.file, .offset = end - tail, .size_bytes = tail});
  }
  return samples;
}

}  // namespace

std::string Fingerprint(std::string_view config, const std::vector<FingerprintFile>& files) {
  // Digests of the parts, hashed together at the end.
  std::vector<Hash128> parts;
  parts.push_back(HashBytes(std::as_bytes(std::span(config))));
  for (const FingerprintFile& f : files) {
    parts.push_back(Hash128{.high = f.file->bytes().size(), .low = f.header_bytes});
    parts.push_back(HashBytes(f.file->bytes().first(f.header_bytes)));
  }
  const std::vector<Sample> samples = ChooseSamples(files);
  // Asked for together, cold pages come from disk in parallel.
  for (const Sample& s : samples) s.file->WillNeed(s.offset, s.size_bytes);
  for (const Sample& s : samples) {
    parts.push_back(HashBytes(s.file->bytes().subspan(s.offset, s.size_bytes)));
  }
  return HashBytes(std::as_bytes(std::span(parts))).ToHex();
}

}  // namespace halfmoon::checkpoint
