// SPDX-License-Identifier: Apache-2.0
// `halfmoon chat`: a conversation on the terminal, with history.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <iostream>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/conversation.h"
#include "apps/halfmoon/interrupt.h"

namespace halfmoon::app {
namespace {

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling{.temperature = 0.7f, .top_p = 0.9f};
  std::string system;
};

enum class Input { kMessage, kEnd };

/// The next message; a line ending in a backslash goes on in the next.
Input ReadMessage(bool terminal, std::string* message) {
  message->clear();
  if (terminal) std::fprintf(stderr, "> ");
  for (std::string line; std::getline(std::cin, line);) {
    if (line.ends_with('\\')) {
      line.back() = '\n';
      *message += line;
      if (terminal) std::fprintf(stderr, ". ");
      continue;
    }
    *message += line;
    return Input::kMessage;
  }
  return message->empty() ? Input::kEnd : Input::kMessage;
}

int RunChat(const ChatOptions& options) {
  Result<std::unique_ptr<Runtime>> loaded =
      LoadRuntime(options.model, /*tokenizer_required=*/true, TerminalProgress());
  if (!loaded.ok()) return Fail(loaded.error());
  Runtime& runtime = **loaded;
  const Status started = StartEngine(options.model, 1, &runtime);
  if (!started.ok()) return Fail(started.error());
  PrintPlan(options.model, runtime);
  if (!runtime.chat_template.has_value()) {
    std::fprintf(stderr,
                 "note     this model has no chat template: messages are continued as text\n");
  }
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) {
    std::fprintf(
        stderr,
        "\nType a message; \\ at the end of a line goes on. /reset forgets, /exit or Ctrl-D "
        "ends, Ctrl-C stops an answer.\n");
  }
  WatchInterrupts();
  Conversation conversation(&runtime, &options.sampling, options.system);
  std::string message;
  while (ReadMessage(terminal, &message) == Input::kMessage) {
    if (message == "/exit" || message == "/quit" || message == "/bye") return kExitOk;
    if (message == "/reset" || message == "/clear") {
      conversation.Reset();
      std::fprintf(stderr, "forgotten\n");
      continue;
    }
    if (message.empty()) continue;
    Result<AnswerStats> stats = conversation.Ask(message, InterruptFlag());
    InterruptFlag() = false;
    if (!stats.ok()) {
      // The conversation goes on: a message that does not fit may be shortened, or the history
      // forgotten.
      std::fprintf(stderr, "halfmoon: %s (/reset forgets the history)\n",
                   stats.error().message().c_str());
      continue;
    }
    std::fprintf(stderr, "%s\n", Summary(*stats).c_str());
  }
  if (terminal) std::fputc('\n', stderr);
  return InterruptFlag().load() ? kExitInterrupted : kExitOk;
}

}  // namespace

void AddChatCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app->add_subcommand("chat", "Hold a conversation on the terminal");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation);
  AddKvStoreOptions(command, &options->model.kv_store);
  AddSamplingOptions(command, &options->sampling);
  command->add_option("--system", options->system, "System prompt");
  command->callback([options, action] { *action = [options] { return RunChat(*options); }; });
}

}  // namespace halfmoon::app
