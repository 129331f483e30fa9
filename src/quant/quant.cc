// SPDX-License-Identifier: Apache-2.0
#include "quant/quant.h"

#include <cstring>
#include <string>

#include "quant/encode.h"
#include "quant/pack.h"
#include "quant/unpack.h"
#include "tensor/float16.h"

namespace halfmoon::quant {
namespace {

using tensor::DType;

void DecodeBlock(const QuantTraits& traits, const UnpackedBlock& block, float* dst) {
  const float d = tensor::F16ToF32(block.d_f16);
  const float m = tensor::F16ToF32(block.m_f16);
  const float power = PowerScale(block.sc[0]);
  for (int i = 0; i < traits.super; ++i) {
    const int group = i / traits.group;
    const auto q = static_cast<float>(block.q[i] - traits.zero);
    switch (traits.kind) {
      case ScaleKind::kD:
        dst[i] = d * q;
        break;
      case ScaleKind::kDM:
        dst[i] = d * q + m;
        break;
      case ScaleKind::kSuperDM:
        dst[i] =
            (d * static_cast<float>(block.sc[group])) * q - m * static_cast<float>(block.mn[group]);
        break;
      case ScaleKind::kSuperD:
        dst[i] = (d * static_cast<float>(static_cast<int8_t>(block.sc[group]))) * q;
        break;
      case ScaleKind::kPower:
        dst[i] = power * q;
        break;
    }
  }
}

uint16_t LoadU16(const std::byte* src, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, src + i * 2, sizeof(bits));
  return bits;
}

void StoreU16(uint16_t bits, std::byte* dst, int64_t i) {
  std::memcpy(dst + i * 2, &bits, sizeof(bits));
}

Status CheckRow(DType dtype, int64_t n) {
  const bool plain = dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
  const std::string name(tensor::Info(dtype).name);
  if (!plain && !IsQuantized(dtype)) {
    return Error(ErrorCode::kUnsupported,
                 name + ": not a format of weights that converts to float32");
  }
  const int block_elements = tensor::Info(dtype).block_elements;
  if (n < 0 || n % block_elements != 0) {
    return Error(ErrorCode::kInvalidArgument, std::to_string(n) +
                                                  " elements are not whole blocks of " + name +
                                                  " (" + std::to_string(block_elements) + " each)");
  }
  return {};
}

}  // namespace

bool IsQuantized(DType dtype) { return TraitsOf(dtype) != nullptr; }

Status DecodeRow(DType dtype, const std::byte* src, int64_t n, float* dst) {
  HM_TRY(CheckRow(dtype, n));
  if (n == 0) return {};
  if (dtype == DType::kF32) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
    return {};
  }
  if (dtype == DType::kF16) {
    for (int64_t i = 0; i < n; ++i) dst[i] = tensor::F16ToF32(LoadU16(src, i));
    return {};
  }
  if (dtype == DType::kBF16) {
    for (int64_t i = 0; i < n; ++i) dst[i] = tensor::BF16ToF32(LoadU16(src, i));
    return {};
  }
  const QuantTraits& traits = *TraitsOf(dtype);
  UnpackedBlock block;
  for (int64_t i = 0; i < n; i += traits.super) {
    UnpackBlock(dtype, src, &block);
    DecodeBlock(traits, block, dst + i);
    src += tensor::Info(dtype).block_bytes;
  }
  return {};
}

Status EncodeRow(DType dtype, const float* src, int64_t n, std::byte* dst) {
  HM_TRY(CheckRow(dtype, n));
  if (!CanEncode(dtype)) {
    return Error(ErrorCode::kUnsupported,
                 std::string(tensor::Info(dtype).name) + " is read only: it is not written");
  }
  if (n == 0) return {};
  if (dtype == DType::kF32) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
    return {};
  }
  if (dtype == DType::kF16) {
    for (int64_t i = 0; i < n; ++i) StoreU16(tensor::F32ToF16(src[i]), dst, i);
    return {};
  }
  if (dtype == DType::kBF16) {
    for (int64_t i = 0; i < n; ++i) StoreU16(tensor::F32ToBF16(src[i]), dst, i);
    return {};
  }
  const QuantTraits& traits = *TraitsOf(dtype);
  UnpackedBlock block;
  for (int64_t i = 0; i < n; i += traits.super) {
    EncodeBlock(traits, src + i, &block);
    PackBlock(dtype, block, dst);
    dst += tensor::Info(dtype).block_bytes;
  }
  return {};
}

}  // namespace halfmoon::quant
