// SPDX-License-Identifier: Apache-2.0
// `halfmoon version`: what this binary is.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/embedded_files.h"
#include "kernels/isa.h"

namespace halfmoon::app {

void AddVersionCommand(CLI::App* app, Action* action) {
  CLI::App* command = app->add_subcommand("version", "Print version and kernels");
  command->callback([action] {
    *action = [] {
      std::string isas;
      for (const kernels::Isa isa : kernels::AvailableIsas()) {
        isas += " " + std::string(kernels::IsaName(isa));
      }
      std::printf("halfmoon %s\ncommit: %s\nkernels:%s\ncompiler: %s\nlicence: Apache-2.0\n",
                  HALFMOON_VERSION, std::string(BuildCommit()).c_str(), isas.c_str(), __VERSION__);
      return static_cast<int>(kExitOk);
    };
  });
}

}  // namespace halfmoon::app
