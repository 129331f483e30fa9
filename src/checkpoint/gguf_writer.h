// SPDX-License-Identifier: Apache-2.0
// Writing a GGUF file (version 3) in one pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "checkpoint/atomic_file.h"
#include "checkpoint/gguf.h"
#include "tensor/tensor.h"

namespace halfmoon::checkpoint {

/// Metadata to be written, in the order of its keys.
class GgufMetadataBuilder {
 public:
  /// Takes the place of a value with the same key.
  void SetU32(std::string_view key, uint32_t value);
  /// A value of a file that was read, as it is.
  void Copy(std::string_view key, const GgufValue& value);

  size_t size() const { return values_.size(); }
  /// Key, type and payload of each as they lie in a file.
  std::string Serialize() const;

 private:
  std::map<std::string, std::string, std::less<>> values_;  ///< key > type and payload
};

/// What a file is going to hold, in the order of its data; shape outermost first.
struct GgufEntry {
  std::string name;
  tensor::DType dtype = tensor::DType::kF32;
  tensor::Shape shape;
};

/// Streams tensors into a file that appears at its path whole or not at all. Move-only, one thread
/// at a time.
class GgufWriter {
 public:
  /// Writes the header. `alignment` is what the metadata says (general.alignment, 32 where it says
  /// nothing). Errors: kInvalidArgument (a name twice; a type or shape that GGUF lacks), kIo.
  static Result<GgufWriter> Create(const std::filesystem::path& path,
                                   const GgufMetadataBuilder& metadata,
                                   const std::vector<GgufEntry>& entries, size_t alignment);

  /// The next bytes of the data: the entries' tensors one after the other, in pieces that do not
  /// cross a tensor's end; padding is added here. Errors: kInvalidArgument beyond a tensor's end,
  /// kIo.
  Status Append(std::span<const std::byte> bytes);

  /// Errors: kInvalidArgument where data is missing, kIo. Call once, last.
  Status Finish();

 private:
  GgufWriter(AtomicFile file, std::vector<size_t> sizes, size_t alignment)
      : file_(std::move(file)), sizes_(std::move(sizes)), alignment_(alignment) {}
  /// Moves past tensors that are whole.
  Status Advance();

  AtomicFile file_;
  std::vector<size_t> sizes_;  ///< of each tensor
  size_t alignment_ = 0;
  size_t tensor_ = 0;
  size_t written_bytes_ = 0;  ///< of that tensor
};

}  // namespace halfmoon::checkpoint
