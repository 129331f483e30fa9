// SPDX-License-Identifier: Apache-2.0
// `halfmoon rm`: a model out of the cache that holds it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/hub_options.h"
#include "apps/halfmoon/runtime.h"
#include "hub/removal.h"

namespace halfmoon::app {
namespace {

struct RmOptions {
  std::string name;
  std::string hub;
  std::string weight_cache_folder;
  bool yes = false;
};

void PrintRemoval(const hub::Removal& removal) {
  const std::string hub(hub::HubKindName(removal.hub));
  for (const std::string& model : removal.models) {
    std::fprintf(stderr, "remove   %s (%s)\n", hub::OneLine(model).c_str(), hub.c_str());
  }
  for (const auto& folder : removal.folders) {
    std::fprintf(stderr, "folder   %s\n", hub::OneLine(folder.string(), 4096).c_str());
  }
  std::fprintf(stderr, "frees    %s\n", hub::SizeText(removal.freed_bytes).c_str());
  if (removal.shared_bytes > 0) {
    std::fprintf(stderr, "stays    %s in the store of `hf`, which `hf cache prune` empties\n",
                 hub::SizeText(removal.shared_bytes).c_str());
  }
}

int RunRm(const RmOptions& options) {
  const Result<hub::ModelName> name = hub::ModelName::Parse(options.name);
  if (!name.ok()) {
    std::fprintf(stderr, "halfmoon: %s\n", name.error().message().c_str());
    return kExitUsage;
  }
  const Result<hub::Removal> removal =
      hub::PlanRemoval(hub::Environment::FromProcess(), *name, HubNamed(options.hub));
  if (!removal.ok()) return Fail(removal.error());
  PrintRemoval(*removal);
  if (!options.yes) {
    if (::isatty(STDIN_FILENO) != 1) {
      std::fprintf(stderr, "halfmoon: nothing removed; without a terminal to ask, --yes says so\n");
      return kExitUsage;
    }
    std::fprintf(stderr, "Remove it? [y/N] ");
    std::string answer;
    std::getline(std::cin, answer);
    if (answer != "y" && answer != "Y" && answer != "yes") {
      std::fprintf(stderr, "nothing removed\n");
      return kExitFailure;
    }
  }
  const Status done = hub::Remove(*removal);
  if (!done.ok()) return Fail(done.error());
  std::fprintf(stderr, "removed\n");
  const WeightCacheOwner cache(WeightCacheFlags{.folder = options.weight_cache_folder});
  const uint64_t freed = cache.get() != nullptr ? cache.get()->RemoveOrphans() : 0;
  if (freed > 0) {
    std::fprintf(stderr, "removed  %s of cached weights too\n", hub::SizeText(freed).c_str());
  }
  return kExitOk;
}

}  // namespace

void AddRmCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<RmOptions>();
  CLI::App* command = app->add_subcommand("rm", "Remove a model from the cache that holds it");
  command
      ->add_option("name", options->name,
                   "A name as `halfmoon list` has it. org/name alone is every version and file of "
                   "it, :quant one GGUF file, @revision one version")
      ->required();
  AddHubOption(command, &options->hub, {"huggingface", "modelscope", "ollama"},
               "The cache, where several hold it: huggingface, modelscope or ollama");
  command->add_option("--weight-cache-dir", options->weight_cache_folder,
                      "Folder of cached weights: those whose model is gone go too (default: where "
                      "models are loaded with)");
  command->add_flag("-y,--yes", options->yes, "Do not ask");
  command->footer(
      "Shows what would go and how much that frees, then asks. Content that another model or\n"
      "version still uses stays.\n\n"
      "Examples:\n"
      "  halfmoon rm Qwen/Qwen3-30B-A3B-GGUF:Q8_0\n"
      "  halfmoon rm --yes Qwen/Qwen3-30B-A3B");
  command->callback([options, action] { *action = [options] { return RunRm(*options); }; });
}

}  // namespace halfmoon::app
