// SPDX-License-Identifier: Apache-2.0
#include "quant/unpack.h"

#include <cstring>
#include <string>

#include "base/check.h"
#include "quant/pack.h"

namespace halfmoon::quant {
namespace {

using tensor::DType;

/// All that is particular to one format.
struct Format {
  DType dtype;
  QuantTraits traits;
  void (*unpack)(const std::byte* block, UnpackedBlock* out);
  void (*pack)(const UnpackedBlock& in, std::byte* block);
};

constexpr Format kFormats[] = {
    {DType::kQ4_0, {4, 32, 32, ScaleKind::kD, 8}, UnpackQ4_0, PackQ4_0},
    {DType::kQ4_1, {4, 32, 32, ScaleKind::kDM, 0}, UnpackQ4_1, PackQ4_1},
    {DType::kQ5_0, {5, 32, 32, ScaleKind::kD, 16}, UnpackQ5_0, PackQ5_0},
    {DType::kQ5_1, {5, 32, 32, ScaleKind::kDM, 0}, UnpackQ5_1, PackQ5_1},
    {DType::kQ8_0, {8, 32, 32, ScaleKind::kD, 128}, UnpackQ8_0, PackQ8_0},
    {DType::kQ4_K, {4, 32, 256, ScaleKind::kSuperDM, 0}, UnpackQ4_K, PackQ4_K},
    {DType::kQ5_K, {5, 32, 256, ScaleKind::kSuperDM, 0}, UnpackQ5_K, PackQ5_K},
    {DType::kQ6_K, {6, 16, 256, ScaleKind::kSuperD, 32}, UnpackQ6_K, PackQ6_K},
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

void UnpackBlock(DType dtype, const std::byte* block, UnpackedBlock* out) {
  std::memset(out, 0, sizeof(*out));
  RequireFormat(dtype).unpack(block, out);
}

void PackBlock(DType dtype, const UnpackedBlock& in, std::byte* block) {
  RequireFormat(dtype).pack(in, block);
}

}  // namespace halfmoon::quant
