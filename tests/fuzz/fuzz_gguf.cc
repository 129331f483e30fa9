// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: parsing and translation end in views inside the bytes or in an error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_translate.h"

namespace {

using halfmoon::checkpoint::StoredTensor;

/// Every view has to lie in `file`, as long as type and shape say, with all its rows where
/// StoredRow says.
void CheckTensor(const StoredTensor& stored, std::span<const std::byte> file) {
  const auto& view = stored.view;
  const auto size_bytes = halfmoon::tensor::SizeBytes(view.dtype, view.shape);
  if (!size_bytes.ok() || *size_bytes != view.bytes.size()) std::abort();
  if (view.bytes.data() < file.data() ||
      view.bytes.data() + view.bytes.size() > file.data() + file.size()) {
    std::abort();
  }
  if (stored.row_order == halfmoon::checkpoint::RowOrder::kRopePairs) {
    const int64_t rows = view.shape[0];
    for (int64_t row = 0; row < rows && row < 256; ++row) {
      if (stored.StoredRow(row) < 0 || stored.StoredRow(row) >= rows) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace checkpoint = halfmoon::checkpoint;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto file = checkpoint::ParseGguf(bytes);
  if (!file.ok()) return 0;
  (void)checkpoint::ReadGgufVocabulary(file->metadata);
  const auto config = checkpoint::GgufConfig(*file);
  if (!config.ok()) return 0;
  const auto tensors = checkpoint::GgufTensors(*file, *config);
  if (!tensors.ok()) return 0;
  for (const auto& [name, stored] : *tensors) CheckTensor(stored, bytes);
  return 0;
}
