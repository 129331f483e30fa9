// SPDX-License-Identifier: Apache-2.0
// The GGUF container, versions 2 and 3, little-endian: metadata, tensor descriptions, data
// (docs/formats/checkpoints.md). What the metadata means for a model is gguf_config.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::checkpoint {

/// Types of metadata values, numbered as in the file.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

std::string_view GgufTypeName(GgufType type);

/// One metadata value: its bytes in the file, checked to be whole.
struct GgufValue {
  GgufType type = GgufType::kU8;  ///< The element type of an array.
  bool is_array = false;
  uint64_t count = 1;                  ///< Elements of an array.
  std::span<const std::byte> payload;  ///< Without lengths of the array; strings keep theirs.
};

/// Key > value with typed access. Find* answer nullopt where the key is absent, and kCorrupt naming
/// key, expected and found type where it has another type. Views into the file.
class GgufMetadata {
 public:
  Result<std::optional<int64_t>> FindInt(
      std::string_view key) const;  ///< any integer type that fits
  Result<std::optional<double>> FindDouble(
      std::string_view key) const;  ///< F32 as its shortest decimal; integers too
  Result<std::optional<bool>> FindBool(std::string_view key) const;
  Result<std::optional<std::string_view>> FindString(std::string_view key) const;
  Result<std::optional<std::vector<std::string>>> FindStrings(std::string_view key) const;
  Result<std::optional<std::vector<float>>> FindFloats(std::string_view key) const;
  Result<std::optional<std::vector<int32_t>>> FindInts(
      std::string_view key) const;  ///< I32 or U32 elements

  /// Absence is an error (kCorrupt) too.
  Result<int64_t> RequireInt(std::string_view key) const;
  Result<double> RequireDouble(std::string_view key) const;
  Result<std::string_view> RequireString(std::string_view key) const;

  const GgufValue* Find(std::string_view key) const;
  size_t size() const { return values_.size(); }
  /// All of them, by key.
  const std::map<std::string_view, GgufValue>& values() const { return values_; }
  /// False where the key is there already.
  bool Insert(std::string_view key, const GgufValue& value) {
    return values_.emplace(key, value).second;
  }

 private:
  std::map<std::string_view, GgufValue> values_;
};

/// One stored tensor; shape outermost first (the file's order reversed).
struct GgufTensor {
  std::string_view name;
  tensor::TensorView view;
};

/// A parsed file. Everything views into the bytes that were parsed.
struct GgufFile {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  ///< In the order of the file; names are distinct.
  size_t header_bytes = 0;          ///< Everything before the data section.
};

/// The number of `dtype` in tensor descriptions; nullopt where files cannot hold it.
std::optional<uint32_t> GgmlTypeNumber(tensor::DType dtype);

/// True where `file` begins like a GGUF file.
bool IsGguf(std::span<const std::byte> file);

/// Parses a whole file at `file`, which has to outlive the result. Every length and offset is
/// checked, tensors neither overlap nor leave the file. Errors: kCorrupt with the byte offset or
/// the tensor; kUnsupported for version 1, big-endian files, and tensor types this build cannot
/// read. A part of a split model is a file like any other. Cost: linear in the header, data is not
/// read.
Result<GgufFile> ParseGguf(std::span<const std::byte> file);

}  // namespace halfmoon::checkpoint
