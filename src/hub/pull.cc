// SPDX-License-Identifier: Apache-2.0
#include "hub/pull.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "hub/cache_paths.h"
#include "hub/file_lock.h"
#include "hub/library.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

// A pull that leaves the disk full to the last byte helps nobody.
constexpr uint64_t kSpareBytes = 64 << 20;
// Small files are not worth the search of other caches.
constexpr uint64_t kSharedFrom = 1 << 20;

/// Size of a regular file, also behind links; 0 where there is none.
uint64_t SizeOf(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

bool HasSize(const fs::path& path, uint64_t size) {
  std::error_code error;
  return fs::is_regular_file(path, error) && SizeOf(path) == size;
}

/// The nearest folder above that exists.
fs::path Existing(fs::path folder) {
  std::error_code error;
  while (!fs::is_directory(folder, error) && folder.has_relative_path()) {
    folder = folder.parent_path();
  }
  return folder;
}

const fs::path& CacheOf(const Environment& environment, HubKind hub) {
  return hub == HubKind::kHuggingFace ? environment.hf_cache : environment.modelscope_cache;
}

}  // namespace

struct Puller::RunState {
  std::function<void(const PullProgress&)> report;
  PullProgress at;
  uint64_t before_bytes = 0;  ///< of the files that are done
};

Puller::Puller(const Environment* environment, PullOptions options)
    : environment_(environment),
      options_(std::move(options)),
      client_(environment, options_.hub, options_.fetch) {}

Result<uint64_t> Puller::FreeBytes(const fs::path& folder) const {
  const fs::path existing = Existing(folder);
  if (options_.free_bytes) return options_.free_bytes(existing);
  std::error_code error;
  const fs::space_info space = fs::space(existing, error);
  if (error) {
    return Error(ErrorCode::kIo,
                 existing.string() + ": cannot ask for free space: " + error.message());
  }
  return space.available;
}

Result<License> Puller::FindLicense(const Repository& repository) {
  if (!repository.license.empty()) {
    return License{.name = repository.license, .link = repository.license_link};
  }
  // ModelScope's list does not say; both hubs take it from the model card.
  for (const RemoteFile& file : repository.files) {
    if (file.path != "README.md") continue;
    HM_ASSIGN(const std::string card, client_.ReadSmall(repository, file));
    return LicenseFromModelCard(card);
  }
  return License();
}

Result<PullPlan> Puller::Plan(const ModelName& name) {
  if (environment_->offline) {
    return Error(ErrorCode::kUnavailable,
                 "offline mode is on (HF_HUB_OFFLINE): nothing is fetched");
  }
  PullPlan plan;
  plan.name = name;
  HM_ASSIGN(plan.repository, client_.List(name));
  HM_ASSIGN(plan.selection,
            SelectFiles(plan.repository, name.quant, [this, &plan](const RemoteFile& file) {
              return client_.ReadSmall(plan.repository, file);
            }));
  HM_ASSIGN(plan.license, FindLicense(plan.repository));
  plan.snapshot =
      options_.hub == HubKind::kHuggingFace
          ? HuggingFaceFolder(*environment_, name.id).snapshots() / plan.repository.commit
          : ModelScopeFolder(*environment_, name.id).snapshots() / plan.repository.commit;
  plan.model =
      plan.selection.weights.empty() ? plan.snapshot : plan.snapshot / plan.selection.weights;
  for (const RemoteFile& file : plan.selection.files) {
    HM_ASSIGN(PlannedFile planned, PlanFile(plan, file));
    const uint64_t size = *planned.file.size_bytes;
    plan.total_bytes += size;
    if (planned.state == FileState::kMissing) {
      plan.fetch_bytes += size - planned.resumed_bytes;
    }
    plan.files.push_back(std::move(planned));
  }
  plan.needed_bytes = plan.fetch_bytes == 0 ? 0 : plan.fetch_bytes + kSpareBytes;
  HM_ASSIGN(plan.free_bytes, FreeBytes(plan.snapshot));
  return plan;
}

Result<PlannedFile> Puller::PlanFile(const PullPlan& plan, RemoteFile file) {
  HM_TRY(client_.Complete(plan.repository, &file));
  PlannedFile planned;
  if (options_.hub == HubKind::kHuggingFace) {
    const HuggingFaceFolder folder(*environment_, plan.name.id);
    const std::string& blob = file.sha256.empty() ? file.git_sha1 : file.sha256;
    planned.content = folder.blobs() / blob;
    planned.lock = folder.Lock(blob);
    planned.link = plan.snapshot / file.path;
  } else {
    planned.content = plan.snapshot / file.path;
    HM_ASSIGN(planned.lock, ModelScopeFolder(*environment_, plan.name.id).Lock(file.path));
  }
  planned.incomplete = planned.content.string() + ".incomplete";
  const uint64_t size = *file.size_bytes;
  if (HasSize(planned.content, size)) {
    planned.state = FileState::kPresent;
  } else {
    planned.resumed_bytes = std::min(SizeOf(planned.incomplete), size);
    if (!file.sha256.empty() && size >= kSharedFrom) {
      planned.candidates = FindContent(*environment_, plan.name.id, file);
      std::erase(planned.candidates, planned.content);
      if (!planned.candidates.empty()) planned.state = FileState::kElsewhere;
    }
  }
  planned.file = std::move(file);
  return planned;
}

Status Puller::Run(const PullPlan& plan, const std::function<void(const PullProgress&)>& progress) {
  if (plan.needed_bytes > plan.free_bytes) {
    const bool hugging_face = options_.hub == HubKind::kHuggingFace;
    return Error(ErrorCode::kResourceExhausted,
                 plan.name.ToString() + " needs " + SizeText(plan.needed_bytes) +
                     " of free disk, " + CacheOf(*environment_, options_.hub).string() + " has " +
                     SizeText(plan.free_bytes) + "; " +
                     (hugging_face ? "HF_HUB_CACHE" : "MODELSCOPE_CACHE") +
                     " names another place, `halfmoon rm` makes room");
  }
  RunState state{.report = progress, .at = {.total_bytes = plan.total_bytes}};
  for (const PlannedFile& file : plan.files) {
    state.at.file = file.file.path;
    HM_TRY(FetchFile(plan, file, &state));
    state.before_bytes += *file.file.size_bytes;
  }
  // Only now does the name lead to this version: until then it leads to the one before.
  const std::string revision = client_.RevisionOf(plan.name);
  if (options_.hub != HubKind::kHuggingFace || revision == plan.repository.commit) return {};
  const HuggingFaceFolder folder(*environment_, plan.name.id);
  const fs::path ref = folder.refs() / revision;
  HM_TRY(MakeFolders(ref.parent_path(), environment_->hf_cache));
  return WriteFileAtomic(ref, plan.repository.commit);
}

Status Puller::FetchFile(const PullPlan& plan, const PlannedFile& file, RunState* state) {
  const fs::path& cache = CacheOf(*environment_, options_.hub);
  const uint64_t size = *file.file.size_bytes;
  const FileProgress report = [&](Doing doing, uint64_t done_bytes) {
    state->at.doing = doing;
    state->at.done_bytes = state->before_bytes + done_bytes;
    if (state->report) state->report(state->at);
    return !options_.fetch.IsInterrupted();
  };
  if (!report(Doing::kChecking, 0)) return Error(ErrorCode::kCancelled, "interrupted");
  HM_ASSIGN(const FileLock lock,
            FileLock::Take(file.lock, [&] { return report(Doing::kWaiting, 0); }));
  // Looked at again under the lock: another pull may have brought it meanwhile.
  bool present = HasSize(file.content, size);
  if (present && options_.hub == HubKind::kModelScope) {
    // The name of a file says nothing about its content there.
    const Status same = VerifyFile(file.content, file.file, report);
    if (!same.ok() && same.error().code() != ErrorCode::kCorrupt) return same;
    present = same.ok();
  }
  if (!present) {
    HM_TRY(MakeFolders(file.content.parent_path(), cache));
    const std::string what = plan.name.id + ": " + file.file.path;
    const DownloadTask task{.name = what,
                            .target = client_.TargetOf(plan.repository, file.file.path),
                            .file = file.file,
                            .incomplete = file.incomplete,
                            .destination = file.content,
                            .candidates = file.candidates};
    HM_TRY(Download(
        &client_.fetcher(), task,
        [&](const FetchAnswer& answer) { return client_.StatusError(what, answer); }, report));
  }
  if (file.link.empty()) return {};
  return LinkToBlob(file.content, file.link, cache);
}

}  // namespace halfmoon::hub
