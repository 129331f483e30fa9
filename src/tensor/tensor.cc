// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <new>
#include <utility>

namespace halfmoon::tensor {
namespace {

// In the order of DType.
constexpr std::array<DTypeInfo, 29> kInfos = {{
    {"F32", 1, 4},      {"F64", 1, 8},        {"F16", 1, 2},      {"BF16", 1, 2},
    {"F8_E4M3", 1, 1},  {"F8_E8M0", 1, 1},    {"I8", 1, 1},       {"U8", 1, 1},
    {"I16", 1, 2},      {"I32", 1, 4},        {"I64", 1, 8},      {"BOOL", 1, 1},
    {"Q4_0", 32, 18},   {"Q4_1", 32, 20},     {"Q5_0", 32, 22},   {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},   {"Q4_K", 256, 144},   {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
    {"I4x8", 8, 4},     {"I8x4", 4, 4},       {"Q2_K", 256, 84},  {"Q3_K", 256, 110},
    {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}, {"MXFP4", 32, 17},  {"TQ1_0", 256, 54},
    {"TQ2_0", 256, 66},
}};
static_assert(kInfos.size() == static_cast<size_t>(DType::kTQ2_0) + 1);
static_assert(kInfos[static_cast<size_t>(DType::kBool)].name == "BOOL");
static_assert(kInfos[static_cast<size_t>(DType::kQ8_0)].block_bytes == 34);
static_assert(kInfos[static_cast<size_t>(DType::kTQ2_0)].block_bytes == 66);

// The huge page of x86-64 and of AArch64 with 4 KiB pages.
constexpr size_t kHugePageBytes = size_t{2} << 20;

}  // namespace

const DTypeInfo& Info(DType dtype) { return kInfos[static_cast<size_t>(dtype)]; }

std::optional<int64_t> Shape::NumElements() const {
  int64_t product = 1;
  bool overflow = false;
  bool zero = false;
  for (const int64_t dim : dims_) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) zero = true;
    overflow = overflow || __builtin_mul_overflow(product, dim, &product);
  }
  // A zero makes the true product zero, however large the dimensions before it.
  if (zero) return 0;
  if (overflow) return std::nullopt;
  return product;
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (size_t i = 0; i < dims_.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[i]);
  }
  return text + "]";
}

Result<size_t> SizeBytes(DType dtype, const Shape& shape) {
  const DTypeInfo& info = Info(dtype);
  const auto describe = [&] { return std::string(info.name) + " " + shape.ToString(); };
  const std::optional<int64_t> elements = shape.NumElements();
  if (!elements.has_value()) {
    return Error(ErrorCode::kCorrupt, describe() + ": negative or too large to count");
  }
  const int64_t last = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
  if (last % info.block_elements != 0) {
    return Error(ErrorCode::kCorrupt,
                 describe() + ": the last dimension is not a multiple of the " +
                     std::to_string(info.block_elements) + " elements of a block");
  }
  int64_t size_bytes = 0;
  if (__builtin_mul_overflow(*elements / info.block_elements, int64_t{info.block_bytes},
                             &size_bytes)) {
    return Error(ErrorCode::kCorrupt, describe() + ": too large to address");
  }
  return static_cast<size_t>(size_bytes);
}

AlignedBuffer::AlignedBuffer(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const bool huge = size_bytes >= 2 * kHugePageBytes;
  // A large buffer starts at a huge page: map one page more, then give both ends back.
  const size_t slack = huge ? kHugePageBytes : 0;
  if (size_bytes > SIZE_MAX - slack) throw std::bad_alloc();
  void* mapped = ::mmap(nullptr, size_bytes + slack, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapped);
  data_ = begin;
  if (!huge) return;
  const size_t head =
      (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  data_ = begin + head;
  if (head > 0) (void)::munmap(begin, head);
  // munmap takes whole pages, so the tail starts at the page after the buffer's last byte.
  const auto page_bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const std::byte* end = begin + size_bytes + slack;
  std::byte* unused = data_ + (size_bytes + page_bytes - 1) / page_bytes * page_bytes;
  if (unused < end) (void)::munmap(unused, static_cast<size_t>(end - unused));
  (void)::madvise(data_, size_bytes, MADV_HUGEPAGE);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) (void)::munmap(data_, size_bytes_);
}

}  // namespace halfmoon::tensor
