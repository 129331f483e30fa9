// SPDX-License-Identifier: Apache-2.0
#include "model/weight_file.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

namespace halfmoon::model {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

constexpr std::string_view kMagic = "HMWEIGHT";
constexpr size_t kHeaderBytes = 64;
constexpr size_t kCheckedHeaderBytes = 56;  // the last word is their checksum
constexpr size_t kAlignment = 64;
// Beyond what any model has, and small enough that products of two stay in range.
constexpr int64_t kMaxDimension = int64_t{1} << 31;

uint64_t Checksum(std::span<const std::byte> bytes) { return HashBytes(bytes).low; }

uint64_t RoundUp(uint64_t n, uint64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Numbers and texts one after the other.
class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Text(std::string_view text) {
    Number(static_cast<uint32_t>(text.size()));
    bytes_.append(text);
  }
  void Floats(std::span<const float> values) {
    Number(static_cast<uint64_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// The reverse, over bytes that may be anything. After a failure everything reads as 0.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T Number() {
    T value{};
    if (Need(sizeof(T))) {
      std::memcpy(&value, bytes_.data(), sizeof(T));
      bytes_ = bytes_.subspan(sizeof(T));
    }
    return value;
  }
  std::string Text() {
    const auto size = Number<uint32_t>();
    if (!Need(size)) return {};
    std::string text(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(size);
    return text;
  }
  std::vector<float> Floats() {
    const size_t count = Count(sizeof(float));
    std::vector<float> values(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(float));
    bytes_ = bytes_.subspan(count * sizeof(float));
    return values;
  }
  /// A number of things that take at least `bytes_each` bytes; 0 where there is no room for them.
  size_t Count(size_t bytes_each) {
    const auto count = Number<uint64_t>();
    if (count <= bytes_.size() / bytes_each) return count;
    failed_ = true;
    return 0;
  }
  bool failed() const { return failed_; }
  bool at_end() const { return bytes_.empty(); }

 private:
  bool Need(size_t size) {
    failed_ = failed_ || size > bytes_.size();
    return !failed_;
  }

  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

Error Corrupt(std::string message) { return Error(ErrorCode::kCorrupt, std::move(message)); }

size_t NumBlocks(uint64_t data_end) {
  return (data_end - kWeightDataOffset + kWeightBlockBytes - 1) / kWeightBlockBytes;
}

/// That the matrix lies in the data, whole and as its format wants it.
Status CheckMatrix(const FiledMatrix& matrix, uint64_t data_end) {
  const auto bad = [&](std::string_view what) {
    return Corrupt("matrix '" + matrix.name + "': " + std::string(what));
  };
  if (matrix.rows < 1 || matrix.rows > kMaxDimension || matrix.cols < 1 ||
      matrix.cols > kMaxDimension) {
    return bad("no shape of a matrix");
  }
  if (matrix.cols % kernels::InputsPerBlock(matrix.format) != 0) {
    return bad("its inputs are not whole blocks of " +
               std::string(kernels::WeightFormatName(matrix.format)));
  }
  if (matrix.zero < 0 || matrix.zero > 255) return bad("a zero that no weight is");
  if (matrix.offset % kAlignment != 0 || matrix.offset < kWeightDataOffset ||
      matrix.offset > data_end) {
    return bad("it does not lie in the data");
  }
  // Tile by tile: the product may not fit 64 bits.
  const size_t tile_bytes = kernels::PackedSizeBytes(matrix.format, 1, matrix.cols);
  const auto tiles =
      static_cast<uint64_t>((matrix.rows + kernels::kTileRows - 1) / kernels::kTileRows);
  if (tiles > (data_end - matrix.offset) / tile_bytes) return bad("it ends beyond the data");
  return {};
}

FileIdentity ReadIdentity(Reader* reader) {
  FileIdentity identity;
  identity.size_bytes = reader->Number<uint64_t>();
  identity.inode = reader->Number<uint64_t>();
  identity.modified_ns = reader->Number<int64_t>();
  return identity;
}

Result<WeightTable> ParseTable(std::span<const std::byte> bytes, uint64_t data_end) {
  Reader reader(bytes);
  WeightTable table{.data_end = data_end};
  table.key = reader.Text();
  // Counts are bounded by what the smallest of each takes.
  table.sources.resize(reader.Count(28));
  for (FiledSource& source : table.sources) {
    source.path = reader.Text();
    source.identity = ReadIdentity(&reader);
  }
  table.matrices.resize(reader.Count(33));
  for (FiledMatrix& matrix : table.matrices) {
    matrix.name = reader.Text();
    const auto format = reader.Number<uint8_t>();
    if (format >= kernels::kNumWeightFormats) {
      return Corrupt("matrix '" + matrix.name + "': format " + std::to_string(format));
    }
    matrix.format = static_cast<kernels::WeightFormat>(format);
    matrix.zero = reader.Number<int32_t>();
    matrix.rows = reader.Number<int64_t>();
    matrix.cols = reader.Number<int64_t>();
    matrix.offset = reader.Number<uint64_t>();
    if (reader.failed()) break;
    HM_TRY(CheckMatrix(matrix, data_end));
  }
  table.vectors.resize(reader.Count(12));
  for (FiledVector& vector : table.vectors) {
    vector.name = reader.Text();
    vector.values = reader.Floats();
  }
  table.checksums.resize(reader.Count(8));
  for (uint64_t& checksum : table.checksums) checksum = reader.Number<uint64_t>();
  if (reader.failed() || !reader.at_end()) return Corrupt("its table does not add up");
  if (table.checksums.size() != NumBlocks(data_end)) {
    return Corrupt(std::to_string(table.checksums.size()) + " checksums for " +
                   std::to_string(NumBlocks(data_end)) + " blocks");
  }
  return table;
}

}  // namespace

uint64_t TableOffset(uint64_t data_end) { return RoundUp(data_end, kAlignment); }

std::string SerializeTable(const WeightTable& table) {
  Writer writer;
  writer.Text(table.key);
  writer.Number(static_cast<uint64_t>(table.sources.size()));
  for (const FiledSource& source : table.sources) {
    writer.Text(source.path);
    writer.Number(source.identity.size_bytes);
    writer.Number(source.identity.inode);
    writer.Number(source.identity.modified_ns);
  }
  writer.Number(static_cast<uint64_t>(table.matrices.size()));
  for (const FiledMatrix& matrix : table.matrices) {
    writer.Text(matrix.name);
    writer.Number(static_cast<uint8_t>(matrix.format));
    writer.Number(static_cast<int32_t>(matrix.zero));
    writer.Number(matrix.rows);
    writer.Number(matrix.cols);
    writer.Number(matrix.offset);
  }
  writer.Number(static_cast<uint64_t>(table.vectors.size()));
  for (const FiledVector& vector : table.vectors) {
    writer.Text(vector.name);
    writer.Floats(vector.values);
  }
  writer.Number(static_cast<uint64_t>(table.checksums.size()));
  for (const uint64_t checksum : table.checksums) writer.Number(checksum);
  return writer.Take();
}

std::string SerializeHeader(uint64_t data_end, std::string_view table) {
  Writer writer;
  const Hash128 hash = HashBytes(std::as_bytes(std::span(table)));
  std::string header(kMagic);
  writer.Number(kWeightFileVersion);
  writer.Number(uint32_t{0});
  writer.Number(data_end);
  writer.Number(static_cast<uint64_t>(table.size()));
  writer.Number(hash.high);
  writer.Number(hash.low);
  writer.Number(TableOffset(data_end) + table.size());
  header += writer.Take();
  writer.Number(Checksum(std::as_bytes(std::span(header))));
  return header + writer.Take();
}

Result<WeightTable> ParseWeightFile(std::span<const std::byte> file) {
  if (file.size() < kWeightDataOffset) return Corrupt("too short for a header");
  if (std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    return Corrupt("not a file of cached weights");
  }
  Reader reader(file.subspan(kMagic.size(), kHeaderBytes - kMagic.size()));
  const auto version = reader.Number<uint32_t>();
  if (version != kWeightFileVersion) {
    return Error(ErrorCode::kUnsupported, "version " + std::to_string(version) +
                                              "; this build has " +
                                              std::to_string(kWeightFileVersion));
  }
  (void)reader.Number<uint32_t>();
  const auto data_end = reader.Number<uint64_t>();
  const auto table_bytes = reader.Number<uint64_t>();
  const Hash128 expected{.high = reader.Number<uint64_t>(), .low = reader.Number<uint64_t>()};
  const auto file_bytes = reader.Number<uint64_t>();
  if (reader.Number<uint64_t>() != Checksum(file.first(kCheckedHeaderBytes))) {
    return Corrupt("its header is damaged");
  }
  if (file_bytes != file.size()) {
    return Corrupt(std::to_string(file.size()) + " bytes; its header says " +
                   std::to_string(file_bytes));
  }
  if (data_end < kWeightDataOffset || data_end > file.size() ||
      TableOffset(data_end) > file.size() || table_bytes != file.size() - TableOffset(data_end)) {
    return Corrupt("its parts do not add up to its size");
  }
  const std::span<const std::byte> table = file.subspan(TableOffset(data_end));
  if (HashBytes(table) != expected) return Corrupt("its table is damaged");
  return ParseTable(table, data_end);
}

uint64_t BlockChecksum(std::span<const std::byte> file, uint64_t data_end, size_t block) {
  const uint64_t begin = kWeightDataOffset + block * kWeightBlockBytes;
  const uint64_t end = std::min(data_end, begin + kWeightBlockBytes);
  return Checksum(file.subspan(begin, end - begin));
}

Status CheckBlocks(std::span<const std::byte> file, const WeightTable& table, size_t max_blocks,
                   ThreadPool* pool) {
  const size_t total = table.checksums.size();
  const size_t count = std::min(total, max_blocks);
  std::atomic<size_t> bad{total};
  pool->ParallelFor(count, [&](size_t i, int) {
    // The first and the last are always among them.
    const size_t block = count < 2 ? 0 : i * (total - 1) / (count - 1);
    if (BlockChecksum(file, table.data_end, block) == table.checksums[block]) return;
    size_t seen = bad.load();
    while (block < seen && !bad.compare_exchange_weak(seen, block)) {
    }
  });
  if (bad == total) return {};
  return Corrupt("data block " + std::to_string(bad) + " of " + std::to_string(total) +
                 " is damaged");
}

}  // namespace halfmoon::model
