// SPDX-License-Identifier: Apache-2.0
// The commands of `halfmoon`: each adds itself to the command line with its options and help, and
// leaves a function to run.
#pragma once

#include <functional>

#include "apps/halfmoon/cli_app.h"

namespace halfmoon::app {

/// Exit codes, as `halfmoon --help` prints them.
enum ExitCode : int { kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130 };

/// Set by the chosen subcommand while the line is parsed; main runs it after.
using Action = std::function<int()>;

void AddRunCommand(CLI::App* app, Action* action);
void AddChatCommand(CLI::App* app, Action* action);
void AddServeCommand(CLI::App* app, Action* action);
void AddConductorCommand(CLI::App* app, Action* action);
void AddPullCommand(CLI::App* app, Action* action);
void AddListCommand(CLI::App* app, Action* action);
void AddShowCommand(CLI::App* app, Action* action);
void AddRmCommand(CLI::App* app, Action* action);
void AddBenchCommand(CLI::App* app, Action* action);
void AddLogitsCommand(CLI::App* app, Action* action);
void AddGenerateCommand(CLI::App* app, Action* action);
void AddPerplexityCommand(CLI::App* app, Action* action);
void AddQuantizeCommand(CLI::App* app, Action* action);
void AddDoctorCommand(CLI::App* app, Action* action);
void AddSimCommand(CLI::App* app, Action* action);
void AddVersionCommand(CLI::App* app, Action* action);

}  // namespace halfmoon::app
