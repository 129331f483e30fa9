// SPDX-License-Identifier: Apache-2.0
// Checkpoints of one GGUF file, or of the parts of one that is split.
#include <cstdio>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/file.h"
#include "checkpoint/file_checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_split.h"

namespace halfmoon::checkpoint {
namespace {

namespace fs = std::filesystem;

struct Part {
  MappedFile mapped;
  GgufFile file;
};

Result<Part> OpenPart(const fs::path& path) {
  HM_ASSIGN(MappedFile mapped, MappedFile::Open(path));
  HM_ASSIGN(GgufFile file, ParseGguf(mapped.bytes()).WithContext(path.string()));
  return Part{.mapped = std::move(mapped), .file = std::move(file)};
}

/// That `part` calls itself number `index` of `count`.
Status CheckPart(const fs::path& path, const Part& part, int64_t index, int64_t count) {
  HM_ASSIGN(const int64_t found_index, part.file.metadata.RequireInt("split.no"));
  HM_ASSIGN(const int64_t found_count, part.file.metadata.RequireInt("split.count"));
  if (found_index == index && found_count == count) return {};
  return Error(ErrorCode::kCorrupt,
               path.string() + ": by its name part " + std::to_string(index + 1) + " of " +
                   std::to_string(count) + ", by its metadata part " +
                   std::to_string(found_index + 1) + " of " + std::to_string(found_count));
}

/// All parts of which `path` is one, in order.
Result<std::vector<Part>> OpenParts(const fs::path& path, Part opened, int64_t count) {
  const std::optional<SplitName> name = ParseSplitName(path.filename().string());
  if (!name.has_value() || name->count != count) {
    return Error(ErrorCode::kInvalidArgument,
                 path.string() + ": one of " + std::to_string(count) +
                     " parts of a split model; its name has to end in -00001-of-" +
                     SplitNumber(count) + ".gguf, so that the others can be found");
  }
  std::vector<Part> parts;
  std::unordered_set<std::string_view> names;
  size_t num_tensors = 0;
  for (int64_t index = 0; index < count; ++index) {
    const fs::path part_path = path.parent_path() / name->PartName(index);
    const bool is_opened = index + 1 == name->number;
    if (is_opened) {
      parts.push_back(std::move(opened));
    } else {
      HM_ASSIGN(Part part, OpenPart(part_path).WithContext("part of " + path.string()));
      parts.push_back(std::move(part));
    }
    HM_TRY(CheckPart(part_path, parts.back(), index, count));
    for (const GgufTensor& tensor : parts.back().file.tensors) {
      if (names.insert(tensor.name).second) continue;
      return Error(ErrorCode::kCorrupt, part_path.string() + ": tensor '" +
                                            std::string(tensor.name) +
                                            "' is in an earlier part too");
    }
    num_tensors += parts.back().file.tensors.size();
  }
  HM_ASSIGN(const auto expected, parts[0].file.metadata.FindInt("split.tensors.count"));
  if (expected.has_value() && *expected != static_cast<int64_t>(num_tensors)) {
    return Error(ErrorCode::kCorrupt, path.string() + ": split.tensors.count is " +
                                          std::to_string(*expected) + ", the parts hold " +
                                          std::to_string(num_tensors) + " tensors");
  }
  return parts;
}

/// general.license is an SPDX name, or "other" with a name of its own beside it.
Result<StatedLicense> GgufLicense(const GgufMetadata& metadata) {
  HM_ASSIGN(const auto id, metadata.FindString("general.license"));
  HM_ASSIGN(const auto name, metadata.FindString("general.license.name"));
  HM_ASSIGN(const auto link, metadata.FindString("general.license.link"));
  const bool own = name && !name->empty() && (!id || id->empty() || *id == "other");
  return StatedLicense{.name = std::string(own ? *name : id.value_or("")),
                       .link = std::string(link.value_or(""))};
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenGguf(const fs::path& path) {
  HM_ASSIGN(Part first, OpenPart(path));
  const std::string context = path.string();
  HM_ASSIGN(const auto count, first.file.metadata.FindInt("split.count"));
  std::vector<Part> opened;
  if (count.value_or(1) > 1) {
    HM_ASSIGN(opened, OpenParts(path, std::move(first), *count));
  } else {
    opened.push_back(std::move(first));
  }

  // The first part has the metadata of the model; the others add their tensors.
  GgufFile& file = opened[0].file;
  for (size_t i = 1; i < opened.size(); ++i) {
    const std::vector<GgufTensor>& more = opened[i].file.tensors;
    file.tensors.insert(file.tensors.end(), more.begin(), more.end());
  }
  CheckpointParts parts{.format = "gguf", .path = path};
  HM_ASSIGN(parts.config, GgufConfig(file).WithContext(context));
  HM_ASSIGN(parts.tensors, GgufTensors(file, parts.config).WithContext(context));
  HM_ASSIGN(parts.vocabulary, ReadGgufVocabulary(file.metadata).WithContext(context));
  HM_ASSIGN(const auto chat_template,
            file.metadata.FindString("tokenizer.chat_template").WithContext(context));
  parts.chat_template = chat_template.value_or("");
  HM_ASSIGN(parts.license, GgufLicense(file.metadata).WithContext(context));
  for (Part& part : opened) {
    parts.files.push_back({.file = std::move(part.mapped), .header_bytes = part.file.header_bytes});
  }
  return std::unique_ptr<Checkpoint>(std::make_unique<FileCheckpoint>(std::move(parts)));
}

}  // namespace halfmoon::checkpoint
