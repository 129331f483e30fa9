// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_writer.h"

#include <set>
#include <utility>

#include "base/json.h"
#include "checkpoint/atomic_file.h"
#include "checkpoint/safetensors.h"

namespace halfmoon::checkpoint {

struct SafetensorsWriter::State {
  AtomicFile file;
  size_t expected_bytes = 0;
  size_t written_bytes = 0;
};

namespace {

struct Header {
  std::string text;
  size_t data_bytes = 0;
};

Result<Header> MakeHeader(const std::vector<SafetensorsEntry>& entries) {
  Header header;
  std::set<std::string_view> names = {"__metadata__"};
  json::object root;
  for (const SafetensorsEntry& entry : entries) {
    const auto refuse = [&](std::string_view why) {
      return Error(ErrorCode::kInvalidArgument, "tensor '" + entry.name + "': " + std::string(why));
    };
    if (!names.insert(entry.name).second) return refuse("the name is taken");
    const std::string dtype_name(tensor::Info(entry.dtype).name);
    if (!SafetensorsDType(dtype_name).ok()) return refuse("safetensors has no type " + dtype_name);
    const auto size_bytes = tensor::SizeBytes(entry.dtype, entry.shape);
    if (!size_bytes.ok()) return refuse(size_bytes.error().message());
    json::array shape;
    for (const int64_t dim : entry.shape.dims()) shape.push_back(dim);
    json::object fields;
    fields["dtype"] = dtype_name;
    fields["shape"] = std::move(shape);
    fields["data_offsets"] = json::array{header.data_bytes, header.data_bytes + *size_bytes};
    root[entry.name] = std::move(fields);
    header.data_bytes += *size_bytes;
  }
  header.text = json::Serialize(root);
  // Spaces are allowed after the object: they put the data at a multiple of 8 bytes.
  header.text.resize((header.text.size() + 7) / 8 * 8, ' ');
  return header;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::Create(const std::filesystem::path& path,
                                                    const std::vector<SafetensorsEntry>& entries) {
  HM_ASSIGN(const Header header, MakeHeader(entries).WithContext(path.string()));
  HM_ASSIGN(AtomicFile file, AtomicFile::Create(path));
  const uint64_t length = header.text.size();
  HM_TRY(file.Write(std::as_bytes(std::span(&length, 1))));
  HM_TRY(file.Write(std::as_bytes(std::span(header.text))));
  auto state = std::make_unique<State>(
      State{.file = std::move(file), .expected_bytes = header.data_bytes, .written_bytes = 0});
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > state_->expected_bytes - state_->written_bytes) {
    return Error(ErrorCode::kInvalidArgument,
                 state_->file.path().string() + ": " + std::to_string(bytes.size()) +
                     " bytes more, but " + std::to_string(state_->written_bytes) +
                     " of the announced " + std::to_string(state_->expected_bytes) +
                     " are written");
  }
  HM_TRY(state_->file.Write(bytes));
  state_->written_bytes += bytes.size();
  return {};
}

Status SafetensorsWriter::Finish() {
  if (state_->written_bytes != state_->expected_bytes) {
    return Error(ErrorCode::kInvalidArgument,
                 state_->file.path().string() + ": " + std::to_string(state_->written_bytes) +
                     " of the announced " + std::to_string(state_->expected_bytes) +
                     " bytes are written");
  }
  return state_->file.Commit();
}

Status WriteSafetensors(const std::filesystem::path& path,
                        const std::vector<NamedTensor>& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const NamedTensor& t : tensors) {
    const auto size_bytes = tensor::SizeBytes(t.view.dtype, t.view.shape);
    if (size_bytes.ok() && *size_bytes != t.view.bytes.size()) {
      return Error(ErrorCode::kInvalidArgument,
                   path.string() + ": tensor '" + t.name + "': shape and type take " +
                       std::to_string(*size_bytes) + " bytes, the view has " +
                       std::to_string(t.view.bytes.size()));
    }
    entries.push_back({.name = t.name, .dtype = t.view.dtype, .shape = t.view.shape});
  }
  HM_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(path, entries));
  for (const NamedTensor& t : tensors) HM_TRY(writer.Append(t.view.bytes));
  return writer.Finish();
}

}  // namespace halfmoon::checkpoint
