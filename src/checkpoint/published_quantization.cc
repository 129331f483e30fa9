// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/published_quantization.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;

constexpr std::string_view kFp8Scales = ".weight_scale_inv";
constexpr std::string_view kPacked = ".weight_packed";
constexpr int64_t kMaxBlock = 1 << 20;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Error BadTensor(const std::string& name, const std::string& expected, const std::string& found) {
  return Error(ErrorCode::kInvalidArgument,
               "tensor '" + name + "': expected " + expected + ", found " + found);
}

std::string Describe(const tensor::TensorView& view) {
  return std::string(tensor::Info(view.dtype).name) + " " + view.shape.ToString();
}

/// Names that end in `suffix`, without it.
std::vector<std::string> StemsOf(const TensorMap& tensors, std::string_view suffix) {
  std::vector<std::string> stems;
  for (const auto& [name, stored] : tensors) {
    if (std::string_view(name).ends_with(suffix)) {
      stems.push_back(name.substr(0, name.size() - suffix.size()));
    }
  }
  return stems;
}

/// Takes a tensor out of the map.
Result<tensor::TensorView> Take(TensorMap* tensors, const std::string& name) {
  const auto found = tensors->find(name);
  if (found == tensors->end()) {
    return Error(ErrorCode::kInvalidArgument, "tensor '" + name + "' is missing");
  }
  const tensor::TensorView view = found->second.view;
  tensors->erase(found);
  return view;
}

struct Blocks {
  int64_t rows = 128;
  int64_t cols = 128;
};

Result<Blocks> ReadFp8Config(const json::object& quantization) {
  HM_ASSIGN(const auto format, json::FindString(quantization, "fmt"));
  if (format.has_value() && *format != "e4m3" && *format != "float8_e4m3fn") {
    return Error(ErrorCode::kUnsupported, "fmt '" + *format + "': only e4m3 is known");
  }
  HM_ASSIGN(const json::array* size, json::FindArray(quantization, "weight_block_size"));
  if (size == nullptr) {
    return Error(ErrorCode::kUnsupported,
                 "weight_block_size is missing: fp8 weights are known with blocks of scales only");
  }
  const auto valid = [](const json::value& n) {
    return n.is_int64() && n.as_int64() > 0 && n.as_int64() <= kMaxBlock;
  };
  if (size->size() != 2 || !valid((*size)[0]) || !valid((*size)[1])) {
    return Error(
        ErrorCode::kInvalidArgument,
        "weight_block_size: expected two positive numbers, found " + json::Serialize(*size));
  }
  return Blocks{.rows = (*size)[0].as_int64(), .cols = (*size)[1].as_int64()};
}

Status JoinFp8(const Blocks& blocks, TensorMap* tensors) {
  for (const std::string& stem : StemsOf(*tensors, kFp8Scales)) {
    const std::string scale_name = stem + std::string(kFp8Scales);
    HM_ASSIGN(const tensor::TensorView scales, Take(tensors, scale_name));
    const auto found = tensors->find(stem + ".weight");
    if (found == tensors->end()) {
      return Error(ErrorCode::kInvalidArgument,
                   "tensor '" + scale_name + "' has no '" + stem + ".weight' beside it");
    }
    const tensor::TensorView& weight = found->second.view;
    if (weight.dtype != DType::kF8E4M3 || weight.shape.rank() != 2) {
      return BadTensor(found->first, "a matrix of F8_E4M3, since it has scales", Describe(weight));
    }
    const tensor::Shape expected{CeilDiv(weight.shape[0], blocks.rows),
                                 CeilDiv(weight.shape[1], blocks.cols)};
    const bool known = scales.dtype == DType::kF32 || scales.dtype == DType::kBF16 ||
                       scales.dtype == DType::kF8E8M0;
    if (!known || scales.shape != expected) {
      return BadTensor(scale_name, "F32, BF16 or F8_E8M0 " + expected.ToString(), Describe(scales));
    }
    found->second.scales = StoredScales{
        .name = scale_name, .view = scales, .block_rows = blocks.rows, .block_cols = blocks.cols};
  }
  return {};
}

/// A scheme of pack-quantized.
struct Groups {
  int64_t bits = 4;
  int64_t size = 32;
};

Result<Groups> ReadPackedConfig(const json::object& quantization) {
  HM_ASSIGN(const auto format, json::FindString(quantization, "format"));
  if (format.value_or("") != "pack-quantized") {
    return Error(ErrorCode::kUnsupported,
                 "format '" + format.value_or("") + "': only pack-quantized is known");
  }
  HM_ASSIGN(const json::object* groups, json::FindObject(quantization, "config_groups"));
  if (groups == nullptr || groups->size() != 1 || !groups->begin()->value().is_object()) {
    return Error(ErrorCode::kUnsupported, "config_groups: exactly one group is known");
  }
  HM_ASSIGN(const json::object* weights,
            json::FindObject(groups->begin()->value().as_object(), "weights"));
  if (weights == nullptr) {
    return Error(ErrorCode::kInvalidArgument, "config_groups: field 'weights' is missing");
  }
  HM_ASSIGN(const auto bits, json::FindInt(*weights, "num_bits"));
  HM_ASSIGN(const auto symmetric, json::FindBool(*weights, "symmetric"));
  HM_ASSIGN(const auto strategy, json::FindString(*weights, "strategy"));
  HM_ASSIGN(const auto type, json::FindString(*weights, "type"));
  if ((bits != 4 && bits != 8) || !symmetric.value_or(false) || strategy.value_or("") != "group" ||
      type.value_or("int") != "int") {
    return Error(ErrorCode::kUnsupported,
                 "weights " + json::Serialize(*weights) +
                     ": only symmetric integers of 4 or 8 bits with groups are known");
  }
  HM_ASSIGN(const int64_t group_size, json::RequireInt(*weights, "group_size"));
  if (group_size <= 0 || group_size > kMaxBlock) {
    return Error(ErrorCode::kInvalidArgument,
                 "group_size " + std::to_string(group_size) + ": expected a positive number");
  }
  return Groups{.bits = *bits, .size = group_size};
}

/// The two numbers of X.weight_shape.
Result<tensor::Shape> ReadShape(const std::string& name, const tensor::TensorView& view) {
  const bool wide = view.dtype == DType::kI64;
  if ((!wide && view.dtype != DType::kI32) || view.shape != tensor::Shape{2}) {
    return BadTensor(name, "I32 [2]", Describe(view));
  }
  int64_t dims[2];
  for (size_t i = 0; i < 2; ++i) {
    int32_t narrow = 0;
    if (wide) {
      std::memcpy(&dims[i], view.bytes.data() + 8 * i, 8);
    } else {
      std::memcpy(&narrow, view.bytes.data() + 4 * i, 4);
      dims[i] = narrow;
    }
    if (dims[i] <= 0 || dims[i] > (int64_t{1} << 31)) {
      return BadTensor(name, "two sizes", std::to_string(dims[i]));
    }
  }
  return tensor::Shape{dims[0], dims[1]};
}

Status JoinPacked(const Groups& groups, TensorMap* tensors) {
  for (const std::string& stem : StemsOf(*tensors, kPacked)) {
    const std::string packed_name = stem + std::string(kPacked);
    const std::string scale_name = stem + ".weight_scale";
    const std::string shape_name = stem + ".weight_shape";
    HM_ASSIGN(const tensor::TensorView packed, Take(tensors, packed_name));
    HM_ASSIGN(const tensor::TensorView scales, Take(tensors, scale_name));
    HM_ASSIGN(const tensor::TensorView shape_view, Take(tensors, shape_name));
    HM_ASSIGN(const tensor::Shape shape, ReadShape(shape_name, shape_view));
    const tensor::Shape words{shape[0], CeilDiv(shape[1] * groups.bits, 32)};
    if (packed.dtype != DType::kI32 || packed.shape != words) {
      return BadTensor(packed_name, "I32 " + words.ToString(), Describe(packed));
    }
    const tensor::Shape expected{shape[0], CeilDiv(shape[1], groups.size)};
    const bool known =
        scales.dtype == DType::kBF16 || scales.dtype == DType::kF16 || scales.dtype == DType::kF32;
    if (!known || scales.shape != expected) {
      return BadTensor(scale_name, "BF16, F16 or F32 " + expected.ToString(), Describe(scales));
    }
    if (tensors->contains(stem + ".weight")) {
      return Error(ErrorCode::kInvalidArgument,
                   "tensors '" + stem + ".weight' and '" + packed_name + "' are both there");
    }
    (*tensors)[stem + ".weight"] = {
        .view = {.dtype = groups.bits == 4 ? DType::kI4x8 : DType::kI8x4,
                 .shape = shape,
                 .bytes = packed.bytes},
        .scales = StoredScales{
            .name = scale_name, .view = scales, .block_rows = 1, .block_cols = groups.size}};
  }
  return {};
}

Status JoinBy(const json::object& quantization, TensorMap* tensors) {
  HM_ASSIGN(const std::string method, json::RequireString(quantization, "quant_method"));
  if (method == "fp8") {
    HM_ASSIGN(const Blocks blocks, ReadFp8Config(quantization));
    return JoinFp8(blocks, tensors);
  }
  if (method == "compressed-tensors") {
    HM_ASSIGN(const Groups groups, ReadPackedConfig(quantization));
    return JoinPacked(groups, tensors);
  }
  return Error(ErrorCode::kUnsupported,
               "quant_method '" + method + "': known are fp8 and compressed-tensors");
}

}  // namespace

Status JoinScales(const json::object& config, TensorMap* tensors) {
  HM_ASSIGN(const json::object* quantization, json::FindObject(config, "quantization_config"));
  if (quantization != nullptr) {
    HM_TRY(JoinBy(*quantization, tensors).WithContext("quantization_config"));
  }
  for (const auto& [name, stored] : *tensors) {
    if (stored.view.dtype == DType::kF8E4M3 && !stored.scales.has_value()) {
      return BadTensor(name, "scales '" + name + "_scale_inv' beside F8_E4M3", "none");
    }
  }
  return {};
}

}  // namespace halfmoon::checkpoint
