// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: parsing ends in views inside the bytes or in an error, and so do
// the steps from there to packed weights when the file says that its weights are quantised.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/check.h"
#include "checkpoint/file_checkpoint.h"
#include "checkpoint/published_quantization.h"
#include "checkpoint/safetensors.h"
#include "model/matrix_source.h"

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

constexpr const char* kConfigs[] = {
    R"({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
                                "weight_block_size": [128, 128]}})",
    R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": true,
                                                  "strategy": "group", "group_size": 32}}}}})",
    R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "symmetric": true,
                                                  "strategy": "group", "group_size": 16}}}}})"};

// A small matrix takes little input; larger ones only take time.
constexpr int64_t kMaxElements = 4096;

/// Reads every matrix of a checkpoint with scales, decoded and packed.
void ReadMatrices(const halfmoon::checkpoint::Checkpoint& checkpoint) {
  for (const std::string& name : checkpoint.Names()) {
    const halfmoon::checkpoint::StoredTensor* stored = checkpoint.Find(name);
    const halfmoon::tensor::Shape& shape = stored->view.shape;
    const auto elements = shape.NumElements();
    if (shape.rank() != 2 || !elements.has_value() || *elements == 0 || *elements > kMaxElements) {
      continue;
    }
    const auto source = halfmoon::model::MatrixSource::Find(checkpoint, name, shape[0], shape[1]);
    if (!source.ok()) continue;
    std::vector<float> row(static_cast<size_t>(shape[1]));
    bool numbers = true;
    for (int64_t i = 0; i < shape[0]; ++i) numbers = source->DecodeRow(i, row).ok() && numbers;
    if (!source->packs() || !numbers) continue;
    const auto packed =
        halfmoon::kernels::Pack(source->Gather(halfmoon::model::RowRange(0, shape[0])));
    if (!packed.ok()) std::abort();
  }
}

void JoinAndRead(const halfmoon::checkpoint::SafetensorsIndex& index) {
  for (const char* text : kConfigs) {
    halfmoon::checkpoint::CheckpointParts parts{
        .format = "safetensors", .config = halfmoon::json::ParseObject(text).value()};
    for (const auto& [name, view] : index.tensors) parts.tensors[name] = {.view = view};
    if (!halfmoon::checkpoint::JoinScales(parts.config, &parts.tensors).ok()) continue;
    ReadMatrices(halfmoon::checkpoint::FileCheckpoint(std::move(parts)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto parsed = halfmoon::checkpoint::ParseSafetensors(file);
  if (!parsed.ok()) return 0;
  CheckViews(*parsed, file);
  JoinAndRead(*parsed);
  return 0;
}
