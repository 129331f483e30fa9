// SPDX-License-Identifier: Apache-2.0
// One file of cached weights: mapped, or in the making.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "base/file_mapping.h"
#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/weight_file.h"

namespace halfmoon::model {

/// What WeightKey::FileName appends for each flag that is set.
inline constexpr std::array<std::string_view, 3> kKeyFlags = {".experts", ".mtp", ".expanded"};

/// Everything that decides what packed weights are.
struct WeightKey {
  std::string content;  ///< Checkpoint::fingerprint()
  std::vector<checkpoint::SourceFile> sources;
  std::string layout;       ///< kernels::PackedLayoutName of the ISA
  std::string description;  ///< digest of a description file; empty: the family's own
  // What is in it beside the rest: a file with more serves who needs less.
  bool experts = false;   ///< routed experts
  bool mtp = false;       ///< the draft layer
  bool expanded = false;  ///< matrices of expanded MLA prefill

  /// In words; equal for equal weights but for the three flags.
  std::string Text() const;
  /// Name of the file in the folder.
  std::string FileName() const;
};

/// A file of the cache, mapped. Immutable but for the reading ahead; thread-safe. While it lives,
/// the file is marked as in use.
class CachedWeights {
 public:
  CachedWeights(FileDescriptor fd, FileMapping mapping, WeightTable table);
  CachedWeights(const CachedWeights&) = delete;
  CachedWeights& operator=(const CachedWeights&) = delete;
  ~CachedWeights();

  const WeightTable& table() const { return table_; }
  size_t size_bytes() const { return mapping_.size_bytes(); }
  /// The matrix, as a view of the mapping.
  kernels::PackedMatrix View(const FiledMatrix& matrix) const;
  /// Starts a thread that reads the file from front to back, so that steps need not wait for it.
  void ReadAhead();

 private:
  FileDescriptor fd_;  // has the lock
  FileMapping mapping_;
  WeightTable table_;
  std::atomic<bool> stop_{false};
  std::thread reader_;
};

/// A file of the cache in the making: the loader packs into it. Loading thread only.
class WeightBuilder {
 public:
  WeightBuilder(std::unique_ptr<FileArena> arena, WeightKey key)
      : arena_(std::move(arena)), key_(std::move(key)) {}

  /// Memory for a matrix. Errors: those of FileArena::Allocate; full() is then true.
  Result<std::span<std::byte>> Allocate(size_t size_bytes);
  /// Enters what was packed into such memory.
  void Add(std::string name, const kernels::PackedMatrix& packed);
  void Add(std::string name, std::span<const float> vector);
  /// Whether the file could not take a matrix.
  bool full() const { return full_; }

 private:
  friend class WeightCache;
  std::shared_ptr<FileArena> arena_;
  WeightKey key_;
  WeightTable table_;
  bool full_ = false;
};

}  // namespace halfmoon::model
