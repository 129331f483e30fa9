// SPDX-License-Identifier: Apache-2.0
#include "transfer/reader.h"

#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "transfer/shm_path.h"
#include "transfer/tcp_path.h"
#include "transfer/ucx_path.h"

namespace halfmoon::transfer {

namespace {

// Sums over more are left to a worker: at 20 GB/s this takes 3 us, about what handing it over does.
constexpr size_t kInlineSumBytes = 64 << 10;

}  // namespace

Reader::Reader(PathContext context)
    : context_([&] {
        context.sink = this;
        return context;
      }()) {
  auto path = [&](PathKind kind) -> std::unique_ptr<Path>& {
    return paths_[static_cast<size_t>(kind)];
  };
  if (context_.options->allow_shared_memory) {
    path(PathKind::kSharedMemory) = std::make_unique<ShmPath>(context_);
  }
  if (context_.ucx != nullptr) {
    path(PathKind::kUcx) = std::make_unique<UcxPath>(context_, context_.ucx);
  }
  if (context_.options->allow_tcp) path(PathKind::kTcp) = std::make_unique<TcpPath>(context_);
}

void Reader::Start(std::unique_ptr<Job> owned, const Status& status, TimeUs timeout_us) {
  Job& job = *owned;
  jobs_.emplace(job.id(), std::move(owned));
  if (!status.ok()) return Finish(job, status);
  job.deadline = context_.loop->After(timeout_us, [this, &job, timeout_us] {
    job.deadline.reset();
    std::string message = "not done after " + std::to_string(timeout_us / 1000) + " ms, " +
                          std::to_string(job.ranges_left) + " of " +
                          std::to_string(job.num_ranges()) + " ranges are missing";
    if (!job.last_trouble.empty()) message += "; " + job.last_trouble;
    Finish(job, Error(ErrorCode::kDeadlineExceeded, NameOf(job) + ": " + message));
  });
  std::vector<uint32_t> empty;
  for (uint32_t i = 0; i < job.num_ranges(); ++i) {
    if (job.range(i).target.empty()) empty.push_back(i);
  }
  job.state = Job::State::kSwitching;
  for (const uint32_t range : empty) {
    const std::optional<uint64_t> sum = job.range(range).checksum;
    if (sum && *sum != Checksum({})) {
      return Finish(job, Error(ErrorCode::kCorrupt, job.NameOf(range) + " has another checksum"));
    }
    --job.ranges_left;
  }
  Continue(job);
}

void Reader::Cancel(TransferId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Job& job = *found->second;
  Finish(job, Error(ErrorCode::kCancelled, NameOf(job) + ": cancelled"));
}

void Reader::CancelAll(std::function<void()> ended) {
  std::vector<TransferId> ids;
  for (const auto& [id, job] : jobs_) ids.push_back(id);
  for (const TransferId id : ids) Cancel(id);
  if (jobs_.empty()) return ended();
  ended_ = std::move(ended);
}

std::string Reader::NameOf(const Job& job) const {
  if (!job.path) return "transfer";
  return "transfer over " + std::string(PathName(*job.path)) + " " +
         job.descriptor().address(*job.path);
}

Path* Reader::NextPath(const Job& job, std::optional<PathKind> other_than) const {
  Path* avoided = nullptr;
  for (size_t i = 0; i < paths_.size(); ++i) {
    const auto kind = static_cast<PathKind>(i);
    if (paths_[i] == nullptr || job.failed[i] || kind == other_than) continue;
    const std::string& address = job.descriptor().address(kind);
    if (address.empty()) continue;
    if (!paths_[i]->Avoids(address)) return paths_[i].get();
    if (avoided == nullptr) avoided = paths_[i].get();
  }
  return avoided;
}

void Reader::Continue(Job& job) {
  if (job.pins > 0) return;
  if (job.state == Job::State::kEnding) return End(job);
  if (job.ranges_left == 0) return Finish(job, {});
  if (job.state == Job::State::kRunning) return;
  Path* const path = NextPath(job, std::nullopt);
  if (path == nullptr) {
    return Finish(job, Error(ErrorCode::kUnavailable,
                             job.failures.empty() ? "transfer: no path leads to the peer that both "
                                                    "ends have"
                                                  : "transfer: " + job.failures));
  }
  if (job.path && *job.path != path->kind()) ++context_.counters->failovers;
  for (const uint32_t range : std::exchange(job.wrong, {})) job.ReadAgain(range);
  job.Cut(path->limits());
  job.path = path->kind();
  job.state = Job::State::kRunning;
  path->Add(job);
}

void Reader::Leave(Job& job) {
  paths_[static_cast<size_t>(*job.path)]->Remove(job, Suspicion::kNone);
  job.state = Job::State::kSwitching;
  Continue(job);
}

void Reader::PathFailed(Job& job, PathKind path, const Error& error) {
  if (job.state == Job::State::kEnding) return;
  ++context_.counters->path(path).failures;
  job.failed[static_cast<size_t>(path)] = true;
  job.failures += (job.failures.empty() ? "" : "; ") + error.message();
  Leave(job);
}

void Reader::JobFailed(Job& job, const Error& error) { Finish(job, error.WithContext("transfer")); }

void Reader::SliceArrived(Job& job, size_t slice, PathKind path) {
  const Fault fault = context_.options->fault ? context_.options->fault(path) : Fault::kNone;
  if (fault == Fault::kBrokenPath) {
    job.ReturnSlice(slice);
    return PathFailed(job, path, Error(ErrorCode::kUnavailable, NameOf(job) + ": a test says so"));
  }
  if (fault == Fault::kWrongBytes) *job.PiecesOf(slice).front().target ^= std::byte{1};
  context_.counters->path(path).received_bytes += job.slice(slice).bytes;
  std::vector<uint32_t> whole;
  job.Arrived(slice, [&](uint32_t range) { whole.push_back(range); });
  Check(job, whole);
}

void Reader::Check(Job& job, std::span<const uint32_t> whole) {
  std::optional<uint32_t> wrong;
  for (const uint32_t index : whole) {
    const Job::Range& range = job.range(index);
    if (range.checksum && range.target.size() > kInlineSumBytes) {
      ++job.pins;
      context_.workers->Run([this, &job, index, range] {
        const bool right = Checksum(range.target) == *range.checksum;
        context_.loop->Post([this, &job, index, right] { Checked(job, index, right); });
      });
    } else if (!range.checksum || Checksum(range.target) == *range.checksum) {
      --job.ranges_left;
    } else if (wrong && job.range(*wrong).read_again) {
      continue;
    } else {
      if (wrong) job.wrong.push_back(*wrong);
      wrong = index;
    }
  }
  if (wrong) return WrongSum(job, *wrong);
  if (job.ranges_left == 0) Continue(job);
}

void Reader::Checked(Job& job, uint32_t range, bool right) {
  --job.pins;
  if (job.state == Job::State::kEnding) return Continue(job);
  if (!right) return WrongSum(job, range);
  --job.ranges_left;
  Continue(job);
}

void Reader::WrongSum(Job& job, uint32_t range) {
  ++context_.counters->path(*job.path).failures;
  const std::string what = job.NameOf(range) + " arrived with another checksum";
  if (job.range(range).read_again) {
    return Finish(job, Error(ErrorCode::kCorrupt, NameOf(job) + ": " + what));
  }
  job.wrong.push_back(range);
  job.failures += (job.failures.empty() ? "" : "; ") + NameOf(job) + ": " + what;
  // Once more, over another path where there is one.
  if (NextPath(job, *job.path) != nullptr) job.failed[static_cast<size_t>(*job.path)] = true;
  Leave(job);
}

void Reader::Unpinned(Job& job) {
  --job.pins;
  if (job.state == Job::State::kRunning) {
    // A copy that nobody waited for has returned its slice.
    if (job.has_missing()) paths_[static_cast<size_t>(*job.path)]->More(job);
    return;
  }
  Continue(job);
}

void Reader::Finish(Job& job, Status status) {
  if (job.state == Job::State::kEnding) return;
  job.state = Job::State::kEnding;
  if (job.deadline) context_.loop->CancelTimer(*job.deadline);
  job.deadline.reset();
  const bool stalled = !status.ok() && status.error().code() == ErrorCode::kDeadlineExceeded;
  job.outcome = std::move(status);
  if (job.path) {
    paths_[static_cast<size_t>(*job.path)]->Remove(
        job, stalled ? Suspicion::kStalled : Suspicion::kNone);
  }
  Continue(job);
}

void Reader::End(Job& job) {
  const auto found = jobs_.find(job.id());
  const std::unique_ptr<Job> owned = std::move(found->second);
  jobs_.erase(found);
  --context_.counters->active;
  if (!owned->outcome->ok()) ++context_.counters->failed_reads;
  owned->RunDone(std::move(*owned->outcome));
  if (jobs_.empty() && ended_) std::exchange(ended_, {})();
}

}  // namespace halfmoon::transfer
