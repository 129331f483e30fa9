// SPDX-License-Identifier: Apache-2.0
// Checkpoints of one or several safetensors files.
#include <utility>

#include "base/file.h"
#include "checkpoint/file_checkpoint.h"
#include "checkpoint/published_quantization.h"
#include "checkpoint/safetensors.h"

namespace halfmoon::checkpoint {
namespace {

namespace fs = std::filesystem;

// The largest published index, of 90,000 tensors, takes 9 MB.
constexpr size_t kMaxJsonBytes = size_t{256} << 20;

Result<json::object> ReadJsonObject(const fs::path& path) {
  HM_ASSIGN(const std::string text, ReadTextFile(path, kMaxJsonBytes));
  return json::ParseObject(text).WithContext(path.string());
}

/// A file name and nothing else: an index must not reach outside its folder.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

using WeightMap = std::map<std::string, std::vector<std::string>>;

/// File name > tensors that the index places in it.
Result<WeightMap> ReadIndex(const fs::path& index_file) {
  HM_ASSIGN(const json::object index, ReadJsonObject(index_file));
  HM_ASSIGN(const json::object* weight_map,
            json::FindObject(index, "weight_map").WithContext(index_file.string()));
  const auto refuse = [&](const std::string& why) {
    return Error(ErrorCode::kCorrupt, index_file.string() + ": " + why);
  };
  if (weight_map == nullptr) return refuse("field 'weight_map' is missing");
  WeightMap files;
  for (const auto& [key, value] : *weight_map) {
    const std::string name(key);
    if (!value.is_string()) {
      return refuse("weight_map: tensor '" + name + "': expected a file name, found " +
                    std::string(json::KindName(value)));
    }
    const std::string file(value.as_string());
    if (!IsPlainFileName(file)) {
      return refuse("weight_map: tensor '" + name + "': '" + file +
                    "' is not the name of a file in this folder");
    }
    files[file].push_back(name);
  }
  return files;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenSafetensors(const fs::path& path, const fs::path& file) {
  CheckpointParts parts{.format = "safetensors", .path = path};
  HM_ASSIGN(SafetensorsFile opened, SafetensorsFile::Open(file));
  HM_ASSIGN(parts.config, ReadJsonObject(file.parent_path() / "config.json"));
  const size_t header_bytes = opened.index().header_bytes;
  for (const auto& [name, view] : opened.index().tensors) parts.tensors[name] = {.view = view};
  HM_TRY(JoinScales(parts.config, &parts.tensors).WithContext(file.string()));
  parts.files.push_back({.file = std::move(opened).TakeFile(), .header_bytes = header_bytes});
  return std::unique_ptr<Checkpoint>(std::make_unique<FileCheckpoint>(std::move(parts)));
}

Result<std::unique_ptr<Checkpoint>> OpenShardedSafetensors(const fs::path& path,
                                                           const fs::path& index_file) {
  CheckpointParts parts{.format = "safetensors", .path = path};
  const fs::path folder = index_file.parent_path();
  HM_ASSIGN(const WeightMap files, ReadIndex(index_file));
  HM_ASSIGN(parts.config, ReadJsonObject(folder / "config.json"));
  for (const auto& [file_name, names] : files) {
    HM_ASSIGN(SafetensorsFile opened,
              SafetensorsFile::Open(folder / file_name).WithContext(index_file.string()));
    for (const std::string& name : names) {
      const tensor::TensorView* view = opened.Find(name);
      if (view == nullptr) {
        return Error(ErrorCode::kCorrupt, (folder / file_name).string() + ": tensor '" + name +
                                              "' is missing, which " +
                                              index_file.filename().string() + " places here");
      }
      parts.tensors[name] = {.view = *view};
    }
    const size_t header_bytes = opened.index().header_bytes;
    parts.files.push_back({.file = std::move(opened).TakeFile(), .header_bytes = header_bytes});
  }
  HM_TRY(JoinScales(parts.config, &parts.tensors).WithContext(index_file.string()));
  return std::unique_ptr<Checkpoint>(std::make_unique<FileCheckpoint>(std::move(parts)));
}

}  // namespace halfmoon::checkpoint
