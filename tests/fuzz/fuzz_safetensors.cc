// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: parsing ends in views inside the bytes or in an error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "checkpoint/safetensors.h"

namespace {

/// Every view has to lie in `file` and be as long as its type and shape say.
void CheckViews(const halfmoon::checkpoint::SafetensorsIndex& index,
                std::span<const std::byte> file) {
  for (const auto& [name, view] : index.tensors) {
    const auto size_bytes = halfmoon::tensor::SizeBytes(view.dtype, view.shape);
    if (!size_bytes.ok() || *size_bytes != view.bytes.size()) std::abort();
    if (view.bytes.data() < file.data() ||
        view.bytes.data() + view.bytes.size() > file.data() + file.size()) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto parsed = halfmoon::checkpoint::ParseSafetensors(file);
  if (parsed.ok()) CheckViews(*parsed, file);
  return 0;
}
