// SPDX-License-Identifier: Apache-2.0
// The safetensors container: a JSON header of names, types, shapes and byte ranges, then raw data
// (docs/formats/checkpoints.md).
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::checkpoint {

/// What a safetensors header says, checked against the file.
struct SafetensorsIndex {
  /// Views into the parsed bytes; their data starts at any alignment.
  std::map<std::string, tensor::TensorView, std::less<>> tensors;
  /// "__metadata__", as it stands.
  std::map<std::string, std::string, std::less<>> metadata;
  size_t header_bytes = 0;  ///< Everything before the data.
};

/// Parses a whole file at `file`, which has to outlive the views. Every range is inside the file,
/// as long as type and shape say, and the ranges cover the data without overlap or hole. Errors:
/// kCorrupt, kUnsupported (unknown dtype), naming the tensor, what was expected and what was found.
Result<SafetensorsIndex> ParseSafetensors(std::span<const std::byte> file);

/// One mapped .safetensors file. Move-only, immutable, thread-safe. Views live as long as the
/// object.
class SafetensorsFile {
 public:
  /// Errors: as MappedFile::Open and ParseSafetensors, with the path in front.
  static Result<SafetensorsFile> Open(const std::filesystem::path& path);

  /// nullptr where there is none.
  const tensor::TensorView* Find(std::string_view name) const;
  const SafetensorsIndex& index() const { return index_; }
  const MappedFile& file() const { return file_; }
  MappedFile TakeFile() && { return std::move(file_); }

 private:
  SafetensorsFile(MappedFile file, SafetensorsIndex index)
      : file_(std::move(file)), index_(std::move(index)) {}

  MappedFile file_;
  SafetensorsIndex index_;  // Views into file_.
};

/// The type that a safetensors header spells `name`. Errors: kUnsupported.
Result<tensor::DType> SafetensorsDType(std::string_view name);

}  // namespace halfmoon::checkpoint
