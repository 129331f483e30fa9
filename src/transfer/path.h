// SPDX-License-Identifier: Apache-2.0
// A way to read slices from peers, and who is told of what became of them.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"
#include "transfer/job.h"

namespace halfmoon::transfer {

/// Whether a job that leaves a path suspects its connections: a deadline that passed does.
enum class Suspicion { kNone, kStalled };

/// Loop thread only. Calls may remove jobs from paths, and end them.
class PathSink {
 public:
  virtual ~PathSink() = default;
  virtual void SliceArrived(Job& job, size_t slice, PathKind path) = 0;
  /// The job has been removed from the path, which cannot give it what is missing.
  virtual void PathFailed(Job& job, PathKind path, const Error& error) = 0;
  /// No path can give it: the segment has gone.
  virtual void JobFailed(Job& job, const Error& error) = 0;
  /// A worker has let go of the job's targets.
  virtual void Unpinned(Job& job) = 0;
};

/// Loop thread only.
class Path {
 public:
  virtual ~Path() = default;
  virtual PathKind kind() const = 0;
  virtual SliceLimits limits() const = 0;
  /// Not long ago it did not lead there: others are tried first.
  virtual bool Avoids(const std::string&) const { return false; }
  /// Reads the job's missing slices, until Remove.
  virtual void Add(Job& job) = 0;
  /// More are missing than before.
  virtual void More(Job& job) = 0;
  /// Returns slices on their way to the job. Only pinned ones may still write to its targets.
  virtual void Remove(Job& job, Suspicion suspicion) = 0;
};

}  // namespace halfmoon::transfer
