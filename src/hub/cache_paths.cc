// SPDX-License-Identifier: Apache-2.0
#include "hub/cache_paths.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "net/digest.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kModelsPrefix = "models--";

std::string WithDashes(std::string_view id) {
  std::string name(id);
  if (const size_t slash = name.find('/'); slash != std::string::npos) {
    name.replace(slash, 1, "--");
  }
  return name;
}

Error IoError(const fs::path& path, std::string_view what, const std::error_code& error) {
  return Error(ErrorCode::kIo, path.string() + ": " + std::string(what) + ": " + error.message());
}

}  // namespace

HuggingFaceFolder::HuggingFaceFolder(const Environment& environment, std::string_view id)
    : cache_(environment.hf_cache), root_(cache_ / (std::string(kModelsPrefix) + WithDashes(id))) {}

fs::path HuggingFaceFolder::locks() const { return cache_ / ".locks" / root_.filename(); }

fs::path HuggingFaceFolder::Lock(std::string_view blob) const {
  return locks() / (std::string(blob) + ".lock");
}

std::string HuggingFaceFolder::CommitOf(std::string_view revision) const {
  constexpr size_t kMaxRefBytes = 256;
  const auto is_commit = [](std::string_view text) { return IsHex(text, 40); };
  if (Result<std::string> ref = ReadTextFile(refs() / revision, kMaxRefBytes); ref.ok()) {
    while (!ref->empty() && (ref->back() == '\n' || ref->back() == '\r')) ref->pop_back();
    if (is_commit(*ref)) return *ref;
  }
  std::error_code error;
  if (is_commit(revision) && fs::is_directory(snapshots() / revision, error)) {
    return std::string(revision);
  }
  return "";
}

std::string IdOfHuggingFaceFolder(std::string_view folder) {
  if (!folder.starts_with(kModelsPrefix)) return "";
  std::string id(folder.substr(kModelsPrefix.size()));
  if (const size_t dashes = id.find("--"); dashes != std::string::npos) {
    id.replace(dashes, 2, "/");
  }
  const Result<ModelName> name = ModelName::Parse(id);
  return name.ok() && name->quant.empty() && name->revision.empty() ? id : "";
}

ModelScopeFolder::ModelScopeFolder(const Environment& environment, std::string_view id)
    : cache_(environment.modelscope_cache), root_(cache_ / "models" / WithDashes(id)), id_(id) {}

Result<fs::path> ModelScopeFolder::Lock(std::string_view path) const {
  HM_ASSIGN(net::Digest digest, net::Digest::Start(net::DigestKind::kSha256));
  for (const std::string_view part :
       {std::string_view("modelscope-hub-download-lock-v2"), std::string_view("file"),
        std::string_view("model"), std::string_view(id_)}) {
    digest.Update(part);
    digest.Update({"\0", 1});
  }
  digest.Update(path);
  return cache_ / ".lock" / ("file_" + digest.Finish() + ".lock");
}

std::vector<fs::path> ModelScopeFolder::OlderPlaces() const {
  const size_t slash = id_.find('/');
  if (slash == std::string::npos) return {};
  const std::string owner = id_.substr(0, slash);
  const std::string name = id_.substr(slash + 1);
  std::string safe;
  for (const char c : name) safe += c == '.' ? std::string("___") : std::string(1, c);
  std::vector<fs::path> places;
  for (const fs::path& base :
       {cache_ / "models", cache_ / "hub" / "models", cache_, cache_ / "hub"}) {
    places.push_back(base / owner / safe);
    if (safe != name) places.push_back(base / owner / name);
  }
  return places;
}

std::vector<std::string> ModelScopeIds(const Environment& environment) {
  const fs::path& cache = environment.modelscope_cache;
  const auto names_in = [](const fs::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      std::error_code ignored;
      if (it->is_directory(ignored)) names.push_back(it->path().filename().string());
    }
    return names;
  };
  std::set<std::string> ids;
  const auto add = [&](std::string owner, const std::string& name) {
    const Result<ModelName> parsed = ModelName::Parse(owner.append("/").append(name));
    if (parsed.ok() && parsed->id == owner) ids.insert(parsed->id);
  };
  for (const std::string& folder : names_in(cache / "models")) {
    if (const size_t dashes = folder.find("--"); dashes != std::string::npos) {
      add(folder.substr(0, dashes), folder.substr(dashes + 2));
    }
  }
  const std::set<std::string> other_kinds = {"hub",  "models", "datasets", "studios",
                                             "mcps", "skills", "agent",    "credentials"};
  for (const fs::path& base : {cache / "models", cache / "hub" / "models", cache, cache / "hub"}) {
    for (const std::string& owner : names_in(base)) {
      if (other_kinds.contains(owner) || owner.find("--") != std::string::npos) continue;
      for (std::string name : names_in(base / owner)) {
        for (size_t at = name.find("___"); at != std::string::npos; at = name.find("___", at)) {
          name.replace(at, 3, ".");
        }
        add(owner, name);
      }
    }
  }
  return {ids.begin(), ids.end()};
}

Status MakeFolders(const fs::path& folder, const fs::path& below) {
  std::error_code error;
  fs::create_directories(below, error);
  if (error) return IoError(below, "cannot create the folder", error);
  fs::path at = below;
  for (const fs::path& part : folder.lexically_relative(below)) {
    if (part == ".") continue;
    at /= part;
    const fs::file_status status = fs::symlink_status(at, error);
    if (fs::is_directory(status)) continue;
    if (fs::is_symlink(status)) {
      return Error(ErrorCode::kCorrupt,
                   at.string() + ": a link where a folder belongs: not followed");
    }
    fs::create_directory(at, error);
    if (error) return IoError(at, "cannot create the folder", error);
  }
  return {};
}

Status LinkToBlob(const fs::path& blob, const fs::path& link, const fs::path& below) {
  HM_TRY(MakeFolders(link.parent_path(), below));
  const fs::path target = blob.lexically_relative(link.parent_path());
  std::error_code error;
  if (fs::read_symlink(link, error) == target && !error) return {};
  // Made aside and renamed over: whoever opens the path finds the old file or the new one.
  const fs::path temporary = link.parent_path() / (link.filename().string() + ".link");
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  // File systems without links get a second name of the file, or a copy.
  if (error) fs::create_hard_link(blob, temporary, error);
  if (error) fs::copy_file(blob, temporary, error);
  if (error) return IoError(link, "cannot link to its content", error);
  fs::rename(temporary, link, error);
  if (error) return IoError(link, "cannot rename into place", error);
  return {};
}

}  // namespace halfmoon::hub
