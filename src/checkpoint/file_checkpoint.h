// SPDX-License-Identifier: Apache-2.0
// The Checkpoint that Open returns. Callers outside this folder use checkpoint.h.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {

/// A weight file and how much of it precedes the data.
struct WeightFile {
  MappedFile file;
  size_t header_bytes = 0;
};

/// Everything a checkpoint consists of; `tensors` view into `files`.
struct CheckpointParts {
  std::string_view format;
  std::filesystem::path path;
  json::object config;
  std::vector<WeightFile> files;
  TensorMap tensors;
  std::optional<GgufVocabulary> vocabulary;
  std::string chat_template;
  StatedLicense license;
};

class FileCheckpoint final : public Checkpoint {
 public:
  explicit FileCheckpoint(CheckpointParts parts) : parts_(std::move(parts)) {}

  std::string_view format() const override { return parts_.format; }
  const std::filesystem::path& path() const override { return parts_.path; }
  const json::object& config() const override { return parts_.config; }
  const StoredTensor* Find(std::string_view name) const override;
  std::vector<std::string> Names() const override;
  const GgufVocabulary* gguf_vocabulary() const override;
  std::string_view chat_template() const override { return parts_.chat_template; }
  StatedLicense license() const override { return parts_.license; }
  size_t size_bytes() const override;
  std::string fingerprint() const override;
  void Prefetch() const override;
  void PrefetchOnly(const std::function<bool(std::string_view name)>& wanted) const override;
  std::vector<std::filesystem::path> files() const override;
  std::vector<SourceFile> sources() const override;
  void Release() const override;
  std::optional<FileRange> Locate(std::span<const std::byte> bytes) const override;

 private:
  CheckpointParts parts_;
};

/// A .gguf file, or all parts of the split one of which it is a part: NAME-00001-of-00003.gguf.
Result<std::unique_ptr<Checkpoint>> OpenGguf(const std::filesystem::path& path);
/// One .safetensors file with config.json beside it. `path` is what the checkpoint calls itself.
Result<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& path,
                                                    const std::filesystem::path& file);
/// The files that `index_file` (model.safetensors.index.json) names, with config.json beside them.
Result<std::unique_ptr<Checkpoint>> OpenShardedSafetensors(const std::filesystem::path& path,
                                                           const std::filesystem::path& index_file);

}  // namespace halfmoon::checkpoint
