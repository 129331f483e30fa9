// SPDX-License-Identifier: Apache-2.0
// The flags for the folder of cached weights, shared by what loads models and what looks after the
// folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "model/weight_cache.h"

namespace halfmoon::app {

struct WeightCacheFlags {
  std::string folder;       ///< empty: DefaultWeightCacheFolder()
  uint64_t size_bytes = 0;  ///< 0: half of what is free
  bool enabled = true;
};

/// $XDG_CACHE_HOME/halfmoon/weights, else ~/.cache/halfmoon/weights; empty where neither is set.
std::string DefaultWeightCacheFolder();

/// Adds --weight-cache-dir and --weight-cache-size.
void AddWeightCacheFolderOptions(CLI::App* command, WeightCacheFlags* flags);
/// Adds these and --no-cache.
void AddWeightCacheOptions(CLI::App* command, WeightCacheFlags* flags);

/// Owns a cache, and at its end says so if writing it out takes long. Move-only.
class WeightCacheOwner {
 public:
  WeightCacheOwner() = default;
  /// None where the flags say so, or there is no folder to be had.
  explicit WeightCacheOwner(const WeightCacheFlags& flags);
  WeightCacheOwner(WeightCacheOwner&&) = default;
  WeightCacheOwner& operator=(WeightCacheOwner&&) = default;
  ~WeightCacheOwner();

  /// nullptr: none.
  model::WeightCache* get() const { return cache_.get(); }
  /// Returns when nothing is left to be written.
  void WaitSaved() const;

 private:
  std::unique_ptr<model::WeightCache> cache_;
};

}  // namespace halfmoon::app
