// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/weight_cache_options.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "apps/halfmoon/cache_folder.h"
#include "apps/halfmoon/interrupt.h"

namespace halfmoon::app {

std::string DefaultWeightCacheFolder() {
  const std::filesystem::path cache = CacheFolder();
  return cache.empty() ? "" : (cache / "weights").string();
}

void AddWeightCacheFolderOptions(CLI::App* command, WeightCacheFlags* flags) {
  command
      ->add_option("--weight-cache-dir", flags->folder,
                   "Folder that keeps weights as kernels read them, for the next start (default: "
                   "$XDG_CACHE_HOME/halfmoon/weights or ~/.cache/halfmoon/weights)")
      ->group("Machine");
  command
      ->add_option("--weight-cache-size", flags->size_bytes,
                   "Most that folder may take, such as 200G; what was used longest ago goes first "
                   "(default: half of what the disk has free beside it)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->group("Machine");
}

void AddWeightCacheOptions(CLI::App* command, WeightCacheFlags* flags) {
  AddWeightCacheFolderOptions(command, flags);
  command
      ->add_flag("!--no-cache", flags->enabled,
                 "Prepare the weights in memory at every start, and neither read nor write that "
                 "folder")
      ->group("Machine");
}

WeightCacheOwner::WeightCacheOwner(const WeightCacheFlags& flags) {
  const std::string folder = flags.folder.empty() ? DefaultWeightCacheFolder() : flags.folder;
  if (!flags.enabled || folder.empty()) return;
  cache_ = std::make_unique<model::WeightCache>(
      model::WeightCacheOptions{.folder = folder, .budget_bytes = flags.size_bytes, .give_up = [] {
                                  return InterruptFlag().load();
                                }});
}

void WeightCacheOwner::WaitSaved() const {
  while (cache_ != nullptr && !cache_->WaitSaved(1.0)) {
  }
}

WeightCacheOwner::~WeightCacheOwner() {
  if (cache_ == nullptr || cache_->WaitSaved(1.0)) return;
  std::fprintf(stderr,
               "halfmoon: writing prepared weights to %s for the next start; Ctrl-C skips it\n",
               cache_->folder().c_str());
  while (!cache_->WaitSaved(0.1)) {
    // Where signals are handled, their flag gives up; a server has them blocked.
    sigset_t pending;
    if (::sigpending(&pending) != 0) continue;
    if (::sigismember(&pending, SIGINT) == 1 || ::sigismember(&pending, SIGTERM) == 1) {
      cache_->GiveUp();
    }
  }
}

}  // namespace halfmoon::app
