// SPDX-License-Identifier: Apache-2.0
// Flags of the KV store behind the engine, and opening what they ask for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "base/clock.h"
#include "base/result.h"
#include "model/model.h"
#include "store/tiered_store.h"

namespace halfmoon::app {

struct KvStoreFlags {
  std::string folder;       ///< empty: nothing on disk
  uint64_t disk_bytes = 0;  ///< needed with a folder
  uint64_t pool_bytes = 0;  ///< 0: no pool in memory

  bool wanted() const { return !folder.empty() || disk_bytes > 0 || pool_bytes > 0; }
};

/// Adds --kv-cache-dir, --kv-disk and --kv-pool.
void AddKvStoreOptions(CLI::App* command, KvStoreFlags* flags);

/// The store for pages of this model; null where the flags ask for none. Errors: kInvalidArgument
/// naming the flag, those of opening the folder and the store.
Result<std::unique_ptr<store::TieredStore>> OpenKvStore(const KvStoreFlags& flags,
                                                        bool track_changes,
                                                        const model::Model& model,
                                                        const Clock* clock);

/// What was found and what may be used: one line on stderr.
void PrintKvStore(const KvStoreFlags& flags, const store::TieredStore& store);

}  // namespace halfmoon::app
