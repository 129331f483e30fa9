// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of cached weights. Checksums would keep the fuzzer at the door, so the input
// is also tried as the table of a file whose header and checksums are right.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "model/weight_file.h"

namespace {

constexpr uint64_t kDataEnd = halfmoon::model::kWeightDataOffset + 8192;

void Parse(std::span<const std::byte> file) {
  const auto table = halfmoon::model::ParseWeightFile(file);
  if (!table.ok()) return;
  for (const halfmoon::model::FiledMatrix& matrix : table->matrices) {
    const size_t size = halfmoon::kernels::PackedSizeBytes(matrix.format, matrix.rows, matrix.cols);
    if (matrix.offset > file.size() || size > file.size() - matrix.offset) std::abort();
  }
  for (size_t i = 0; i < table->checksums.size(); ++i) {
    (void)halfmoon::model::BlockChecksum(file, table->data_end, i);
  }
  // What was read says what was written.
  const std::string again = halfmoon::model::SerializeTable(*table);
  const auto stored = file.subspan(halfmoon::model::TableOffset(table->data_end));
  const auto written = std::as_bytes(std::span(again));
  if (!std::equal(stored.begin(), stored.end(), written.begin(), written.end())) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Parse(std::as_bytes(std::span(data, size)));
  const std::string table(reinterpret_cast<const char*>(data), size);
  std::string file(halfmoon::model::TableOffset(kDataEnd), '\0');
  const std::string header = halfmoon::model::SerializeHeader(kDataEnd, table);
  file.replace(0, header.size(), header);
  file += table;
  Parse(std::as_bytes(std::span(file)));
  return 0;
}
