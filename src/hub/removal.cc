// SPDX-License-Identifier: Apache-2.0
#include "hub/removal.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "hub/cache_paths.h"
#include "hub/library.h"
#include "hub/listing.h"
#include "hub/ollama.h"
#include "hub/selection.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxManifestBytes = 1 << 20;

/// Adds what goes with `path` to the bytes that come free, or that stay in the shared store.
void Count(const fs::path& path, Removal* removal) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return;
  if (S_ISREG(info.st_mode) && info.st_nlink == 1) {
    removal->freed_bytes += static_cast<uint64_t>(info.st_size);
  }
  if (S_ISLNK(info.st_mode) && path.parent_path().filename() == "blobs") {
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (!error) removal->shared_bytes += size;
  }
}

void AddFolder(const fs::path& folder, Removal* removal) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(folder, error))) return;
  removal->folders.push_back(folder);
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    Count(it->path(), removal);
  }
}

/// The file of blobs/ that an entry of a snapshot is a link to; empty where it is none.
fs::path BlobOf(const fs::path& entry, const fs::path& blobs) {
  std::error_code error;
  const fs::path target = fs::read_symlink(entry, error);
  if (error) return {};
  const fs::path blob = (entry.parent_path() / target).lexically_normal();
  return blob.parent_path() == blobs.lexically_normal() ? blob : fs::path();
}

/// What goes of the snapshots of one repository.
struct Going {
  std::vector<const Snapshot*> whole;
  std::vector<fs::path> files;  ///< of snapshots that stay
  bool everything = false;
};

bool Matches(const CachedModel& model, const std::string& quant) {
  if (model.format == "safetensors") return quant == "safetensors";
  const Result<GgufModel> chosen =
      ChooseGguf({{.quant = QuantOfFileName(model.stem), .stem = model.stem, .paths = {}}}, quant);
  return chosen.ok();
}

Result<Going> ChooseGoing(const Environment& environment, const std::vector<Snapshot>& snapshots,
                          const ModelName& name, Removal* removal) {
  Going going;
  std::string revision = name.revision;
  if (!revision.empty() && removal->hub == HubKind::kHuggingFace) {
    revision = HuggingFaceFolder(environment, name.id).CommitOf(revision);
  }
  for (const Snapshot& snapshot : snapshots) {
    if (!name.revision.empty() && snapshot.revision != revision) continue;
    size_t staying = 0;
    std::vector<CachedModel> leaving;
    for (CachedModel& model : ModelsIn(snapshot)) {
      if (name.quant.empty() || Matches(model, name.quant)) {
        leaving.push_back(std::move(model));
      } else {
        ++staying;
      }
    }
    if (leaving.empty() && !name.quant.empty()) continue;
    for (const CachedModel& model : leaving) removal->models.push_back(model.name.ToString());
    if (staying == 0) {
      going.whole.push_back(&snapshot);
      continue;
    }
    for (const CachedModel& model : leaving) {
      for (const std::string& file : model.weights) going.files.push_back(snapshot.folder / file);
    }
  }
  if (going.whole.empty() && going.files.empty()) {
    return Error(ErrorCode::kNotFound, name.ToString() + " is not in the cache of " +
                                           std::string(HubKindName(removal->hub)));
  }
  going.everything = going.whole.size() == snapshots.size();
  return going;
}

void PlanHuggingFace(const Environment& environment, const std::vector<Snapshot>& snapshots,
                     const ModelName& name, const Going& going, Removal* removal) {
  const HuggingFaceFolder folder(environment, name.id);
  if (going.everything) {
    AddFolder(folder.root(), removal);
    AddFolder(folder.locks(), removal);
    return;
  }
  std::set<fs::path> staying;
  std::set<fs::path> leaving;
  for (const Snapshot& snapshot : snapshots) {
    const bool whole =
        std::find(going.whole.begin(), going.whole.end(), &snapshot) != going.whole.end();
    for (const std::string& file : FilesBelow(snapshot.folder)) {
      const fs::path entry = snapshot.folder / file;
      const bool leaves =
          whole || std::find(going.files.begin(), going.files.end(), entry) != going.files.end();
      if (const fs::path blob = BlobOf(entry, folder.blobs()); !blob.empty()) {
        (leaves ? leaving : staying).insert(blob);
      } else if (leaves && !whole) {
        Count(entry, removal);
      }
    }
    if (!whole) continue;
    AddFolder(snapshot.folder, removal);
    for (const std::string& ref : snapshot.refs) removal->links.push_back(folder.refs() / ref);
  }
  removal->links.insert(removal->links.end(), going.files.begin(), going.files.end());
  for (const fs::path& blob : leaving) {
    if (staying.contains(blob)) continue;
    removal->contents.push_back(blob);
    Count(blob, removal);
  }
}

void PlanModelScope(const Environment& environment, const ModelName& name, const Going& going,
                    Removal* removal) {
  const fs::path root = ModelScopeFolder(environment, name.id).root();
  if (going.everything) AddFolder(root, removal);
  for (const Snapshot* snapshot : going.whole) {
    const bool inside = !snapshot->folder.lexically_relative(root).string().starts_with("..");
    if (!going.everything || !inside) AddFolder(snapshot->folder, removal);
  }
  for (const fs::path& file : going.files) {
    removal->links.push_back(file);
    Count(file, removal);
  }
}

Status PlanOllama(const Environment& environment, const ModelName& name, Removal* removal) {
  std::vector<fs::path> going;
  for (const CachedModel& model : OllamaModels(environment, name.id)) {
    if (!name.quant.empty() && model.name.quant != name.quant) continue;
    going.push_back(model.folder);
    removal->models.push_back(model.name.ToString());
  }
  if (going.empty()) {
    return Error(ErrorCode::kNotFound, name.ToString() + " is not in the store of Ollama");
  }
  removal->links = going;
  for (const fs::path& store : environment.ollama_models) {
    std::set<std::string> staying;
    std::set<std::string> leaving;
    for (const fs::path& manifest : OllamaManifests(store)) {
      const bool leaves = std::find(going.begin(), going.end(), manifest) != going.end();
      const Result<std::string> text = ReadTextFile(manifest, kMaxManifestBytes);
      const Result<std::vector<std::string>> digests =
          text.ok() ? ParseOllamaDigests(*text) : Result<std::vector<std::string>>(text.error());
      // Whose manifest cannot be read may use anything.
      if (!digests.ok()) return digests.error().WithContext(manifest.string());
      (leaves ? leaving : staying).insert(digests->begin(), digests->end());
    }
    for (const std::string& digest : leaving) {
      if (staying.contains(digest)) continue;
      removal->contents.push_back(OllamaBlob(store, digest));
      Count(removal->contents.back(), removal);
    }
  }
  return {};
}

Result<HubKind> ChooseHub(const Environment& environment, const ModelName& name,
                          std::optional<HubKind> hub) {
  std::vector<HubKind> holding;
  for (const HubKind kind : {HubKind::kHuggingFace, HubKind::kModelScope, HubKind::kOllama}) {
    if (hub && kind != *hub) continue;
    if (!ModelsOf(environment, kind, name.id).empty() ||
        !SnapshotsOf(environment, kind, name.id).empty()) {
      holding.push_back(kind);
    }
  }
  if (holding.empty()) {
    return Error(ErrorCode::kNotFound, name.id + " is not in the caches of this machine");
  }
  if (holding.size() == 1) return holding.front();
  std::string names;
  for (const HubKind kind : holding) {
    names += (names.empty() ? "" : ", ") + std::string(HubKindName(kind));
  }
  return Error(ErrorCode::kInvalidArgument,
               name.id + " is in several caches (" + names + "); choose one with --hub");
}

}  // namespace

Result<Removal> PlanRemoval(const Environment& environment, const ModelName& name,
                            std::optional<HubKind> hub) {
  Removal removal;
  HM_ASSIGN(removal.hub, ChooseHub(environment, name, hub));
  if (removal.hub == HubKind::kOllama) {
    HM_TRY(PlanOllama(environment, name, &removal));
    return removal;
  }
  const std::vector<Snapshot> snapshots = SnapshotsOf(environment, removal.hub, name.id);
  Going going;
  if (snapshots.empty() && name.revision.empty() && name.quant.empty()) {
    going.everything = true;  // A download that was begun.
  } else {
    HM_ASSIGN(going, ChooseGoing(environment, snapshots, name, &removal));
  }
  if (removal.models.empty()) removal.models.push_back(name.ToString());
  if (removal.hub == HubKind::kHuggingFace) {
    PlanHuggingFace(environment, snapshots, name, going, &removal);
  } else {
    PlanModelScope(environment, name, going, &removal);
  }
  return removal;
}

Status Remove(const Removal& removal) {
  const auto failed = [](const fs::path& path, const std::error_code& error) {
    return Error(ErrorCode::kIo, path.string() + ": cannot remove: " + error.message());
  };
  std::error_code error;
  for (const fs::path& link : removal.links) {
    fs::remove(link, error);
    if (error) return failed(link, error);
  }
  for (const fs::path& folder : removal.folders) {
    fs::remove_all(folder, error);
    if (error) return failed(folder, error);
  }
  for (const fs::path& content : removal.contents) {
    fs::remove(content, error);
    if (error) return failed(content, error);
  }
  return {};
}

}  // namespace halfmoon::hub
