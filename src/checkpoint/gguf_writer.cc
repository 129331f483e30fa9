// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_writer.h"

#include <cstring>
#include <set>
#include <utility>

namespace halfmoon::checkpoint {
namespace {

template <typename T>
void Put(std::string* to, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  to->append(bytes, sizeof(T));
}

void PutString(std::string* to, std::string_view text) {
  Put(to, static_cast<uint64_t>(text.size()));
  to->append(text);
}

size_t PaddingAfter(size_t size_bytes, size_t alignment) {
  return (alignment - size_bytes % alignment) % alignment;
}

}  // namespace

void GgufMetadataBuilder::SetU32(std::string_view key, uint32_t value) {
  std::string bytes;
  Put(&bytes, static_cast<uint32_t>(GgufType::kU32));
  Put(&bytes, value);
  values_[std::string(key)] = std::move(bytes);
}

void GgufMetadataBuilder::Copy(std::string_view key, const GgufValue& value) {
  std::string bytes;
  if (value.is_array) {
    Put(&bytes, static_cast<uint32_t>(GgufType::kArray));
    Put(&bytes, static_cast<uint32_t>(value.type));
    Put(&bytes, value.count);
  } else {
    Put(&bytes, static_cast<uint32_t>(value.type));
  }
  bytes.append(reinterpret_cast<const char*>(value.payload.data()), value.payload.size());
  values_[std::string(key)] = std::move(bytes);
}

std::string GgufMetadataBuilder::Serialize() const {
  std::string bytes;
  for (const auto& [key, value] : values_) {
    PutString(&bytes, key);
    bytes += value;
  }
  return bytes;
}

Result<GgufWriter> GgufWriter::Create(const std::filesystem::path& path,
                                      const GgufMetadataBuilder& metadata,
                                      const std::vector<GgufEntry>& entries, size_t alignment) {
  std::string header = "GGUF";
  Put(&header, uint32_t{3});
  Put(&header, static_cast<uint64_t>(entries.size()));
  Put(&header, static_cast<uint64_t>(metadata.size()));
  header += metadata.Serialize();
  std::vector<size_t> sizes;
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const GgufEntry& entry : entries) {
    const auto refuse = [&](std::string_view why) {
      return Error(ErrorCode::kInvalidArgument,
                   path.string() + ": tensor '" + entry.name + "': " + std::string(why));
    };
    if (!names.insert(entry.name).second) return refuse("the name is taken");
    const auto number = GgmlTypeNumber(entry.dtype);
    if (!number.has_value()) {
      return refuse("GGUF has no type " + std::string(tensor::Info(entry.dtype).name));
    }
    if (entry.shape.rank() > 4) return refuse("more than four dimensions");
    const auto size_bytes = tensor::SizeBytes(entry.dtype, entry.shape);
    if (!size_bytes.ok()) return refuse(size_bytes.error().message());
    PutString(&header, entry.name);
    Put(&header, static_cast<uint32_t>(entry.shape.rank()));
    for (size_t i = entry.shape.rank(); i-- > 0;) {
      Put(&header, static_cast<uint64_t>(entry.shape[i]));
    }
    Put(&header, *number);
    Put(&header, offset);
    offset += *size_bytes + PaddingAfter(*size_bytes, alignment);
    sizes.push_back(*size_bytes);
  }
  header.append(PaddingAfter(header.size(), alignment), '\0');
  HM_ASSIGN(AtomicFile file, AtomicFile::Create(path));
  HM_TRY(file.Write(std::as_bytes(std::span(header))));
  GgufWriter writer(std::move(file), std::move(sizes), alignment);
  HM_TRY(writer.Advance());
  return writer;
}

Status GgufWriter::Advance() {
  while (tensor_ < sizes_.size() && written_bytes_ == sizes_[tensor_]) {
    const std::string padding(PaddingAfter(written_bytes_, alignment_), '\0');
    HM_TRY(file_.Write(std::as_bytes(std::span(padding))));
    ++tensor_;
    written_bytes_ = 0;
  }
  return {};
}

Status GgufWriter::Append(std::span<const std::byte> bytes) {
  const size_t room = tensor_ < sizes_.size() ? sizes_[tensor_] - written_bytes_ : 0;
  if (bytes.size() > room) {
    return Error(ErrorCode::kInvalidArgument,
                 file_.path().string() + ": " + std::to_string(bytes.size()) +
                     " bytes more, but tensor " + std::to_string(tensor_) + " has room for " +
                     std::to_string(room));
  }
  HM_TRY(file_.Write(bytes));
  written_bytes_ += bytes.size();
  return Advance();
}

Status GgufWriter::Finish() {
  if (tensor_ != sizes_.size()) {
    return Error(ErrorCode::kInvalidArgument, file_.path().string() + ": tensor " +
                                                  std::to_string(tensor_) + " of " +
                                                  std::to_string(sizes_.size()) + " is not whole");
  }
  return file_.Commit();
}

}  // namespace halfmoon::checkpoint
