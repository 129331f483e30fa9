// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "base/json.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

constexpr size_t kLengthBytes = 8;
// The limit of the format's reference implementation.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

Error Corrupt(std::string message) { return Error(ErrorCode::kCorrupt, std::move(message)); }

/// Refuses a top-level key that stands there twice. `text` is the valid JSON that `parsed` came
/// from; the parser keeps the last of equal keys, which would hide a tensor.
Status CheckKeysDiffer(std::string_view text, const json::object& parsed) {
  std::unordered_set<std::string_view> seen;
  std::string_view last_string;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      const size_t begin = ++i;
      for (; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\') ++i;
      }
      last_string = text.substr(begin, i - begin);
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ':' && depth == 1 && !seen.insert(last_string).second) {
      return Corrupt("tensor '" + std::string(last_string) + "' is described twice");
    }
  }
  // Equal names may be spelled with different escapes.
  if (seen.size() != parsed.size()) return Corrupt("a tensor is described twice");
  return {};
}

/// An array of whole numbers that are not negative.
Result<std::vector<int64_t>> ReadSizes(const json::object& entry, std::string_view key) {
  HM_ASSIGN(const json::array* values, json::FindArray(entry, key));
  if (values == nullptr) return Corrupt("field '" + std::string(key) + "' is missing");
  std::vector<int64_t> sizes;
  sizes.reserve(values->size());
  for (const json::value& v : *values) {
    if (!v.is_int64() || v.as_int64() < 0) {
      return Corrupt("field '" + std::string(key) +
                     "': expected whole numbers from 0 to 2^63 - 1, found " + json::Serialize(v));
    }
    sizes.push_back(v.as_int64());
  }
  return sizes;
}

Result<TensorView> ReadTensor(const json::object& entry, std::span<const std::byte> data) {
  HM_ASSIGN(const std::string dtype_name, json::RequireString(entry, "dtype"));
  HM_ASSIGN(const DType dtype, SafetensorsDType(dtype_name));
  HM_ASSIGN(std::vector<int64_t> dims, ReadSizes(entry, "shape"));
  HM_ASSIGN(const std::vector<int64_t> offsets, ReadSizes(entry, "data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Corrupt("field 'data_offsets': expected [begin, end] with begin <= end, found " +
                   Shape(offsets).ToString());
  }
  const auto begin = static_cast<size_t>(offsets[0]);
  const auto end = static_cast<size_t>(offsets[1]);
  if (end > data.size()) {
    return Corrupt("data ends at byte " + std::to_string(end) +
                   " of the data section, which holds " + std::to_string(data.size()) +
                   " bytes (is the file cut short?)");
  }
  const Shape shape(std::move(dims));
  HM_ASSIGN(const size_t size_bytes, tensor::SizeBytes(dtype, shape));
  if (size_bytes != end - begin) {
    return Corrupt(dtype_name + " " + shape.ToString() + " takes " + std::to_string(size_bytes) +
                   " bytes, but data_offsets span " + std::to_string(end - begin));
  }
  return TensorView{.dtype = dtype, .shape = shape, .bytes = data.subspan(begin, size_bytes)};
}

/// The ranges have to cover `data` exactly.
Status CheckCoverage(const SafetensorsIndex& index, std::span<const std::byte> data) {
  std::vector<std::pair<const std::string*, std::span<const std::byte>>> ranges;
  ranges.reserve(index.tensors.size());
  for (const auto& [name, view] : index.tensors) ranges.emplace_back(&name, view.bytes);
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.data(), a.second.size()) <
           std::pair(b.second.data(), b.second.size());
  });
  size_t covered = 0;
  std::string previous = "the header";
  for (const auto& [name, bytes] : ranges) {
    const auto begin = static_cast<size_t>(bytes.data() - data.data());
    if (begin != covered) {
      return Corrupt("tensor '" + *name + "': data starts at byte " + std::to_string(begin) + ", " +
                     (begin < covered ? "inside " : "leaving a hole after ") + previous +
                     ", which ends at " + std::to_string(covered));
    }
    covered = begin + bytes.size();
    previous = "tensor '" + *name + "'";
  }
  if (covered != data.size()) {
    return Corrupt("the data section holds " + std::to_string(data.size()) +
                   " bytes, the tensors " + std::to_string(covered));
  }
  return {};
}

}  // namespace

Result<DType> SafetensorsDType(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (tensor::Info(dtype).name == name) return dtype;
  }
  return Error(ErrorCode::kUnsupported,
               "dtype '" + std::string(name) +
                   "' is not one of F32 F64 F16 BF16 F8_E4M3 F8_E8M0 I8 U8 I16 I32 I64 BOOL");
}

Result<SafetensorsIndex> ParseSafetensors(std::span<const std::byte> file) {
  if (file.size() < kLengthBytes) {
    return Corrupt("not a safetensors file: " + std::to_string(file.size()) +
                   " bytes, at least 8 are needed for the header's length");
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return Corrupt("header length " + std::to_string(length) + " is above the format's limit of " +
                   std::to_string(kMaxHeaderBytes) + " (is this a safetensors file?)");
  }
  if (length > file.size() - kLengthBytes) {
    return Corrupt("header of " + std::to_string(length) + " bytes, but only " +
                   std::to_string(file.size() - kLengthBytes) +
                   " bytes follow its length (is the file cut short?)");
  }
  SafetensorsIndex index;
  index.header_bytes = kLengthBytes + static_cast<size_t>(length);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                              static_cast<size_t>(length));
  const std::span<const std::byte> data = file.subspan(index.header_bytes);

  auto header = json::ParseObject(text);
  if (!header.ok()) return Corrupt("header: " + header.error().message());
  HM_TRY(CheckKeysDiffer(text, *header));
  for (const auto& [key, value] : *header) {
    const std::string name(key);
    if (!value.is_object()) {
      return Corrupt("tensor '" + name + "': expected an object, found " +
                     std::string(json::KindName(value)));
    }
    if (name == "__metadata__") {
      for (const auto& [meta_key, meta_value] : value.as_object()) {
        index.metadata[std::string(meta_key)] = meta_value.is_string()
                                                    ? std::string(meta_value.as_string())
                                                    : json::Serialize(meta_value);
      }
      continue;
    }
    auto view = ReadTensor(value.as_object(), data);
    if (!view.ok()) {
      // A field of the wrong kind is the file's fault, whatever JSON access calls it.
      const ErrorCode code = view.error().code() == ErrorCode::kUnsupported
                                 ? ErrorCode::kUnsupported
                                 : ErrorCode::kCorrupt;
      return Error(code, "tensor '" + name + "': " + view.error().message());
    }
    index.tensors.emplace(name, std::move(view).value());
  }
  HM_TRY(CheckCoverage(index, data));
  return index;
}

Result<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  HM_ASSIGN(MappedFile file, MappedFile::Open(path));
  HM_ASSIGN(SafetensorsIndex index, ParseSafetensors(file.bytes()).WithContext(path.string()));
  return SafetensorsFile(std::move(file), std::move(index));
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto found = index_.tensors.find(name);
  return found == index_.tensors.end() ? nullptr : &found->second;
}

}  // namespace halfmoon::checkpoint
