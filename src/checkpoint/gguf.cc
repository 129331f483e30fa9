// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kDefaultAlignment = 32;
// ggml tensors have at most four dimensions.
constexpr uint32_t kMaxDims = 4;
// Arrays of arrays occur in no known file; the bound keeps the recursion small.
constexpr int kMaxArrayDepth = 8;
// Longest name that a message repeats.
constexpr size_t kMaxShownName = 200;

Error Corrupt(std::string message) { return Error(ErrorCode::kCorrupt, std::move(message)); }

std::string Quoted(std::string_view name) {
  return "'" + std::string(name.substr(0, kMaxShownName)) + "'";
}

/// Bytes of one value; 0 for the types of varying length.
size_t FixedBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

/// Reads the header front to back; errors name the offset.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  Result<T> Read(std::string_view what) {
    if (remaining() < sizeof(T)) return Short(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  Result<std::string_view> ReadString(std::string_view what) {
    HM_ASSIGN(const uint64_t length, Read<uint64_t>(what));
    if (remaining() < length) return Short(what, length);
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_,
                                static_cast<size_t>(length));
    position_ += static_cast<size_t>(length);
    return text;
  }

  Result<GgufType> ReadType() {
    const size_t at = position_;
    HM_ASSIGN(const uint32_t number, Read<uint32_t>("a value type"));
    if (number > static_cast<uint32_t>(GgufType::kF64)) {
      return Corrupt("value type " + std::to_string(number) + " at byte " + std::to_string(at) +
                     " does not exist");
    }
    return static_cast<GgufType>(number);
  }

  /// Moves past `count` values of `type`.
  Status Skip(GgufType type, uint64_t count, int depth) {
    if (const size_t size = FixedBytes(type); size > 0) {
      if (count > remaining() / size) return Short("an array", count);
      position_ += static_cast<size_t>(count) * size;
      return {};
    }
    // Each step below consumes at least 8 bytes, so a large count ends with the file.
    for (uint64_t i = 0; i < count; ++i) {
      if (type == GgufType::kString) {
        HM_TRY(ReadString("a string"));
        continue;
      }
      if (depth >= kMaxArrayDepth) return Corrupt("arrays nested too deeply");
      HM_ASSIGN(const GgufType element, ReadType());
      HM_ASSIGN(const uint64_t elements, Read<uint64_t>("an array's length"));
      HM_TRY(Skip(element, elements, depth + 1));
    }
    return {};
  }

  Result<GgufValue> ReadValue() {
    GgufValue value;
    HM_ASSIGN(value.type, ReadType());
    if (value.type == GgufType::kArray) {
      value.is_array = true;
      HM_ASSIGN(value.type, ReadType());
      HM_ASSIGN(value.count, Read<uint64_t>("an array's length"));
    }
    const size_t begin = position_;
    HM_TRY(Skip(value.type, value.count, 0));
    value.payload = bytes_.subspan(begin, position_ - begin);
    return value;
  }

 private:
  Error Short(std::string_view what, uint64_t wanted) const {
    return Corrupt(std::string(what) + " at byte " + std::to_string(position_) + " wants " +
                   std::to_string(wanted) + " more, but the file ends at byte " +
                   std::to_string(bytes_.size()) + " (is it cut short?)");
  }

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

struct GgmlType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
};

// Numbers of types that files may hold; those without a DType are known by name only.
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", DType::kF32},        {1, "F16", DType::kF16},       {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},      {6, "Q5_0", DType::kQ5_0},     {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},      {9, "Q8_1", std::nullopt},     {10, "Q2_K", DType::kQ2_K},
    {11, "Q3_K", DType::kQ3_K},     {12, "Q4_K", DType::kQ4_K},    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},     {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt},   {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", DType::kIQ4_NL}, {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", DType::kIQ4_XS}, {24, "I8", DType::kI8},        {25, "I16", DType::kI16},
    {26, "I32", DType::kI32},       {27, "I64", DType::kI64},      {28, "F64", DType::kF64},
    {29, "IQ1_M", std::nullopt},    {30, "BF16", DType::kBF16},    {34, "TQ1_0", DType::kTQ1_0},
    {35, "TQ2_0", DType::kTQ2_0},   {39, "MXFP4", DType::kMXFP4},  {40, "NVFP4", std::nullopt},
};

Result<DType> DTypeOfGgml(uint32_t number) {
  std::string name = "unknown";
  for (const GgmlType& type : kGgmlTypes) {
    if (type.number != number) continue;
    if (type.dtype.has_value()) return *type.dtype;
    name = type.name;
  }
  std::string supported;
  for (const GgmlType& type : kGgmlTypes) {
    if (type.dtype.has_value()) supported += " " + std::string(type.name);
  }
  return Error(ErrorCode::kUnsupported, "ggml type " + std::to_string(number) + " (" + name +
                                            ") is not supported; supported are" + supported);
}

/// A tensor's description before the data section's place is known.
struct TensorInfo {
  std::string_view name;
  DType dtype;
  Shape shape;
  uint64_t offset = 0;
  size_t size_bytes = 0;
};

Result<TensorInfo> ReadTensorFields(Cursor& cursor, std::string_view name) {
  HM_ASSIGN(const uint32_t rank, cursor.Read<uint32_t>("a tensor's rank"));
  if (rank > kMaxDims) {
    return Corrupt("has " + std::to_string(rank) + " dimensions, at most 4 are allowed");
  }
  std::vector<int64_t> dims(rank);
  // The file lists the innermost dimension first.
  for (uint32_t i = rank; i-- > 0;) {
    HM_ASSIGN(const uint64_t dim, cursor.Read<uint64_t>("a tensor's dimension"));
    if (dim > static_cast<uint64_t>(INT64_MAX)) {
      return Corrupt("dimension " + std::to_string(dim) + " is too large");
    }
    dims[i] = static_cast<int64_t>(dim);
  }
  TensorInfo info{.name = name, .dtype = DType::kF32, .shape = Shape(std::move(dims))};
  HM_ASSIGN(const uint32_t type, cursor.Read<uint32_t>("a tensor's type"));
  HM_ASSIGN(info.dtype, DTypeOfGgml(type));
  HM_ASSIGN(info.offset, cursor.Read<uint64_t>("a tensor's offset"));
  HM_ASSIGN(info.size_bytes, tensor::SizeBytes(info.dtype, info.shape));
  return info;
}

Result<uint32_t> ReadVersion(Cursor& cursor) {
  HM_ASSIGN(const uint32_t version, cursor.Read<uint32_t>("the version"));
  if (version == 2 || version == 3) return version;
  if ((version & 0xFFFFu) == 0) {
    return Error(ErrorCode::kUnsupported,
                 "a big-endian GGUF file; only little-endian ones are supported");
  }
  return Error(ErrorCode::kUnsupported,
               "GGUF version " + std::to_string(version) + "; versions 2 and 3 are supported");
}

Status ReadMetadata(Cursor& cursor, uint64_t count, GgufMetadata* metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    HM_ASSIGN(const std::string_view key, cursor.ReadString("a metadata key"));
    HM_ASSIGN(const GgufValue value, cursor.ReadValue().WithContext("metadata " + Quoted(key)));
    if (!metadata->Insert(key, value))
      return Corrupt("metadata " + Quoted(key) + " is there twice");
  }
  return {};
}

Result<size_t> ReadAlignment(const GgufMetadata& metadata) {
  HM_ASSIGN(const auto found, metadata.FindInt("general.alignment"));
  const int64_t alignment = found.value_or(kDefaultAlignment);
  constexpr int64_t kMaxAlignment = int64_t{1} << 30;
  if (alignment < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    return Corrupt("general.alignment is " + std::to_string(alignment) +
                   ", expected a power of two");
  }
  return static_cast<size_t>(alignment);
}

/// Turns offsets into views, checking that they lie in the data section, aligned and apart.
Status PlaceTensors(const std::vector<TensorInfo>& infos, std::span<const std::byte> data,
                    size_t alignment, std::vector<GgufTensor>* tensors) {
  std::vector<const TensorInfo*> by_offset;
  by_offset.reserve(infos.size());
  tensors->reserve(infos.size());
  for (const TensorInfo& info : infos) {
    const auto refuse = [&](const std::string& why) {
      return Corrupt("tensor " + Quoted(info.name) + ": " + why);
    };
    if (info.offset % alignment != 0) {
      return refuse("offset " + std::to_string(info.offset) +
                    " is not a multiple of the alignment " + std::to_string(alignment));
    }
    if (info.offset > data.size() || info.size_bytes > data.size() - info.offset) {
      return refuse(std::string(tensor::Info(info.dtype).name) + " " + info.shape.ToString() +
                    " takes " + std::to_string(info.size_bytes) + " bytes at offset " +
                    std::to_string(info.offset) + ", but the data section holds " +
                    std::to_string(data.size()) + " (is the file cut short?)");
    }
    by_offset.push_back(&info);
    tensors->push_back(
        {.name = info.name,
         .view = {.dtype = info.dtype,
                  .shape = info.shape,
                  .bytes = data.subspan(static_cast<size_t>(info.offset), info.size_bytes)}});
  }
  std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->offset, a->size_bytes) < std::pair(b->offset, b->size_bytes);
  });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = *by_offset[i - 1];
    const TensorInfo& after = *by_offset[i];
    if (before.offset + before.size_bytes > after.offset) {
      return Corrupt("tensors " + Quoted(before.name) + " and " + Quoted(after.name) +
                     " overlap at offset " + std::to_string(after.offset));
    }
  }
  return {};
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  constexpr std::string_view kNames[] = {"U8",   "I8",     "U16",   "I16", "U32", "I32", "F32",
                                         "BOOL", "STRING", "ARRAY", "U64", "I64", "F64"};
  return kNames[static_cast<uint32_t>(type)];
}

std::optional<uint32_t> GgmlTypeNumber(DType dtype) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.dtype == dtype) return type.number;
  }
  return std::nullopt;
}

bool IsGguf(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() &&
         std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<GgufFile> ParseGguf(std::span<const std::byte> file) {
  if (!IsGguf(file)) return Corrupt("not a GGUF file: it does not begin with 'GGUF'");
  Cursor cursor(file);
  HM_TRY(cursor.Read<uint32_t>("the magic"));
  GgufFile result;
  HM_ASSIGN(result.version, ReadVersion(cursor));
  HM_ASSIGN(const uint64_t num_tensors, cursor.Read<uint64_t>("the number of tensors"));
  HM_ASSIGN(const uint64_t num_values, cursor.Read<uint64_t>("the number of metadata values"));
  HM_TRY(ReadMetadata(cursor, num_values, &result.metadata));
  HM_ASSIGN(const size_t alignment, ReadAlignment(result.metadata));

  std::vector<TensorInfo> infos;
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    HM_ASSIGN(const std::string_view name, cursor.ReadString("a tensor's name"));
    if (!names.insert(name).second)
      return Corrupt("tensor " + Quoted(name) + " is described twice");
    HM_ASSIGN(TensorInfo info,
              ReadTensorFields(cursor, name).WithContext("tensor " + Quoted(name)));
    infos.push_back(std::move(info));
  }
  // Padding before the data may be missing where there are no tensors.
  const size_t padding = (alignment - cursor.position() % alignment) % alignment;
  result.header_bytes = cursor.position() + std::min(padding, cursor.remaining());
  HM_TRY(PlaceTensors(infos, file.subspan(result.header_bytes), alignment, &result.tensors));
  return result;
}

}  // namespace halfmoon::checkpoint
