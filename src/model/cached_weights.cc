// SPDX-License-Identifier: Apache-2.0
#include "model/cached_weights.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/hash.h"

namespace halfmoon::model {
namespace {

// One step of reading ahead: long enough for a disk, short enough to stop at.
constexpr size_t kReadAheadBytes = size_t{16} << 20;

size_t PhysicalMemoryBytes() {
  return static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::string WeightKey::Text() const {
  std::string text = content + "/" + layout + "/" + std::to_string(kWeightFileVersion);
  // Where they lie is left out, so that a model that moved is still known.
  for (const checkpoint::SourceFile& source : sources) {
    text += "/" + std::to_string(source.identity.size_bytes) + "." +
            std::to_string(source.identity.inode) + "." +
            std::to_string(source.identity.modified_ns);
  }
  if (!description.empty()) text += "/described/" + description;
  return text;
}

std::string WeightKey::FileName() const {
  const std::string text = Text();
  std::string name = HashBytes(std::as_bytes(std::span(text))).ToHex();
  const std::array<bool, kKeyFlags.size()> flags = {experts, mtp, expanded};
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i]) name += kKeyFlags[i];
  }
  return name + ".weights";
}

CachedWeights::CachedWeights(FileDescriptor fd, FileMapping mapping, WeightTable table)
    : fd_(std::move(fd)), mapping_(std::move(mapping)), table_(std::move(table)) {}

CachedWeights::~CachedWeights() {
  stop_ = true;
  if (reader_.joinable()) reader_.join();
}

kernels::PackedMatrix CachedWeights::View(const FiledMatrix& matrix) const {
  const size_t size = kernels::PackedSizeBytes(matrix.format, matrix.rows, matrix.cols);
  return {matrix.format, matrix.rows, matrix.cols, matrix.zero,
          std::span(mapping_.data() + matrix.offset, size)};
}

void CachedWeights::ReadAhead() {
  // What does not fit would push itself out.
  if (mapping_.size_bytes() > PhysicalMemoryBytes() / 8 * 7) return;
  reader_ = std::thread([this] {
    for (size_t at = 0; at < mapping_.size_bytes() && !stop_; at += kReadAheadBytes) {
      mapping_.Populate(at, kReadAheadBytes);
    }
  });
}

Result<std::span<std::byte>> WeightBuilder::Allocate(size_t size_bytes) {
  Result<std::span<std::byte>> memory = arena_->Allocate(size_bytes);
  full_ = full_ || !memory.ok();
  return memory;
}

void WeightBuilder::Add(std::string name, const kernels::PackedMatrix& packed) {
  const auto offset = static_cast<uint64_t>(packed.tile(0) - arena_->bytes().data());
  table_.matrices.push_back({.name = std::move(name),
                             .format = packed.format(),
                             .zero = packed.zero(),
                             .rows = packed.rows(),
                             .cols = packed.cols(),
                             .offset = offset});
}

void WeightBuilder::Add(std::string name, std::span<const float> vector) {
  table_.vectors.push_back(
      {.name = std::move(name), .values = std::vector<float>(vector.begin(), vector.end())});
}

}  // namespace halfmoon::model
