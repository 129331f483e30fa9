// SPDX-License-Identifier: Apache-2.0
// `halfmoon pull`: a model from a hub into that hub's cache.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/hub_options.h"
#include "apps/halfmoon/interrupt.h"
#include "apps/halfmoon/runtime.h"
#include "apps/halfmoon/transfer_meter.h"
#include "base/clock.h"
#include "hub/pull.h"

namespace halfmoon::app {
namespace {

struct PullCommandOptions {
  std::string name;
  std::string hub = "huggingface";
  bool dry_run = false;
};

/// Draws progress on stderr: a line that is redrawn on a terminal, else one every few seconds.
class PullDisplay {
 public:
  void Show(const hub::PullProgress& progress) {
    const TimeUs now = MonotonicClock().NowUs();
    // What was here already says nothing about the line: its rate begins with each file fetched.
    if (progress.doing != hub::Doing::kFetching) meter_ = TransferMeter(progress.done_bytes, now);
    meter_.Update(progress.done_bytes, now);
    // Small files come and go too fast to be read.
    const TimeUs interval_us = terminal_ ? 200'000 : 5'000'000;
    if (now - shown_us_ < interval_us) return;
    shown_us_ = now;
    const std::string line = Word(progress.doing) + "  " + hub::OneLine(progress.file, 48) + "  " +
                             meter_.Text(progress.total_bytes);
    std::fprintf(stderr, terminal_ ? "\r%s\x1b[K" : "%s\n", line.c_str());
    drawn_ = terminal_;
  }

  /// A line of its own, between drawings.
  void Say(const std::string& message) {
    End();
    std::fprintf(stderr, "%s\n", message.c_str());
  }

  void End() {
    if (drawn_) std::fprintf(stderr, "\r\x1b[K");
    drawn_ = false;
  }

 private:
  static std::string Word(hub::Doing doing) {
    switch (doing) {
      case hub::Doing::kChecking:
        return "checking";
      case hub::Doing::kFetching:
        return "fetching";
      case hub::Doing::kWaiting:
        return "another pull is at";
    }
    return "";
  }

  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  TransferMeter meter_{0, MonotonicClock().NowUs()};
  TimeUs shown_us_ = MonotonicClock().NowUs();
  bool drawn_ = false;
};

void PrintPullPlan(const hub::PullPlan& plan, const std::string& hub) {
  std::string what = plan.selection.format;
  if (!plan.selection.quant.empty()) what += " " + plan.selection.quant;
  std::fprintf(stderr, "model    %s at %s, %s (%s, %zu files)\n", plan.name.id.c_str(),
               hub::OneLine(plan.repository.commit, 40).c_str(), hub.c_str(),
               hub::OneLine(what).c_str(), plan.files.size());
  std::fprintf(stderr, "licence  %s\n", hub::LicenseLine(plan.license).c_str());
  std::string others;
  for (const std::string& quant : plan.selection.other_quants) {
    others += (others.empty() ? "" : ", ") + hub::OneLine(quant);
  }
  if (!others.empty()) {
    std::fprintf(stderr, "others   %s (choose with :NAME)\n", hub::OneLine(others, 400).c_str());
  }
  uint64_t elsewhere = 0;
  for (const hub::PlannedFile& file : plan.files) {
    if (file.state == hub::FileState::kElsewhere) elsewhere += *file.file.size_bytes;
  }
  std::string size =
      hub::SizeText(plan.total_bytes) + ", " + hub::SizeText(plan.fetch_bytes) + " to fetch";
  if (elsewhere > 0) size += ", " + hub::SizeText(elsewhere) + " taken from other caches";
  std::fprintf(stderr, "size     %s; %s of disk free\n", size.c_str(),
               hub::SizeText(plan.free_bytes).c_str());
}

int FailPull(const Error& error) {
  if (error.code() != ErrorCode::kCancelled) return Fail(error);
  std::fprintf(stderr,
               "halfmoon: interrupted; what has arrived is kept, the same command goes on\n");
  return kExitInterrupted;
}

int RunPull(const PullCommandOptions& options) {
  const Result<hub::ModelName> name = hub::ModelName::Parse(options.name);
  if (!name.ok()) {
    std::fprintf(stderr, "halfmoon: %s\n", name.error().message().c_str());
    return kExitUsage;
  }
  const hub::Environment environment = hub::Environment::FromProcess();
  WatchInterrupts();
  std::optional<PullDisplay> display;
  hub::PullOptions pull{.hub = *HubNamed(options.hub)};
  pull.fetch.user_agent = "halfmoon/" HALFMOON_VERSION;
  pull.fetch.interrupted = [] { return InterruptFlag().load(); };
  pull.fetch.on_retry = [&](const std::string& message) {
    if (display) {
      display->Say(hub::OneLine(message, 400));
    } else {
      std::fprintf(stderr, "%s\n", hub::OneLine(message, 400).c_str());
    }
  };
  hub::Puller puller(&environment, std::move(pull));
  const Result<hub::PullPlan> plan = puller.Plan(*name);
  if (!plan.ok()) return FailPull(plan.error());
  PrintPullPlan(*plan, options.hub);
  if (options.dry_run) return kExitOk;

  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  display.emplace();
  const Status done =
      puller.Run(*plan, [&](const hub::PullProgress& progress) { display->Show(progress); });
  display->End();
  if (!done.ok()) return FailPull(done.error());
  if (plan->fetch_bytes > 0) {
    const double seconds = static_cast<double>(clock.NowUs() - begin) * 1e-6;
    std::fprintf(stderr, "fetched  %s in %s, digests right\n",
                 hub::SizeText(plan->fetch_bytes).c_str(), DurationText(seconds).c_str());
  } else {
    std::fprintf(stderr, "here     nothing had to be fetched\n");
  }
  std::fprintf(stderr, "next     halfmoon run -m %s 'Why is the sky blue?'\n",
               name->ToString().c_str());
  std::printf("%s\n", plan->model.c_str());
  return kExitOk;
}

}  // namespace

void AddPullCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<PullCommandOptions>();
  CLI::App* command = app->add_subcommand("pull", "Fetch a model from a hub");
  command
      ->add_option("name", options->name,
                   "org/name, with @revision for a branch, tag or commit and :quant for one of "
                   "several GGUF files")
      ->required();
  AddHubOption(command, &options->hub, {"huggingface", "modelscope"},
               "Who is asked: huggingface or modelscope");
  command->get_option("--hub")->capture_default_str();
  command->add_flag("--dry-run", options->dry_run,
                    "Only show licence, size and free disk; fetch nothing");
  command->footer(
      "Files go into the cache that the hub's own tools use, so that both share them; docs/hub.md\n"
      "says where. What other caches hold already is not fetched again. A pull that broke off, or\n"
      "that Ctrl-C ended, is gone on with by the same command; each file is checked against the\n"
      "hub's digest before it counts. The path of the model goes to standard output.\n\n"
      "Environment: HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE;\n"
      "MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE; https_proxy, no_proxy.\n\n"
      "Examples:\n"
      "  halfmoon pull Qwen/Qwen3-30B-A3B\n"
      "  halfmoon pull Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M\n"
      "  halfmoon pull --hub modelscope Qwen/Qwen3-30B-A3B");
  command->callback([options, action] { *action = [options] { return RunPull(*options); }; });
}

}  // namespace halfmoon::app
