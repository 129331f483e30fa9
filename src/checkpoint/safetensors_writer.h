// SPDX-License-Identifier: Apache-2.0
// Writing a .safetensors file in one pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::checkpoint {

/// What a file is going to hold, in the order of its data.
struct SafetensorsEntry {
  std::string name;
  tensor::DType dtype = tensor::DType::kF32;
  tensor::Shape shape;
};

/// Streams tensors into a file that appears at its path whole or not at all: data goes to a
/// temporary file beside it, which Finish renames; a writer destroyed before leaves nothing.
/// Move-only, one thread at a time.
class SafetensorsWriter {
 public:
  /// Writes the header. Errors: kInvalidArgument (a name twice, or "__metadata__"; a type that
  /// safetensors lacks), kIo.
  static Result<SafetensorsWriter> Create(const std::filesystem::path& path,
                                          const std::vector<SafetensorsEntry>& entries);

  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  /// The next bytes of the data: the entries' tensors one after the other, in pieces of any size.
  /// Errors: kInvalidArgument beyond the announced size, kIo.
  Status Append(std::span<const std::byte> bytes);

  /// Errors: kInvalidArgument where data is missing, kIo. Call once, last.
  Status Finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A tensor with its bytes.
struct NamedTensor {
  std::string name;
  tensor::TensorView view;
};

/// All at once. Errors: as SafetensorsWriter, and kInvalidArgument where bytes, type and shape
/// disagree.
Status WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors);

}  // namespace halfmoon::checkpoint
