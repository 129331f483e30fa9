// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "base/json.h"
#include "checkpoint/safetensors.h"

namespace halfmoon::checkpoint {

struct SafetensorsWriter::State {
  std::filesystem::path path;
  std::string temporary;
  int fd = -1;
  size_t expected_bytes = 0;
  size_t written_bytes = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (fd >= 0) ::close(fd);
    if (!temporary.empty()) ::unlink(temporary.c_str());
  }

  Error Failed(std::string_view what) const {
    return Error(ErrorCode::kIo,
                 path.string() + ": " + std::string(what) + ": " + std::strerror(errno));
  }

  Status WriteAll(const void* bytes, size_t size) const {
    const char* next = static_cast<const char*>(bytes);
    while (size > 0) {
      const ssize_t put = ::write(fd, next, size);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Failed("cannot write");
      next += put;
      size -= static_cast<size_t>(put);
    }
    return {};
  }
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
  auto state = std::make_unique<State>();
  state->path = path;
  state->expected_bytes = header.data_bytes;
  std::string temporary = path.string() + ".XXXXXX";
  state->fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (state->fd < 0) return state->Failed("cannot create a temporary file beside it");
  state->temporary = temporary;
  const uint64_t length = header.text.size();
  HM_TRY(state->WriteAll(&length, sizeof(length)));
  HM_TRY(state->WriteAll(header.text.data(), header.text.size()));
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > state_->expected_bytes - state_->written_bytes) {
    return Error(ErrorCode::kInvalidArgument,
                 state_->path.string() + ": " + std::to_string(bytes.size()) + " bytes more, but " +
                     std::to_string(state_->written_bytes) + " of the announced " +
                     std::to_string(state_->expected_bytes) + " are written");
  }
  HM_TRY(state_->WriteAll(bytes.data(), bytes.size()));
  state_->written_bytes += bytes.size();
  return {};
}

Status SafetensorsWriter::Finish() {
  if (state_->written_bytes != state_->expected_bytes) {
    return Error(ErrorCode::kInvalidArgument,
                 state_->path.string() + ": " + std::to_string(state_->written_bytes) +
                     " of the announced " + std::to_string(state_->expected_bytes) +
                     " bytes are written");
  }
  if (::fchmod(state_->fd, 0644) != 0) return state_->Failed("cannot set the mode");
  if (::fsync(state_->fd) != 0) return state_->Failed("cannot sync");
  if (::rename(state_->temporary.c_str(), state_->path.c_str()) != 0) {
    return state_->Failed("cannot rename into place");
  }
  state_->temporary.clear();
  return {};
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
