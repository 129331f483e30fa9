// SPDX-License-Identifier: Apache-2.0
#include "hub/listing.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <set>
#include <utility>

#include "base/json.h"

namespace halfmoon::hub {
namespace {

// ModelScope cuts its lists there without a word.
constexpr size_t kModelScopeLimit = 3000;

Error Corrupt(std::string message) { return Error(ErrorCode::kCorrupt, std::move(message)); }

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// A digest field: absent, or so many hexadecimal digits.
Result<std::string> FindDigest(const json::object& o, std::string_view key, size_t digits) {
  HM_ASSIGN(const auto found, json::FindString(o, key));
  if (!found || found->empty()) return std::string();
  if (!IsHex(*found, digits)) {
    return Corrupt("field '" + std::string(key) + "' is not " + std::to_string(digits) +
                   " hexadecimal digits");
  }
  return Lower(*found);
}

Status ReadSize(const json::object& o, std::string_view key, RemoteFile* file) {
  HM_ASSIGN(const auto size, json::FindInt(o, key));
  if (!size) return {};
  // No file is larger, and sums of so many stay within 64 bits.
  constexpr int64_t kMaxBytes = int64_t{1} << 46;
  if (*size < 0 || *size > kMaxBytes) {
    return Corrupt("field '" + std::string(key) + "' is " + std::to_string(*size) +
                   ", not the size of a file");
  }
  file->size_bytes = static_cast<uint64_t>(*size);
  return {};
}

/// Parts of paths that are folders of other paths cannot be files too.
Status CheckDistinct(const std::vector<RemoteFile>& files) {
  std::set<std::string_view> paths;
  for (const RemoteFile& file : files) {
    if (!paths.insert(file.path).second) {
      return Corrupt("file '" + file.path + "' is listed twice");
    }
  }
  for (const std::string_view path : paths) {
    for (size_t slash = path.find('/'); slash != std::string_view::npos;
         slash = path.find('/', slash + 1)) {
      if (paths.contains(path.substr(0, slash))) {
        return Corrupt("'" + std::string(path.substr(0, slash)) + "' is a file and a folder");
      }
    }
  }
  return {};
}

Result<const json::object*> ObjectAt(const json::array& items, size_t index,
                                     std::string_view what) {
  if (const json::object* o = items[index].if_object()) return o;
  return Corrupt(std::string(what) + "[" + std::to_string(index) + "] is a " +
                 std::string(json::KindName(items[index])) + ", an object expected");
}

Result<RemoteFile> ReadSibling(const json::object& o) {
  RemoteFile file;
  HM_ASSIGN(file.path, json::RequireString(o, "rfilename"));
  HM_TRY(CheckRelativePath(file.path));
  HM_TRY(ReadSize(o, "size", &file));
  HM_ASSIGN(const json::object* lfs, json::FindObject(o, "lfs"));
  if (lfs != nullptr) {
    HM_ASSIGN(file.sha256, FindDigest(*lfs, "sha256", 64));
    HM_TRY(ReadSize(*lfs, "size", &file));
  }
  // Of a file in LFS, git's name is that of the pointer and says nothing about the content.
  if (lfs == nullptr) {
    HM_ASSIGN(file.git_sha1, FindDigest(o, "blobId", 40));
  }
  return file;
}

/// A licence is one string, or a list of them.
Result<std::string> FindLicense(const json::object& card) {
  const json::value* value = card.if_contains("license");
  if (value == nullptr || value->is_null()) return std::string();
  std::string text;
  if (const auto* list = value->if_array()) {
    for (const json::value& item : *list) {
      if (!item.is_string()) return Corrupt("field 'license' holds something else than names");
      if (!text.empty()) text += ", ";
      text += std::string_view(item.get_string());
    }
    return text;
  }
  HM_ASSIGN(const auto name, json::FindString(card, "license"));
  text = name.value_or("");
  if (text == "other") {
    HM_ASSIGN(const auto own, json::FindString(card, "license_name"));
    if (own && !own->empty()) text = *own;
  }
  return text;
}

Result<Repository> ReadHuggingFace(const json::object& o) {
  Repository repository;
  HM_ASSIGN(repository.id, json::RequireString(o, "id"));
  HM_ASSIGN(repository.commit, json::RequireString(o, "sha"));
  if (!IsHex(repository.commit, 40)) return Corrupt("field 'sha' is not a commit of 40 digits");
  repository.commit = Lower(repository.commit);
  if (const json::value* gated = o.if_contains("gated"); gated != nullptr && !gated->is_null()) {
    repository.gated = !(gated->is_bool() && !gated->get_bool());  // false, or "auto", "manual"
  }
  HM_ASSIGN(const json::object* card, json::FindObject(o, "cardData"));
  if (card != nullptr) {
    HM_ASSIGN(repository.license, FindLicense(*card));
    HM_ASSIGN(const auto link, json::FindString(*card, "license_link"));
    repository.license_link = link.value_or("");
  }
  HM_ASSIGN(const json::array* siblings, json::FindArray(o, "siblings"));
  if (siblings == nullptr) return Corrupt("field 'siblings', the list of files, is missing");
  if (siblings->size() > kMaxFiles) return Corrupt("the repository holds too many files");
  for (size_t i = 0; i < siblings->size(); ++i) {
    HM_ASSIGN(const json::object* sibling, ObjectAt(*siblings, i, "siblings"));
    HM_ASSIGN(RemoteFile file, ReadSibling(*sibling));
    repository.files.push_back(std::move(file));
  }
  HM_TRY(CheckDistinct(repository.files));
  return repository;
}

/// The envelope of every ModelScope answer. Returns Data.
Result<const json::object*> ModelScopeData(const json::object& o) {
  HM_ASSIGN(const auto success, json::FindBool(o, "Success"));
  HM_ASSIGN(const json::object* data, json::FindObject(o, "Data"));
  if (!success.value_or(true) || data == nullptr) {
    HM_ASSIGN(const auto message, json::FindString(o, "Message"));
    return Error(ErrorCode::kUnavailable,
                 "the hub says: " + (message && !message->empty() ? OneLine(*message) : "no data"));
  }
  return data;
}

Result<Repository> ReadModelScope(const json::object& o) {
  HM_ASSIGN(const json::object* data, ModelScopeData(o));
  HM_ASSIGN(const json::array* files, json::FindArray(*data, "Files"));
  if (files == nullptr) return Corrupt("field 'Data.Files', the list of files, is missing");
  if (files->size() >= kModelScopeLimit) {
    return Error(ErrorCode::kUnsupported, "the repository holds " + std::to_string(files->size()) +
                                              " files or more, and the hub lists no more of them");
  }
  Repository repository;
  for (size_t i = 0; i < files->size(); ++i) {
    HM_ASSIGN(const json::object* item, ObjectAt(*files, i, "Data.Files"));
    HM_ASSIGN(const auto type, json::FindString(*item, "Type"));
    if (type == "tree") continue;
    RemoteFile file;
    HM_ASSIGN(file.path, json::RequireString(*item, "Path"));
    HM_TRY(CheckRelativePath(file.path));
    HM_TRY(ReadSize(*item, "Size", &file));
    HM_ASSIGN(file.sha256, FindDigest(*item, "Sha256", 64));
    repository.files.push_back(std::move(file));
  }
  HM_TRY(CheckDistinct(repository.files));
  return repository;
}

/// Answers of hubs are theirs: whatever is wrong with one is corrupt, not a wrong argument.
Result<json::object> ParseAnswer(std::string_view body) {
  Result<json::object> parsed = json::ParseObject(body);
  if (!parsed.ok()) return Corrupt("the hub's answer: " + parsed.error().message());
  return parsed;
}

template <typename T>
Result<T> AsAnswer(Result<T> result) {
  if (result.ok() || result.error().code() != ErrorCode::kInvalidArgument) return result;
  return Corrupt("the hub's answer: " + result.error().message());
}

Result<std::vector<std::string>> ReadShards(const json::object& o) {
  HM_ASSIGN(const json::object* map, json::FindObject(o, "weight_map"));
  if (map == nullptr) return Corrupt("field 'weight_map' is missing");
  std::set<std::string> shards;
  for (const auto& [tensor, file] : *map) {
    if (!file.is_string()) return Corrupt("'weight_map' holds something else than file names");
    std::string name(std::string_view(file.get_string()));
    HM_TRY(CheckRelativePath(name));
    shards.insert(std::move(name));
  }
  return std::vector<std::string>(shards.begin(), shards.end());
}

/// A file of an Ollama manifest.
struct OllamaLayer {
  std::string media_type;
  std::string sha256;
  uint64_t size_bytes = 0;
};

Result<OllamaLayer> ReadLayer(const json::object& o) {
  OllamaLayer layer;
  HM_ASSIGN(const auto type, json::FindString(o, "mediaType"));
  layer.media_type = type.value_or("");
  HM_ASSIGN(const std::string digest, json::RequireString(o, "digest"));
  constexpr std::string_view kPrefix = "sha256:";
  if (!digest.starts_with(kPrefix) || !IsHex(digest.substr(kPrefix.size()), 64)) {
    return Corrupt("field 'digest' is not sha256: and 64 hexadecimal digits");
  }
  layer.sha256 = Lower(digest.substr(kPrefix.size()));
  RemoteFile file;
  HM_TRY(ReadSize(o, "size", &file));
  layer.size_bytes = file.size_bytes.value_or(0);
  return layer;
}

/// The configuration first, if there is one.
Result<std::vector<OllamaLayer>> ReadLayers(const json::object& o) {
  std::vector<OllamaLayer> layers;
  HM_ASSIGN(const json::object* config, json::FindObject(o, "config"));
  if (config != nullptr) {
    HM_ASSIGN(OllamaLayer layer, ReadLayer(*config).WithContext("config"));
    layers.push_back(std::move(layer));
  }
  HM_ASSIGN(const json::array* items, json::FindArray(o, "layers"));
  if (items == nullptr) return Corrupt("field 'layers' is missing");
  for (size_t i = 0; i < items->size(); ++i) {
    HM_ASSIGN(const json::object* item, ObjectAt(*items, i, "layers"));
    HM_ASSIGN(OllamaLayer layer, ReadLayer(*item).WithContext("layers[" + std::to_string(i) + "]"));
    layers.push_back(std::move(layer));
  }
  return layers;
}

Result<OllamaManifest> ReadOllama(const json::object& o) {
  HM_ASSIGN(const std::vector<OllamaLayer> layers, ReadLayers(o));
  OllamaManifest manifest;
  for (const OllamaLayer& layer : layers) {
    if (layer.media_type == "application/vnd.ollama.image.license" &&
        manifest.license_sha256.empty()) {
      manifest.license_sha256 = layer.sha256;
    }
    if (layer.media_type != "application/vnd.ollama.image.model") continue;
    if (!manifest.model_sha256.empty()) {
      return Error(ErrorCode::kUnsupported, "the model consists of several files");
    }
    manifest.model_sha256 = layer.sha256;
    manifest.model_bytes = layer.size_bytes;
  }
  if (manifest.model_sha256.empty()) {
    return Error(ErrorCode::kUnsupported, "the model is not a GGUF file");
  }
  return manifest;
}

}  // namespace

Result<Repository> ParseHuggingFaceListing(std::string_view body) {
  HM_ASSIGN(const json::object o, ParseAnswer(body));
  return AsAnswer(ReadHuggingFace(o));
}

Result<Repository> ParseModelScopeListing(std::string_view body, std::string_view id,
                                          std::string_view revision) {
  HM_ASSIGN(const json::object o, ParseAnswer(body));
  HM_ASSIGN(Repository repository, AsAnswer(ReadModelScope(o)));
  repository.id = id;
  repository.commit = revision;
  return repository;
}

Result<std::vector<std::string>> ParseShardIndex(std::string_view body) {
  HM_ASSIGN(const json::object o, ParseAnswer(body));
  return AsAnswer(ReadShards(o));
}

Result<OllamaManifest> ParseOllamaManifest(std::string_view body) {
  HM_ASSIGN(const json::object o, ParseAnswer(body));
  return AsAnswer(ReadOllama(o));
}

Result<std::vector<std::string>> ParseOllamaDigests(std::string_view body) {
  HM_ASSIGN(const json::object o, ParseAnswer(body));
  HM_ASSIGN(const std::vector<OllamaLayer> layers, AsAnswer(ReadLayers(o)));
  std::vector<std::string> digests;
  digests.reserve(layers.size());
  for (const OllamaLayer& layer : layers) digests.push_back(layer.sha256);
  return digests;
}

}  // namespace halfmoon::hub
