// SPDX-License-Identifier: Apache-2.0
// `halfmoon list` and `halfmoon show`: what the caches on this machine hold.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/hub_options.h"
#include "apps/halfmoon/model_source.h"
#include "apps/halfmoon/runtime.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "hub/library.h"

namespace halfmoon::app {
namespace {

struct ListOptions {
  std::string hub;
  bool json = false;
};

struct ShowOptions {
  std::string model;
  bool json = false;
};

json::object ToJson(const hub::CachedModel& model) {
  json::object o;
  o["name"] = hub::OneLine(model.name.ToString());
  o["hub"] = hub::HubKindName(model.hub);
  o["revision"] = hub::OneLine(model.revision);
  o["format"] = model.format;
  o["size_bytes"] = model.size_bytes;
  o["path"] = hub::OneLine(model.path.string(), 4096);
  o["missing"] = hub::OneLine(model.missing);
  return o;
}

int RunList(const ListOptions& options) {
  std::vector<hub::CachedModel> models = hub::ListModels(hub::Environment::FromProcess());
  if (const auto hub = HubNamed(options.hub)) {
    std::erase_if(models, [&](const hub::CachedModel& model) { return model.hub != *hub; });
  }
  if (options.json) {
    json::array all;
    for (const hub::CachedModel& model : models) all.push_back(ToJson(model));
    std::printf("%s\n", json::Serialize(all).c_str());
    return kExitOk;
  }
  if (models.empty()) {
    std::fprintf(stderr, "no models in the caches; `halfmoon pull org/name` fetches one\n");
    return kExitOk;
  }
  std::vector<std::string> names;
  size_t width = 4;
  for (const hub::CachedModel& model : models) {
    names.push_back(hub::OneLine(model.name.ToString()));
    width = std::max(width, names.back().size());
  }
  std::printf("%-*s  %9s  %-11s  %s\n", static_cast<int>(width), "NAME", "SIZE", "FORMAT", "HUB");
  for (size_t i = 0; i < models.size(); ++i) {
    const hub::CachedModel& model = models[i];
    std::printf("%-*s  %9s  %-11s  %s%s\n", static_cast<int>(width), names[i].c_str(),
                hub::SizeText(model.size_bytes).c_str(), model.format.c_str(),
                std::string(hub::HubKindName(model.hub)).c_str(),
                model.missing.empty() ? "" : "  (incomplete)");
  }
  return kExitOk;
}

/// What the configuration says in a few words.
std::string Summary(const checkpoint::Checkpoint& checkpoint) {
  const json::object& config = checkpoint.config();
  const auto number = [&](const char* key, const char* unit) {
    const Result<std::optional<int64_t>> found = json::FindInt(config, key);
    return found.ok() && *found ? ", " + std::to_string(**found) + unit : std::string();
  };
  const Result<std::optional<std::string>> type = json::FindString(config, "model_type");
  return (type.ok() ? hub::OneLine(type->value_or("unknown")) : "unknown") +
         number("num_hidden_layers", " layers") +
         number("max_position_embeddings", " tokens of context");
}

int RunShow(const ShowOptions& options) {
  Result<ModelSource> source = FindModelSource(options.model);
  if (!source.ok()) return Fail(source.error());
  const Result<std::unique_ptr<checkpoint::Checkpoint>> opened = checkpoint::Open(source->path);
  if (!opened.ok()) return Fail(opened.error());
  const checkpoint::Checkpoint& checkpoint = **opened;
  const hub::License license = LicenseOf(checkpoint, *source);
  if (options.json) {
    json::object o;
    o["name"] = hub::OneLine(source->name);
    o["path"] = hub::OneLine(source->path.string(), 4096);
    o["format"] = checkpoint.format();
    o["size_bytes"] = checkpoint.size_bytes();
    o["license"] = hub::OneLine(license.name);
    o["license_note"] = hub::LicenseNote(license);
    o["config"] = checkpoint.config();
    std::printf("%s\n", json::Serialize(o).c_str());
    return kExitOk;
  }
  std::printf("name     %s\n", hub::OneLine(source->name).c_str());
  std::printf("path     %s\n", source->path.c_str());
  std::printf("model    %s\n", Summary(checkpoint).c_str());
  std::printf("weights  %s, %s\n", hub::SizeText(checkpoint.size_bytes()).c_str(),
              std::string(checkpoint.format()).c_str());
  std::printf("licence  %s\n", hub::LicenseLine(license).c_str());
  return kExitOk;
}

}  // namespace

void AddListCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* command =
      app->add_subcommand("list", "List the models that the caches on this machine hold");
  AddHubOption(command, &options->hub, {"huggingface", "modelscope", "ollama"},
               "Only one cache: huggingface, modelscope or ollama (default: all)");
  command->add_flag("--json", options->json, "One JSON array, for programs");
  command->footer(
      "The caches of Hugging Face, ModelScope and Ollama are read, whoever filled them\n"
      "(docs/hub.md). Each name can be given to -m, show and rm as it stands.");
  command->callback([options, action] { *action = [options] { return RunList(*options); }; });
}

void AddShowCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<ShowOptions>();
  CLI::App* command =
      app->add_subcommand("show", "Show what a model is, where it lies, its licence");
  command->add_option("model", options->model, "A name as `halfmoon list` has it, or a path")
      ->required();
  command->add_flag("--json", options->json, "One JSON object, for programs");
  command->footer("Example:\n  halfmoon show Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M");
  command->callback([options, action] { *action = [options] { return RunShow(*options); }; });
}

}  // namespace halfmoon::app
