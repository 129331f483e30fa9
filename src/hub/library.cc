// SPDX-License-Identifier: Apache-2.0
#include "hub/library.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "hub/cache_paths.h"
#include "hub/listing.h"
#include "hub/ollama.h"
#include "hub/selection.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxLicenseBytes = 1 << 20;
constexpr std::string_view kIncomplete = ".incomplete";
constexpr std::array kHubs = {HubKind::kHuggingFace, HubKind::kModelScope, HubKind::kOllama};

std::vector<fs::path> FoldersIn(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) found.push_back(it->path());
    if (found.size() >= kMaxFiles) break;
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool IsFolderWithFiles(const fs::path& folder) {
  std::error_code error;
  return fs::is_directory(folder, error) && !fs::is_empty(folder, error) && !error;
}

bool HoldsIncompleteFile(const fs::path& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().filename().string().ends_with(kIncomplete)) return true;
  }
  return false;
}

std::vector<Snapshot> HuggingFaceSnapshots(const Environment& environment, std::string_view id) {
  const HuggingFaceFolder repository(environment, id);
  std::map<std::string, std::vector<std::string>> refs;  // by commit
  for (const std::string& ref : FilesBelow(repository.refs())) {
    refs[repository.CommitOf(ref)].push_back(ref);
  }
  std::vector<Snapshot> snapshots;
  for (const fs::path& folder : FoldersIn(repository.snapshots())) {
    const std::string commit = folder.filename();
    const std::vector<std::string>& names = refs[commit];
    snapshots.push_back(
        {.hub = HubKind::kHuggingFace,
         .id = std::string(id),
         .revision = commit,
         .refs = names,
         .folder = folder,
         .is_default = std::find(names.begin(), names.end(), kHuggingFaceRevision) != names.end()});
  }
  return snapshots;
}

std::vector<Snapshot> ModelScopeSnapshots(const Environment& environment, std::string_view id) {
  const ModelScopeFolder repository(environment, id);
  std::vector<Snapshot> snapshots;
  for (const fs::path& folder : FoldersIn(repository.snapshots())) {
    const std::string revision = folder.filename();
    snapshots.push_back({.hub = HubKind::kModelScope,
                         .id = std::string(id),
                         .revision = revision,
                         .refs = {},
                         .folder = folder,
                         .is_default = revision == kModelScopeRevision});
  }
  if (!snapshots.empty()) return snapshots;
  for (const fs::path& folder : repository.OlderPlaces()) {
    if (!IsFolderWithFiles(folder)) continue;
    return {{.hub = HubKind::kModelScope,
             .id = std::string(id),
             .revision = {},
             .refs = {},
             .folder = folder,
             .is_default = true}};
  }
  return {};
}

CachedModel Base(const Snapshot& snapshot) {
  CachedModel model;
  model.name.id = snapshot.id;
  if (!snapshot.is_default) {
    model.name.revision = snapshot.refs.empty() ? snapshot.revision : snapshot.refs.front();
  }
  model.hub = snapshot.hub;
  model.revision = snapshot.revision;
  model.folder = snapshot.folder;
  return model;
}

void AddSizes(CachedModel* model) {
  for (const std::string& file : model->weights) {
    std::error_code error;
    const uint64_t size = fs::file_size(model->folder / file, error);
    if (!error) model->size_bytes += size;
  }
}

CachedModel SafetensorsModel(const Snapshot& snapshot, const std::set<std::string>& files) {
  CachedModel model = Base(snapshot);
  model.format = "safetensors";
  model.path = snapshot.folder;
  if (files.contains(std::string(kSingleFile))) {
    model.weights = {std::string(kSingleFile)};
    AddSizes(&model);
    return model;
  }
  const Result<std::string> text = ReadTextFile(snapshot.folder / kShardIndex, kMaxIndexBytes);
  const Result<std::vector<std::string>> shards =
      text.ok() ? ParseShardIndex(*text) : Result<std::vector<std::string>>(text.error());
  if (!shards.ok()) {
    model.missing = "a readable " + std::string(kShardIndex) + ": " + shards.error().message();
    return model;
  }
  std::string first;
  for (const std::string& shard : *shards) {
    if (files.contains(shard)) {
      model.weights.push_back(shard);
    } else if (first.empty()) {
      first = shard;
    }
  }
  if (!first.empty()) {
    model.missing = std::to_string(shards->size() - model.weights.size()) + " of " +
                    std::to_string(shards->size()) + " shards, the first is " + first;
  }
  AddSizes(&model);
  return model;
}

CachedModel FromGguf(const Snapshot& snapshot, const GgufModel& gguf, bool quant_is_unique) {
  CachedModel model = Base(snapshot);
  model.format = "gguf";
  model.stem = gguf.stem;
  model.name.quant = quant_is_unique ? gguf.quant : gguf.stem;
  model.weights = gguf.paths;
  model.path = snapshot.folder / gguf.paths.front();
  if (!gguf.complete()) {
    model.missing = std::to_string(gguf.num_parts - gguf.paths.size()) + " of " +
                    std::to_string(gguf.num_parts) + " parts";
  }
  AddSizes(&model);
  return model;
}

/// The one that the name's quant, or no quant, chooses; `models` are of one snapshot or tag list.
Result<CachedModel> Choose(const std::vector<CachedModel>& models, const ModelName& name) {
  std::vector<GgufModel> gguf;
  for (const CachedModel& model : models) {
    if (model.format == "safetensors" && (name.quant.empty() || name.quant == "safetensors")) {
      return model;
    }
    if (model.format != "gguf") continue;
    gguf.push_back({.quant = QuantOfFileName(model.stem), .stem = model.stem, .paths = {}});
    if (model.hub == HubKind::kOllama) {
      gguf.back().quant = model.stem;
      if (model.stem == "latest" && name.quant.empty()) return model;
    }
  }
  if (gguf.empty()) {
    return Error(ErrorCode::kNotFound, "no GGUF model '" + name.quant + "' beside safetensors");
  }
  HM_ASSIGN(const GgufModel chosen, ChooseGguf(gguf, name.quant));
  return *std::find_if(models.begin(), models.end(),
                       [&](const CachedModel& model) { return model.stem == chosen.stem; });
}

/// Those of the revision that was asked for.
std::vector<CachedModel> OfRevision(const Environment& environment, HubKind hub,
                                    std::vector<CachedModel> models, const ModelName& name) {
  if (models.empty() || hub == HubKind::kOllama) return models;
  std::string revision = name.revision;
  if (hub == HubKind::kHuggingFace && !revision.empty()) {
    revision = HuggingFaceFolder(environment, name.id).CommitOf(revision);
    if (revision.empty()) return {};
  }
  if (revision.empty()) {
    // Without a known default the only version is meant.
    const auto found = std::find_if(models.begin(), models.end(),
                                    [](const auto& model) { return model.name.revision.empty(); });
    revision = found == models.end() ? models.front().revision : found->revision;
    const bool only = std::all_of(models.begin(), models.end(), [&](const CachedModel& model) {
      return model.revision == revision;
    });
    if (found == models.end() && !only) return {};
  }
  std::erase_if(models, [&](const CachedModel& model) { return model.revision != revision; });
  return models;
}

}  // namespace

std::vector<std::string> FilesBelow(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (!it->is_regular_file(ignored)) continue;
    files.push_back(it->path().lexically_relative(folder).generic_string());
    if (files.size() >= kMaxFiles) break;
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<Snapshot> SnapshotsOf(const Environment& environment, HubKind hub,
                                  std::string_view id) {
  std::vector<Snapshot> snapshots;
  if (hub == HubKind::kHuggingFace) snapshots = HuggingFaceSnapshots(environment, id);
  if (hub == HubKind::kModelScope) snapshots = ModelScopeSnapshots(environment, id);
  const auto found = std::find_if(snapshots.begin(), snapshots.end(),
                                  [](const Snapshot& snapshot) { return snapshot.is_default; });
  if (found != snapshots.end()) std::rotate(snapshots.begin(), found, found + 1);
  return snapshots;
}

std::vector<CachedModel> ModelsIn(const Snapshot& snapshot) {
  const std::vector<std::string> listed = FilesBelow(snapshot.folder);
  const std::set<std::string> files(listed.begin(), listed.end());
  std::vector<CachedModel> models;
  if (files.contains(std::string(kSingleFile)) || files.contains(std::string(kShardIndex))) {
    models.push_back(SafetensorsModel(snapshot, files));
  }
  const std::vector<GgufModel> gguf = GroupGguf(listed);
  std::map<std::string, int> quants;
  for (const GgufModel& model : gguf) ++quants[model.quant];
  for (const GgufModel& model : gguf) {
    models.push_back(FromGguf(snapshot, model, !model.quant.empty() && quants[model.quant] == 1));
  }
  return models;
}

std::vector<CachedModel> ModelsOf(const Environment& environment, HubKind hub,
                                  std::string_view id) {
  if (hub == HubKind::kOllama) return OllamaModels(environment, id);
  std::vector<CachedModel> models;
  for (const Snapshot& snapshot : SnapshotsOf(environment, hub, id)) {
    for (CachedModel& model : ModelsIn(snapshot)) models.push_back(std::move(model));
  }
  if (!models.empty()) return models;
  const fs::path root = hub == HubKind::kHuggingFace ? HuggingFaceFolder(environment, id).root()
                                                     : ModelScopeFolder(environment, id).root();
  if (HoldsIncompleteFile(root)) {
    CachedModel begun;
    begun.name.id = id;
    begun.hub = hub;
    begun.folder = root;
    begun.missing = "the weights: a download was begun";
    models.push_back(std::move(begun));
  }
  return models;
}

std::vector<CachedModel> ListModels(const Environment& environment) {
  std::vector<CachedModel> models;
  const auto add = [&](std::vector<CachedModel> more) {
    std::move(more.begin(), more.end(), std::back_inserter(models));
  };
  for (const fs::path& folder : FoldersIn(environment.hf_cache)) {
    const std::string id = IdOfHuggingFaceFolder(folder.filename().string());
    if (!id.empty()) add(ModelsOf(environment, HubKind::kHuggingFace, id));
  }
  for (const std::string& id : ModelScopeIds(environment)) {
    add(ModelsOf(environment, HubKind::kModelScope, id));
  }
  add(OllamaModels(environment, ""));
  return models;
}

Result<CachedModel> FindModel(const Environment& environment, const ModelName& name,
                              std::optional<HubKind> hub) {
  std::optional<Error> failure;
  for (const HubKind kind : kHubs) {
    if (hub && kind != *hub) continue;
    const std::vector<CachedModel> models =
        OfRevision(environment, kind, ModelsOf(environment, kind, name.id), name);
    if (models.empty()) continue;
    std::string missing = models.front().missing;
    if (!models.front().format.empty()) {
      Result<CachedModel> chosen = Choose(models, name);
      if (chosen.ok() && chosen->missing.empty()) return chosen;
      if (!chosen.ok()) {
        if (!failure) failure = chosen.error().WithContext(name.ToString());
        continue;
      }
      missing = chosen->missing;
    }
    failure = Error(ErrorCode::kUnavailable,
                    name.ToString() + " is here only in part; missing: " + missing +
                        ". `halfmoon pull " + name.ToString() + "` goes on with it");
  }
  if (failure) return *failure;
  return Error(ErrorCode::kNotFound, name.ToString() +
                                         " is not in the caches of this machine; `halfmoon pull " +
                                         name.ToString() + "` fetches it");
}

License LicenseOf(const CachedModel& model) {
  if (model.hub != HubKind::kOllama) return LicenseOfFolder(model.folder);
  if (model.license_text.empty()) return {};
  const Result<std::string> text = ReadTextFile(model.license_text, kMaxLicenseBytes);
  return {.name = text.ok() ? LicenseFromText(*text) : "", .link = ""};
}

std::vector<fs::path> FindContent(const Environment& environment, std::string_view id,
                                  const RemoteFile& file) {
  std::vector<fs::path> found;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (!error && (!file.size_bytes || size == *file.size_bytes)) found.push_back(path);
  };
  for (const fs::path& folder : FoldersIn(environment.hf_cache)) {
    if (folder.filename().string().starts_with("models--")) add(folder / "blobs" / file.sha256);
  }
  for (const fs::path& store : environment.ollama_models) add(OllamaBlob(store, file.sha256));
  const ModelScopeFolder folder(environment, id);
  for (const fs::path& snapshot : FoldersIn(folder.snapshots())) add(snapshot / file.path);
  for (const fs::path& place : folder.OlderPlaces()) add(place / file.path);
  return found;
}

}  // namespace halfmoon::hub
