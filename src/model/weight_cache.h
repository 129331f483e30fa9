// SPDX-License-Identifier: Apache-2.0
// Weights in kernel layout, kept on disk between starts: a folder of files (weight_file.h), written
// once and mapped afterwards.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/file_mapping.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/cached_weights.h"
#include "model/weight_file.h"

namespace halfmoon::model {

struct WeightCacheOptions {
  std::filesystem::path folder;
  /// Of all files together; 0: half of what the file system has free beside them.
  uint64_t budget_bytes = 0;
  /// Asked while a file is written: true gives it up. May be empty. Any thread.
  std::function<bool()> give_up = {};
};

/// One file of the folder.
struct WeightCacheEntry {
  std::filesystem::path path;
  uint64_t size_bytes = 0;
  int64_t used_ns = 0;  ///< when it was last used, since 1970
  std::vector<std::string> sources;
  Status status;  ///< what is wrong with it
};

/// The folder. Any number of processes may share it. Nothing here fails a start: what goes wrong is
/// a line in the log, and the weights are packed in memory as without a cache. Thread-safe.
class WeightCache {
 public:
  explicit WeightCache(WeightCacheOptions options);
  WeightCache(const WeightCache&) = delete;
  WeightCache& operator=(const WeightCache&) = delete;
  /// Waits until all that is being saved is on the disk, or given up.
  ~WeightCache();

  const std::filesystem::path& folder() const { return options_.folder; }
  /// Bytes that all files together may take.
  uint64_t BudgetBytes() const;

  /// The weights of `key`, or nullptr: not there, or damaged. Checks the table, and the data of
  /// small files whole, of larger ones in samples.
  std::shared_ptr<CachedWeights> Find(const WeightKey& key, ThreadPool* pool);
  /// A new file for about `expected_bytes` of weights, or nullptr: no room for it, a folder that
  /// cannot be written, or another process is at it.
  std::unique_ptr<WeightBuilder> Begin(const WeightKey& key, size_t expected_bytes);
  /// Writes a builder's file out and under its name, in the background; makes room in the folder.
  /// Returns the memory, which has become read-only.
  std::shared_ptr<const FileArena> Save(std::unique_ptr<WeightBuilder> builder);
  /// Waits as the destructor does, up to `seconds`; false where it took longer.
  bool WaitSaved(double seconds);
  /// Gives up what is still being saved.
  void GiveUp() { give_up_ = true; }

  /// All files of the folder, oldest use first; with `check`, every byte is compared with its
  /// checksum.
  std::vector<WeightCacheEntry> List(bool check, ThreadPool* pool) const;
  /// Removes files whose checkpoints are gone, which no process uses; the bytes that frees.
  uint64_t RemoveOrphans();

 private:
  struct Saving {
    std::thread thread;
    std::atomic<bool> done{false};
  };

  Status WriteOut(FileArena* arena, WeightTable table);
  /// Removes what can be of no more use, then what was used longest ago, until `keep` and the rest
  /// are within the budget.
  void Trim(const std::filesystem::path& keep);
  bool GivenUp() const { return give_up_ || (options_.give_up && options_.give_up()); }

  const WeightCacheOptions options_;
  std::atomic<bool> give_up_{false};
  std::mutex mutex_;
  std::vector<std::unique_ptr<Saving>> savings_;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::model
