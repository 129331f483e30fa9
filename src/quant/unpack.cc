// SPDX-License-Identifier: Apache-2.0
#include "quant/unpack.h"

#include <bit>
#include <cstring>
#include <string>

#include "base/check.h"
#include "quant/pack.h"
#include "quant/quant.h"

namespace halfmoon::quant {
namespace {

using tensor::DType;

/// All that is particular to one format.
struct Format {
  DType dtype;
  QuantTraits traits;
  void (*unpack)(const std::byte* block, UnpackedBlock* out);
  void (*pack)(const UnpackedBlock& in, std::byte* block);  ///< null: the format is read only
  uint8_t first_scale;  ///< where d lies in a block; float16, but for MXFP4
};

constexpr Format kFormats[] = {
    {DType::kQ4_0, {4, 32, 32, ScaleKind::kD, 8}, UnpackQ4_0, PackQ4_0, 0},
    {DType::kQ4_1, {4, 32, 32, ScaleKind::kDM, 0}, UnpackQ4_1, PackQ4_1, 0},
    {DType::kQ5_0, {5, 32, 32, ScaleKind::kD, 16}, UnpackQ5_0, PackQ5_0, 0},
    {DType::kQ5_1, {5, 32, 32, ScaleKind::kDM, 0}, UnpackQ5_1, PackQ5_1, 0},
    {DType::kQ8_0, {8, 32, 32, ScaleKind::kD, 128}, UnpackQ8_0, PackQ8_0, 0},
    {DType::kQ4_K, {4, 32, 256, ScaleKind::kSuperDM, 0}, UnpackQ4_K, PackQ4_K, 0},
    {DType::kQ5_K, {5, 32, 256, ScaleKind::kSuperDM, 0}, UnpackQ5_K, PackQ5_K, 0},
    {DType::kQ6_K, {6, 16, 256, ScaleKind::kSuperD, 32}, UnpackQ6_K, PackQ6_K, 208},
    {DType::kQ2_K, {2, 16, 256, ScaleKind::kSuperDM, 0}, UnpackQ2_K, nullptr, 80},
    {DType::kQ3_K, {3, 16, 256, ScaleKind::kSuperD, 4}, UnpackQ3_K, nullptr, 108},
    {DType::kIQ4_NL, {8, 32, 32, ScaleKind::kD, 128}, UnpackIQ4_NL, nullptr, 0},
    {DType::kIQ4_XS, {8, 32, 256, ScaleKind::kSuperD, 128}, UnpackIQ4_XS, nullptr, 0},
    {DType::kMXFP4, {5, 32, 32, ScaleKind::kPower, 12}, UnpackMXFP4, nullptr, 0},
    {DType::kTQ1_0, {2, 256, 256, ScaleKind::kD, 1}, UnpackTQ1_0, nullptr, 52},
    {DType::kTQ2_0, {2, 256, 256, ScaleKind::kD, 1}, UnpackTQ2_0, nullptr, 64},
};

const Format* FormatOf(DType dtype) {
  for (const Format& format : kFormats) {
    if (format.dtype == dtype) return &format;
  }
  return nullptr;
}

const Format& RequireFormat(DType dtype) {
  const Format* format = FormatOf(dtype);
  HM_CHECK(format != nullptr, std::string(tensor::Info(dtype).name) + " is not a block format");
  return *format;
}

}  // namespace

const QuantTraits* TraitsOf(DType dtype) {
  const Format* format = FormatOf(dtype);
  return format == nullptr ? nullptr : &format->traits;
}

bool CanEncode(DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16) return true;
  const Format* format = FormatOf(dtype);
  return format != nullptr && format->pack != nullptr;
}

void UnpackBlock(DType dtype, const std::byte* block, UnpackedBlock* out) {
  std::memset(out, 0, sizeof(*out));
  RequireFormat(dtype).unpack(block, out);
}

void PackBlock(DType dtype, const UnpackedBlock& in, std::byte* block) {
  const Format& format = RequireFormat(dtype);
  HM_CHECK(format.pack != nullptr, std::string(tensor::Info(dtype).name) + " is read only");
  format.pack(in, block);
}

std::optional<int64_t> FindBadScale(DType dtype, const std::byte* src, int64_t n) {
  const Format* format = FormatOf(dtype);
  if (format == nullptr) return std::nullopt;
  const tensor::DTypeInfo& info = tensor::Info(dtype);
  // Formats with a minimum keep it right behind d.
  const bool has_min =
      format->traits.kind == ScaleKind::kDM || format->traits.kind == ScaleKind::kSuperDM;
  constexpr uint32_t kExponent = 0x7C00u;
  for (int64_t block = 0; block < n / info.block_elements; ++block) {
    const std::byte* at = src + block * info.block_bytes + format->first_scale;
    if (format->traits.kind == ScaleKind::kPower) {
      if (*at == std::byte{0xFF}) return block;
      continue;
    }
    uint16_t scales[2] = {0, 0};
    std::memcpy(scales, at, has_min ? 4 : 2);
    const bool bad = (scales[0] & kExponent) == kExponent || (scales[1] & kExponent) == kExponent;
    if (bad) return block;
  }
  return std::nullopt;
}

float PowerScale(uint8_t code) {
  // 2^(code - 128); the two smallest are below the normal numbers.
  return std::bit_cast<float>(code < 2 ? 0x00200000u << code : (uint32_t{code} - 1u) << 23);
}

}  // namespace halfmoon::quant
