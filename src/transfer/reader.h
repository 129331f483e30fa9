// SPDX-License-Identifier: Apache-2.0
// The reader's end: chooses a path for each job, moves it to another where one fails, checks sums,
// keeps deadlines.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>

#include "transfer/reader_path.h"

namespace halfmoon::transfer {

/// Loop thread only.
class Reader final : public PathSink {
 public:
  /// `context` without its sink. The paths are those that the options allow.
  explicit Reader(PathContext context);

  /// Runs the job until it ends; `status` is that of its ranges and descriptor.
  void Start(std::unique_ptr<Job> job, const Status& status, TimeUs timeout_us);
  void Cancel(TransferId id);
  /// Cancels all and calls `ended` when they have.
  void CancelAll(std::function<void()> ended);

  void SliceArrived(Job& job, size_t slice, PathKind path) override;
  void PathFailed(Job& job, PathKind path, const Error& error) override;
  void JobFailed(Job& job, const Error& error) override;
  void Unpinned(Job& job) override;

 private:
  // Each may end the job.
  void Check(Job& job, std::span<const uint32_t> whole);
  void Checked(Job& job, uint32_t range, bool right);
  void WrongSum(Job& job, uint32_t range);
  void Leave(Job& job);
  void Continue(Job& job);
  void Finish(Job& job, Status status);

  Path* NextPath(const Job& job, std::optional<PathKind> other_than) const;
  void End(Job& job);
  std::string NameOf(const Job& job) const;

  const PathContext context_;
  std::array<std::unique_ptr<Path>, kNumPaths> paths_;  // by PathKind
  std::map<TransferId, std::unique_ptr<Job>> jobs_;
  std::function<void()> ended_;
};

}  // namespace halfmoon::transfer
