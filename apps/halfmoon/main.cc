// SPDX-License-Identifier: Apache-2.0
// halfmoon: the command line. Parses, dispatches, turns exceptions into messages; everything else
// is in the areas.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/model_options.h"
#include "base/log.h"

namespace halfmoon::app {
namespace {

/// llama.cpp's two-letter short flags, which the parser would read as one letter and its value.
std::string LongSpelling(std::string_view argument) {
  if (argument == "-np") return "--parallel";
  if (argument == "-nb") return "--batch-size";
  if (argument == "-md") return "--model-draft";
  if (argument == "-ctk") return "--cache-type-k";
  if (argument == "-ctv") return "--cache-type-v";
  return std::string(argument);
}

int Main(int argc, char** argv) {
  CLI::App app(
      "halfmoon serves open Mixture-of-Experts language models on the hardware you have.\n"
      "Answers go to standard output, everything else to standard error.",
      "halfmoon");
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of every command");
  app.fallthrough();
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str();
  app.set_config("--config", "", "Read flags from a TOML file; [serve] sections per command");
  app.footer(
      "Every flag can also be set as HALFMOON_<FLAG> in the environment (--ctx-size: "
      "HALFMOON_CTX_SIZE).\n"
      "Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 130 interrupted.\n\n"
      "Try:\n"
      "  halfmoon run -m model.gguf 'Why is the sky blue?'\n"
      "  halfmoon serve -m model.gguf\n"
      "  halfmoon pull Qwen/Qwen3-30B-A3B\n"
      "  halfmoon <command> --help");

  Action action;
  AddRunCommand(&app, &action);
  AddChatCommand(&app, &action);
  AddServeCommand(&app, &action);
  AddConductorCommand(&app, &action);
  AddPullCommand(&app, &action);
  AddListCommand(&app, &action);
  AddShowCommand(&app, &action);
  AddRmCommand(&app, &action);
  AddBenchCommand(&app, &action);
  AddLogitsCommand(&app, &action);
  AddGenerateCommand(&app, &action);
  AddPerplexityCommand(&app, &action);
  AddQuantizeCommand(&app, &action);
  AddSimCommand(&app, &action);
  AddDoctorCommand(&app, &action);
  AddVersionCommand(&app, &action);
  AddEnvironmentNames(&app);
  for (CLI::App* command : app.get_subcommands({})) AddEnvironmentNames(command);

  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i)
    arguments.push_back(LongSpelling(argv[i]));  // CLI11 wants them reversed
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const Status logging = InitLogging(log_level);
  if (!logging.ok()) {
    std::fprintf(stderr, "halfmoon: --log-level: %s\n", logging.error().message().c_str());
    return kExitUsage;
  }
  return action();
}

}  // namespace
}  // namespace halfmoon::app

int main(int argc, char** argv) {
  // A reader of our output that goes away is an error of one write, not the end of the program.
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return halfmoon::app::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "halfmoon: %s\n", error.what());
    return halfmoon::app::kExitFailure;
  }
}
