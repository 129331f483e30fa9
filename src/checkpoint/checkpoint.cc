// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "checkpoint/file_checkpoint.h"
#include "checkpoint/fingerprint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_split.h"

namespace halfmoon::checkpoint {
namespace {

namespace fs = std::filesystem;

/// False on any error: what cannot be looked at is reported by the attempt to open it.
bool IsFile(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

Result<std::vector<fs::path>> GgufFilesIn(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf" && IsFile(it->path())) found.push_back(it->path());
  }
  if (error) return Error(ErrorCode::kIo, folder.string() + ": cannot list: " + error.message());
  std::sort(found.begin(), found.end());
  return found;
}

/// True where the files are the parts of one model that is split.
bool AreOneModel(const std::vector<fs::path>& files) {
  if (files.empty()) return false;
  const auto first = ParseSplitName(files[0].filename().string());
  return first.has_value() && std::all_of(files.begin(), files.end(), [&](const fs::path& file) {
           const auto name = ParseSplitName(file.filename().string());
           return name.has_value() && name->stem == first->stem && name->count == first->count;
         });
}

Result<std::unique_ptr<Checkpoint>> OpenFolder(const fs::path& folder) {
  if (const fs::path single = folder / "model.safetensors"; IsFile(single)) {
    return OpenSafetensors(folder, single);
  }
  if (const fs::path index = folder / "model.safetensors.index.json"; IsFile(index)) {
    return OpenShardedSafetensors(folder, index);
  }
  HM_ASSIGN(const std::vector<fs::path> gguf_files, GgufFilesIn(folder));
  if (gguf_files.size() == 1 || AreOneModel(gguf_files)) return OpenGguf(gguf_files[0]);
  if (gguf_files.empty()) {
    return Error(ErrorCode::kNotFound, folder.string() +
                                           ": no model here: expected model.safetensors, "
                                           "model.safetensors.index.json or a .gguf file");
  }
  return Error(ErrorCode::kInvalidArgument,
               folder.string() + ": " + std::to_string(gguf_files.size()) +
                   " .gguf files; name the one to open, such as " + gguf_files[0].string());
}

}  // namespace

int64_t StoredTensor::StoredRow(int64_t row) const {
  if (row_order == RowOrder::kCanonical) return row;
  const int64_t half = rows_per_head / 2;
  const int64_t head_begin = row / rows_per_head * rows_per_head;
  const int64_t in_head = row - head_begin;
  return head_begin + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

const StoredTensor* FileCheckpoint::Find(std::string_view name) const {
  const auto found = parts_.tensors.find(name);
  return found == parts_.tensors.end() ? nullptr : &found->second;
}

std::vector<std::string> FileCheckpoint::Names() const {
  std::vector<std::string> names;
  names.reserve(parts_.tensors.size());
  for (const auto& [name, stored] : parts_.tensors) names.push_back(name);
  return names;
}

const GgufVocabulary* FileCheckpoint::gguf_vocabulary() const {
  return parts_.vocabulary.has_value() ? &*parts_.vocabulary : nullptr;
}

size_t FileCheckpoint::size_bytes() const {
  size_t total = 0;
  for (const auto& [name, stored] : parts_.tensors) total += stored.view.bytes.size();
  return total;
}

std::string FileCheckpoint::fingerprint() const {
  std::vector<FingerprintFile> files;
  for (const WeightFile& f : parts_.files) {
    files.push_back({.file = &f.file, .header_bytes = f.header_bytes});
  }
  return Fingerprint(json::Serialize(parts_.config), files);
}

void FileCheckpoint::Prefetch() const {
  for (const WeightFile& f : parts_.files) f.file.WillNeed(0, f.file.bytes().size());
}

void FileCheckpoint::PrefetchOnly(const std::function<bool(std::string_view name)>& wanted) const {
  for (const WeightFile& f : parts_.files) f.file.NoReadAround();
  const auto prefetch = [&](const tensor::TensorView& view) {
    const std::optional<FileRange> range = Locate(view.bytes);
    if (range) parts_.files[range->file].file.WillNeed(range->offset, range->size_bytes);
  };
  for (const auto& [name, stored] : parts_.tensors) {
    if (!wanted(name)) continue;
    prefetch(stored.view);
    if (stored.scales.has_value()) prefetch(stored.scales->view);
  }
}

std::vector<fs::path> FileCheckpoint::files() const {
  std::vector<fs::path> paths;
  for (const WeightFile& f : parts_.files) paths.push_back(f.file.path());
  return paths;
}

std::vector<SourceFile> FileCheckpoint::sources() const {
  std::vector<SourceFile> sources;
  for (const WeightFile& f : parts_.files) {
    sources.push_back({.path = f.file.path(), .identity = f.file.identity()});
  }
  return sources;
}

void FileCheckpoint::Release() const {
  for (const WeightFile& f : parts_.files) f.file.Release();
}

std::optional<FileRange> FileCheckpoint::Locate(std::span<const std::byte> bytes) const {
  for (size_t i = 0; i < parts_.files.size(); ++i) {
    const std::span<const std::byte> all = parts_.files[i].file.bytes();
    // As numbers: pointers into different mappings have no order.
    const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
    const auto file_begin = reinterpret_cast<uintptr_t>(all.data());
    if (begin < file_begin || begin - file_begin > all.size()) continue;
    const size_t offset = begin - file_begin;
    if (bytes.size() > all.size() - offset) continue;
    return FileRange{.file = i, .offset = offset, .size_bytes = bytes.size()};
  }
  return std::nullopt;
}

Result<std::unique_ptr<Checkpoint>> Open(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    return Error(ErrorCode::kNotFound, path.string() + ": there is no such file or folder");
  if (fs::is_directory(status)) return OpenFolder(path);
  if (path.extension() == ".safetensors") return OpenSafetensors(path, path);
  // Stores that name files by digest leave out the extension, so the content decides.
  HM_ASSIGN(const MappedFile file, MappedFile::Open(path));
  if (path.extension() == ".gguf" || IsGguf(file.bytes())) return OpenGguf(path);
  return Error(ErrorCode::kInvalidArgument,
               path.string() + ": neither a .safetensors nor a GGUF file");
}

}  // namespace halfmoon::checkpoint
