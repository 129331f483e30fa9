// SPDX-License-Identifier: Apache-2.0
#include "hub/selection.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "hub/listing.h"

namespace halfmoon::hub {
namespace {

// Configuration and vocabularies stay far below; what is larger under such a name is data.
constexpr uint64_t kMaxSmallBytes = 256 << 20;

std::string Upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

std::string_view BaseName(std::string_view path) {
  return path.substr(path.rfind('/') == std::string_view::npos ? 0 : path.rfind('/') + 1);
}

/// "name-00002-of-00005" taken apart.
struct Part {
  std::string_view stem;
  size_t number;
  size_t of;
};

std::optional<Part> SplitPart(std::string_view stem) {
  constexpr std::string_view kPattern = "-00001-of-00001";
  if (stem.size() <= kPattern.size()) return std::nullopt;
  const std::string_view tail = stem.substr(stem.size() - kPattern.size());
  const auto number = [&](size_t begin) -> std::optional<size_t> {
    size_t value = 0;
    const auto [end, error] = std::from_chars(tail.data() + begin, tail.data() + begin + 5, value);
    if (error != std::errc() || end != tail.data() + begin + 5 || value == 0) return std::nullopt;
    return value;
  };
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-") return std::nullopt;
  const auto index = number(1);
  const auto count = number(10);
  if (!index || !count || *index > *count) return std::nullopt;
  return Part{stem.substr(0, stem.size() - kPattern.size()), *index, *count};
}

bool IsQuant(std::string_view word) {
  for (const std::string_view name : {"F32", "F16", "FP16", "BF16", "F64", "MXFP4", "MXFP4_MOE"}) {
    if (word == name) return true;
  }
  for (const std::string_view prefix : {"Q", "IQ", "TQ"}) {
    if (word.size() > prefix.size() && word.starts_with(prefix) &&
        std::isdigit(static_cast<unsigned char>(word[prefix.size()])) != 0) {
      const std::string_view rest = word.substr(prefix.size() + 1);
      return rest.empty() || rest.front() == '_';
    }
  }
  return false;
}

bool EndsWithGguf(std::string_view path) { return Upper(path).ends_with(".GGUF"); }

/// Beside weights, what a model needs to run, and what says how it may be used.
bool IsSmallCompanion(const RemoteFile& file) {
  if (file.path.find('/') != std::string::npos || file.path.starts_with(".")) return false;
  if (file.size_bytes.value_or(0) > kMaxSmallBytes) return false;
  const std::string name = Upper(file.path);
  for (const std::string_view suffix : {".JSON", ".JINJA", ".MODEL", ".TIKTOKEN", ".MD", ".TXT"}) {
    if (name.ends_with(suffix)) return true;
  }
  return name.starts_with("LICENSE") || name.starts_with("LICENCE") || name.starts_with("NOTICE");
}

Error NotFound(std::string message) { return Error(ErrorCode::kNotFound, std::move(message)); }

std::string Names(const std::vector<GgufModel>& models) {
  std::string names;
  for (const GgufModel& model : models) {
    if (!names.empty()) names += ", ";
    names += model.quant.empty() ? model.stem : model.quant;
  }
  return names;
}

/// Weights of the root folder: the one file, or the shards that the index names.
Result<std::vector<const RemoteFile*>> SafetensorsOf(const Repository& repository,
                                                     const ReadRemote& read) {
  std::map<std::string_view, const RemoteFile*> by_path;
  for (const RemoteFile& file : repository.files) by_path[file.path] = &file;
  if (const auto single = by_path.find(kSingleFile); single != by_path.end()) {
    return std::vector{single->second};
  }
  const auto index = by_path.find(kShardIndex);
  if (index == by_path.end()) return std::vector<const RemoteFile*>();
  HM_ASSIGN(const std::string text, read(*index->second));
  Result<std::vector<std::string>> shards = ParseShardIndex(text);
  const std::string where = repository.id + ": " + std::string(kShardIndex);
  if (!shards.ok()) return shards.error().WithContext(where);
  std::vector<const RemoteFile*> chosen;
  for (const std::string& shard : *shards) {
    const auto found = by_path.find(shard);
    if (found == by_path.end()) {
      return NotFound(std::string(where).append(" names ").append(shard).append(
          ", which is missing from the repository"));
    }
    chosen.push_back(found->second);
  }
  return chosen;
}

}  // namespace

std::string QuantOfFileName(std::string_view path) {
  std::string_view name = BaseName(path);
  if (EndsWithGguf(name)) name.remove_suffix(5);
  if (const auto part = SplitPart(name)) name = part->stem;
  const std::string upper = Upper(name);
  // Words are cut at '-' and '.'; a name like "model_q4_0" at its first '_' that begins one.
  for (size_t end = upper.size(); end > 0;) {
    size_t begin = upper.find_last_of("-.", end - 1);
    begin = begin == std::string::npos ? 0 : begin + 1;
    const std::string_view word = std::string_view(upper).substr(begin, end - begin);
    if (IsQuant(word)) return std::string(word);
    for (size_t at = word.find('_'); at != std::string_view::npos; at = word.find('_', at + 1)) {
      if (IsQuant(word.substr(at + 1))) return std::string(word.substr(at + 1));
    }
    if (begin == 0) break;
    end = begin - 1;
  }
  return "";
}

std::vector<GgufModel> GroupGguf(const std::vector<std::string>& paths) {
  std::map<std::string, std::map<size_t, std::string>> parts;
  std::map<std::string, size_t> counts;
  for (const std::string& path : paths) {
    if (!EndsWithGguf(path)) continue;
    const std::string name = Upper(BaseName(path));
    if (name.find("MMPROJ") != std::string::npos || name.find("IMATRIX") != std::string::npos) {
      continue;
    }
    const std::string_view stem = std::string_view(path).substr(0, path.size() - 5);
    if (const auto part = SplitPart(stem)) {
      const std::string key(part->stem);
      parts[key][part->number] = path;
      counts[key] = std::max(counts[key], part->of);
    } else {
      parts[std::string(stem)][1] = path;
      counts.emplace(stem, 1);
    }
  }
  std::vector<GgufModel> models;
  for (const auto& [stem, numbered] : parts) {
    GgufModel model;
    model.stem = stem;
    model.quant = QuantOfFileName(stem);
    model.num_parts = counts[stem];
    for (const auto& [number, path] : numbered) model.paths.push_back(path);
    models.push_back(std::move(model));
  }
  return models;
}

Result<GgufModel> ChooseGguf(const std::vector<GgufModel>& models, std::string_view quant) {
  HM_CHECK(!models.empty(), "no GGUF models to choose from");
  if (quant.empty()) {
    if (models.size() == 1) return models.front();
    // Small losses at about half a byte a weight first, then what is nearest to that.
    for (const std::string_view usual : {"Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL",
                                         "Q5_K_M", "Q6_K", "Q8_0", "MXFP4", "BF16", "F16"}) {
      for (const GgufModel& model : models) {
        if (model.quant == usual) return model;
      }
    }
    return NotFound("several GGUF models, choose one with :NAME of " + Names(models));
  }
  const std::string wanted = Upper(quant);
  for (const GgufModel& model : models) {
    if (model.quant == wanted) return model;
  }
  for (const GgufModel& model : models) {
    const std::string stem = Upper(model.stem);
    if (stem == wanted || BaseName(stem) == wanted || stem + ".GGUF" == wanted ||
        std::string(BaseName(stem)) + ".GGUF" == wanted ||
        (stem.ends_with(wanted) && stem[stem.size() - wanted.size() - 1] == '-')) {
      return model;
    }
  }
  return NotFound("no GGUF model '" + std::string(quant) + "'; there is " + Names(models));
}

Result<Selection> SelectFiles(const Repository& repository, std::string_view quant,
                              const ReadRemote& read) {
  Selection selection;
  std::vector<std::string> paths;
  bool pickled = false;
  for (const RemoteFile& file : repository.files) {
    paths.push_back(file.path);
    pickled |=
        file.path.ends_with(".bin") || file.path.ends_with(".pt") || file.path.ends_with(".pth");
    if (IsSmallCompanion(file)) selection.files.push_back(file);
  }
  const std::vector<GgufModel> gguf = GroupGguf(paths);
  const bool want_safetensors = Upper(quant) == "SAFETENSORS";
  std::vector<const RemoteFile*> weights;
  if (quant.empty() || want_safetensors || gguf.empty()) {
    HM_ASSIGN(weights, SafetensorsOf(repository, read));
  }
  if (!weights.empty() && !quant.empty() && !want_safetensors) {
    return NotFound(repository.id + ": no GGUF model '" + std::string(quant) +
                    "'; the repository holds safetensors only, leave out ':" + std::string(quant) +
                    "'");
  }
  if (!weights.empty()) {
    selection.format = "safetensors";
  } else if (!gguf.empty() && !want_safetensors) {
    Result<GgufModel> chosen = ChooseGguf(gguf, quant);
    if (!chosen.ok()) return chosen.error().WithContext(repository.id);
    if (!chosen->complete()) {
      return NotFound(repository.id + ": " + chosen->stem + " is split into " +
                      std::to_string(chosen->num_parts) + " files, of which the repository holds " +
                      std::to_string(chosen->paths.size()));
    }
    selection.format = "gguf";
    selection.quant = chosen->quant;
    selection.weights = chosen->paths.front();
    for (const GgufModel& other : gguf) {
      if (other.stem != chosen->stem) {
        selection.other_quants.push_back(other.quant.empty() ? other.stem : other.quant);
      }
    }
    const std::set<std::string> wanted(chosen->paths.begin(), chosen->paths.end());
    for (const RemoteFile& file : repository.files) {
      if (wanted.contains(file.path)) weights.push_back(&file);
    }
  } else {
    return Error(
        ErrorCode::kUnsupported,
        repository.id + ": neither model.safetensors (whole or with its index) nor GGUF weights" +
            (pickled ? ", only pickled PyTorch files, which could run code when opened" : ""));
  }
  std::sort(selection.files.begin(), selection.files.end(),
            [](const RemoteFile& a, const RemoteFile& b) { return a.path < b.path; });
  for (const RemoteFile* file : weights) selection.files.push_back(*file);
  return selection;
}

}  // namespace halfmoon::hub
