// SPDX-License-Identifier: Apache-2.0
#include "hub/ollama.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "hub/listing.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxManifestBytes = 1 << 20;
constexpr std::string_view kOwnHost = "registry.ollama.ai";
constexpr std::string_view kOwnNamespace = "library";

struct ManifestName {
  std::string id;
  std::string tag;
};

/// HOST/NAMESPACE/NAME/TAG as a name; nullopt where the path is something else.
std::optional<ManifestName> NameOf(const fs::path& relative) {
  std::vector<std::string> parts;
  for (const fs::path& part : relative) parts.push_back(part.string());
  if (parts.size() != 4) return std::nullopt;
  const bool library = parts[0] == kOwnHost && parts[1] == kOwnNamespace;
  const std::string id = library ? parts[2] : parts[1] + "/" + parts[2];
  const Result<ModelName> parsed = ModelName::Parse(id + ":" + parts[3]);
  if (!parsed.ok() || parsed->id != id) return std::nullopt;
  return ManifestName{.id = id, .tag = parts[3]};
}

std::optional<CachedModel> ReadModel(const fs::path& store, const fs::path& manifest_file,
                                     const ManifestName& name) {
  const Result<std::string> text = ReadTextFile(manifest_file, kMaxManifestBytes);
  if (!text.ok()) return std::nullopt;
  const Result<OllamaManifest> manifest = ParseOllamaManifest(*text);
  if (!manifest.ok()) return std::nullopt;
  CachedModel model{.name = {.id = name.id, .quant = name.tag},
                    .hub = HubKind::kOllama,
                    .revision = name.tag,
                    .format = "gguf",
                    .stem = name.tag,
                    .path = OllamaBlob(store, manifest->model_sha256),
                    .folder = manifest_file};
  if (!manifest->license_sha256.empty()) {
    model.license_text = OllamaBlob(store, manifest->license_sha256);
  }
  std::error_code error;
  const uint64_t size = fs::file_size(model.path, error);
  if (error) {
    model.missing = "its weights, " + model.path.string();
  } else if (size != manifest->model_bytes) {
    model.missing = std::to_string(manifest->model_bytes) + " bytes of weights expected, " +
                    std::to_string(size) + " found";
  }
  if (!error) model.size_bytes = size;
  return model;
}

}  // namespace

fs::path OllamaBlob(const fs::path& store, std::string_view sha256) {
  return store / "blobs" / ("sha256-" + std::string(sha256));
}

std::vector<CachedModel> OllamaModels(const Environment& environment, std::string_view id) {
  std::vector<CachedModel> models;
  for (const fs::path& store : environment.ollama_models) {
    for (const fs::path& manifest : OllamaManifests(store)) {
      const auto name = NameOf(manifest.lexically_relative(store / "manifests"));
      if (!name || (!id.empty() && name->id != id)) continue;
      if (auto model = ReadModel(store, manifest, *name)) models.push_back(std::move(*model));
    }
  }
  return models;
}

std::vector<fs::path> OllamaManifests(const fs::path& store) {
  std::vector<fs::path> found;
  std::error_code error;
  const fs::path root = store / "manifests";
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    if (it.depth() > 3) it.disable_recursion_pending();
    std::error_code ignored;
    if (it.depth() == 3 && it->is_regular_file(ignored)) found.push_back(it->path());
    if (found.size() >= kMaxFiles) break;
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace halfmoon::hub
