// SPDX-License-Identifier: Apache-2.0
// tensor: element types, shapes, views and aligned memory. It owns bytes and their shape, never
// arithmetic on them, and starts no threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::tensor {

/// Element types as checkpoints store them. Block formats hold block_elements values in
/// block_bytes, always along the last dimension; plain types are blocks of one.
enum class DType : uint8_t {
  kF32,
  kF64,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E8M0,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kI4x8,  ///< eight 4-bit integers in a 32-bit word, low bits first, stored + 8
  kI8x4,  ///< four 8-bit integers in a 32-bit word, low bits first, stored + 128
  kQ2_K,
  kQ3_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  kTQ1_0,
  kTQ2_0,
};

struct DTypeInfo {
  std::string_view name;  ///< As the format's own specification spells it: "BF16", "Q4_K".
  int block_elements;
  int block_bytes;
};

const DTypeInfo& Info(DType dtype);

/// Row-major dimensions, outermost first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : dims_(dims) {}
  explicit Shape(std::vector<int64_t> dims) : dims_(std::move(dims)) {}

  size_t rank() const { return dims_.size(); }
  int64_t operator[](size_t i) const { return dims_[i]; }
  std::span<const int64_t> dims() const { return dims_; }
  bool operator==(const Shape&) const = default;

  /// Product of the dimensions (1 for a scalar); nullopt on a negative dimension or int64 overflow.
  std::optional<int64_t> NumElements() const;
  /// "[640, 96]".
  std::string ToString() const;

 private:
  std::vector<int64_t> dims_;
};

/// Bytes that `shape` takes in `dtype`. Errors: kCorrupt where the last dimension is not whole
/// blocks or the size overflows.
Result<size_t> SizeBytes(DType dtype, const Shape& shape);

/// Read-only bytes with type and shape. Borrows: whoever stores one says who owns the bytes.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
};

/// Memory aligned for vector loads, zeroed at start. Move-only.
class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedBuffer() = default;
  /// Anonymous pages: untouched parts cost no memory, large buffers use huge pages where the kernel
  /// offers them.
  explicit AlignedBuffer(size_t size_bytes);
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace halfmoon::tensor
