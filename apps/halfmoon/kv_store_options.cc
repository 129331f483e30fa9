// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/kv_store_options.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <utility>

#include "apps/halfmoon/runtime.h"
#include "kernels/paged_kv.h"

namespace halfmoon::app {
namespace {

double Gib(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

}  // namespace

void AddKvStoreOptions(CLI::App* command, KvStoreFlags* flags) {
  command
      ->add_option("--kv-cache-dir", flags->folder,
                   "Folder on a fast disk that keeps the KV of prompts, so that an equal beginning "
                   "is read back instead of computed, after a restart too; needs --kv-disk. One "
                   "process at a time (docs/kv_store.md)")
      ->group("Machine");
  command
      ->add_option("--kv-disk", flags->disk_bytes,
                   "Most that folder may take, such as 20G; what was used longest ago goes first")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->group("Machine");
  command
      ->add_option("--kv-pool", flags->pool_bytes,
                   "Memory beside --kv-memory for the KV of prompts that nobody uses now, such as "
                   "4G: faster than the disk (default: none)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->group("Machine");
}

Result<std::unique_ptr<store::TieredStore>> OpenKvStore(const KvStoreFlags& flags,
                                                        bool track_changes,
                                                        const model::Model& model,
                                                        const Clock* clock) {
  if (!flags.wanted()) return std::unique_ptr<store::TieredStore>();
  if (flags.folder.empty() != (flags.disk_bytes == 0)) {
    return Error(ErrorCode::kInvalidArgument,
                 flags.folder.empty()
                     ? "--kv-disk says how much --kv-cache-dir may take; give that too"
                     : "--kv-cache-dir needs --kv-disk, the most it may take, such as 20G");
  }
  const size_t available = AvailableMemoryBytes();
  if (available > 0 && flags.pool_bytes > available) {
    return Error(ErrorCode::kResourceExhausted,
                 "--kv-pool: " + std::to_string(flags.pool_bytes >> 20) +
                     " MiB were asked for and " + std::to_string(available >> 20) +
                     " MiB are free");
  }
  const kernels::KvLayout& layout = model.kv_layout();
  store::TieredStoreOptions options{
      .scope = {.model_fingerprint = model.fingerprint(),
                .kv_format_version = kernels::kKvFormatVersion,
                .block_size = static_cast<uint32_t>(layout.block_size),
                .page_bytes = layout.page_bytes()},
      .pool_bytes = flags.pool_bytes,
      .disk_bytes = flags.disk_bytes,
      .catalog = {.track_changes = track_changes}};
  if (!flags.folder.empty()) {
    auto folder = store::OpenSegmentFolder({.path = flags.folder});
    if (!folder.ok()) return folder.error().WithContext("--kv-cache-dir");
    options.folder = std::move(folder).value();
  }
  auto opened = store::TieredStore::Open(std::move(options), clock);
  if (!opened.ok()) {
    return opened.error().WithContext(flags.folder.empty() ? "--kv-pool" : "--kv-disk");
  }
  return opened;
}

void PrintKvStore(const KvStoreFlags& flags, const store::TieredStore& store) {
  const store::StoreStats stats = store.Stats();
  std::fprintf(stderr, "kv store ");
  if (flags.pool_bytes > 0) {
    std::fprintf(stderr, " %.2f GiB of memory (--kv-pool)%s", Gib(flags.pool_bytes),
                 flags.folder.empty() ? "" : ";");
  }
  if (!flags.folder.empty()) {
    std::fprintf(stderr, " %.2f GiB on disk (--kv-disk), %s in %s: %llu blocks found, %.2f GiB",
                 Gib(flags.disk_bytes), store.disk_method().c_str(), flags.folder.c_str(),
                 static_cast<unsigned long long>(stats.found.blocks), Gib(stats.found.bytes));
    if (stats.found.other_bytes > 0) {
      std::fprintf(stderr, ", and %.2f GiB of other models", Gib(stats.found.other_bytes));
    }
  }
  std::fprintf(stderr, "\n");
}

}  // namespace halfmoon::app
