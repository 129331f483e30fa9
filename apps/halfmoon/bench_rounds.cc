// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_rounds.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <utility>

#include "apps/halfmoon/bench_peer.h"
#include "apps/halfmoon/bench_worker.h"
#include "apps/halfmoon/runtime.h"

namespace halfmoon::app {
namespace {

constexpr char kOurs[] = "halfmoon";
constexpr char kPrompt[] = "In one sentence, why does the moon have phases?";
// Short cases run several passes in a turn; long ones run once.
constexpr double kTurnSeconds = 2.0;

/// Processor time of the whole machine since it started, in ticks.
struct CpuTimes {
  double all = 0;
  double stolen = 0;  ///< given to others by the hypervisor
};

CpuTimes ReadCpuTimes() {
  // user nice system idle iowait irq softirq steal; what follows is part of the first two.
  std::ifstream file("/proc/stat");
  std::string label;
  file >> label;
  CpuTimes times;
  for (int i = 0; i < 8; ++i) {
    double ticks = 0;
    file >> ticks;
    times.all += ticks;
    if (i == 7) times.stolen = ticks;
  }
  return times;
}

/// One process of a comparison and what it is called.
struct Side {
  std::string label;
  std::string repack;  ///< empty: ours
  std::unique_ptr<ChildProcess> process;
};

/// Lets a process run for as long as it answers.
Result<json::object> TakeTurn(const BenchOptions& options, ChildProcess* process,
                              const json::object& request) {
  process->Resume();
  Result<json::object> reply =
      AskWorker(process, request, TimeUs{options.answer_limit_s} * 1'000'000);
  process->Pause();
  return reply;
}

json::object MeasureRequest(const BenchOptions& options, const BenchCase& which) {
  return {{"do", "measure"},
          {"case", CaseName(which)},
          {"kind", which.kind == BenchCase::Kind::kPrefill ? "prefill" : "decode"},
          {"tokens", which.tokens},
          {"sequences", which.sequences},
          {"depth", which.depth},
          {"decode_tokens", options.decode_tokens},
          {"passes", options.passes},
          {"stop_after_s", kTurnSeconds}};
}

Result<double> NumberOf(const std::string& side, const json::object& reply, const char* field) {
  return json::RequireDouble(reply, field).WithContext(side);
}

/// Tokens/s of the median pass of a reply.
Result<double> RateOf(const json::object& reply) {
  HM_ASSIGN(const double tokens, json::RequireDouble(reply, "tokens"));
  HM_ASSIGN(const json::array* passes, json::FindArray(reply, "seconds"));
  std::vector<double> seconds;
  if (passes != nullptr) {
    for (const json::value& pass : *passes) {
      if (pass.is_number()) seconds.push_back(pass.to_number<double>());
    }
  }
  if (seconds.empty() || !(tokens > 0) || !(std::ranges::min(seconds) > 0)) {
    return Error(ErrorCode::kCorrupt, "expected tokens and seconds of passes, found: " +
                                          json::Serialize(reply).substr(0, 200));
  }
  return tokens / Median(std::move(seconds));
}

/// One model beside the peer.
class ModelComparison {
 public:
  ModelComparison(const BenchOptions& options, const std::vector<BenchCase>& cases,
                  std::string python)
      : options_(options), cases_(cases), python_(std::move(python)) {}

  /// Fills what `facts` says of the run. Errors: of any side, naming it.
  Result<ModelResult> Run(ComparisonFacts* facts) {
    const CpuTimes before = ReadCpuTimes();
    HM_TRY(LoadOurs(facts));
    HM_ASSIGN(cases_, CasesThatFit(cases_, options_.cases.AsksForSome(), options_.decode_tokens,
                                   max_context_,
                                   [this](const std::string& why) { Say("left out: " + why); }));
    for (const BenchCase& one : cases_) {
      const bool is_seconds = one.kind == BenchCase::Kind::kFirstToken;
      result_.cases.push_back({.name = CaseName(one), .is_seconds = is_seconds});
    }
    if (Wants(BenchCase::Kind::kFirstToken)) HM_TRY(CompareFirstToken());
    if (Wants(BenchCase::Kind::kPrefill) || Wants(BenchCase::Kind::kDecode)) {
      HM_TRY(LoadPeers());
      for (int round = 0; round < options_.rounds; ++round) HM_TRY(RunRound(round));
    }
    NoteMemory();
    facts->peer_version = peer_version_;
    const CpuTimes after = ReadCpuTimes();
    facts->stolen_share = (after.stolen - before.stolen) / std::max(1.0, after.all - before.all);
    return std::move(result_);
  }

 private:
  bool Wants(BenchCase::Kind kind) const {
    return std::ranges::any_of(cases_, [&](const BenchCase& one) { return one.kind == kind; });
  }

  void Say(const std::string& text) const {
    std::fprintf(stderr, "[%4lld s] %s: %s\n",
                 static_cast<long long>((clock_.NowUs() - begin_) / 1'000'000),
                 result_.model.c_str(), text.c_str());
  }

  ChildOptions ChildFor(const std::string& label) const {
    return {.name = label, .raise_priority = options_.raise_priority};
  }

  Status LoadOurs(ComparisonFacts* facts) {
    result_.model = options_.model.model;
    Say("loading");
    HM_ASSIGN(ChildProcess process,
              ChildProcess::Fork(ChildFor(kOurs), [this] { return RunOwnWorker(options_); }));
    sides_.push_back(
        {.label = kOurs, .process = std::make_unique<ChildProcess>(std::move(process))});
    ChildProcess* worker = sides_.front().process.get();
    SideFacts ours{.side = kOurs};
    HM_ASSIGN(const json::object first, TakeTurn(options_, worker, {{"do", "load"}}));
    // Only now: it has set its priority itself, after it was started.
    facts->priority_raised = ::getpriority(PRIO_PROCESS, static_cast<id_t>(worker->pid())) < 0;
    HM_ASSIGN(ours.load_s, NumberOf(kOurs, first, "seconds"));
    HM_ASSIGN(const json::object again, TakeTurn(options_, worker, {{"do", "load"}}));
    HM_ASSIGN(ours.load_again_s, NumberOf(kOurs, again, "seconds"));
    result_.sides.push_back(ours);
    HM_ASSIGN(result_.model, json::RequireString(again, "name"));
    HM_ASSIGN(result_.file_bytes, NumberOf(kOurs, again, "file_bytes"));
    HM_ASSIGN(facts->isa, json::RequireString(again, "isa"));
    HM_ASSIGN(const int64_t threads, json::RequireInt(again, "threads"));
    HM_ASSIGN(max_context_, json::RequireInt(again, "max_context"));
    facts->threads = threads_ = static_cast<int>(threads);
    return {};
  }

  WorkerArguments PeerArguments(const std::string& repack) const {
    return {.python = python_,
            .model = options_.model.model,
            .threads = threads_,
            .repack = repack == "on"};
  }

  static std::string PeerLabel(const std::string& repack) { return "llama.cpp, repack " + repack; }

  Result<PeerWorker> StartPeer(const std::string& repack) {
    HM_ASSIGN(PeerWorker worker, StartPeerWorker(ChildFor(PeerLabel(repack)), PeerArguments(repack),
                                                 TimeUs{options_.answer_limit_s} * 1'000'000));
    peer_version_ = worker.version;
    return worker;
  }

  Status LoadPeers() {
    for (const char* repack : {"on", "off"}) {
      Say(PeerLabel(repack) + ", loading");
      HM_ASSIGN(PeerWorker worker, StartPeer(repack));
      SideFacts facts{.side = PeerLabel(repack)};
      HM_ASSIGN(const json::object loaded, TakeTurn(options_, &worker.process, {{"do", "load"}}));
      HM_ASSIGN(facts.load_s, NumberOf(facts.side, loaded, "seconds"));
      result_.sides.push_back(facts);
      sides_.push_back({.label = facts.side,
                        .repack = repack,
                        .process = std::make_unique<ChildProcess>(std::move(worker.process))});
    }
    return {};
  }

  Status RunRound(int round) {
    HM_ASSIGN(const json::object measured,
              TakeTurn(options_, sides_.front().process.get(), {{"do", "limits"}}));
    kernels::MachineLimits limits;
    HM_ASSIGN(limits.read_bytes_per_s, NumberOf(kOurs, measured, "read_bytes_per_s"));
    HM_ASSIGN(limits.int8_ops_per_s, NumberOf(kOurs, measured, "int8_ops_per_s"));
    HM_ASSIGN(limits.f32_flops_per_s, NumberOf(kOurs, measured, "f32_flops_per_s"));
    result_.limits.push_back(limits);
    for (const BenchCase& which : cases_) {
      if (which.kind == BenchCase::Kind::kFirstToken) continue;
      for (size_t i = 0; i < sides_.size(); ++i) {
        // Whoever comes first is another one in each round.
        HM_TRY(RunTurn(round, which, &sides_[(i + static_cast<size_t>(round)) % sides_.size()]));
      }
    }
    return {};
  }

  Status RunTurn(int round, const BenchCase& which, Side* side) {
    const std::string name = CaseName(which);
    Result<json::object> reply =
        TakeTurn(options_, side->process.get(), MeasureRequest(options_, which));
    if (!reply.ok()) return reply.error().WithContext(name);
    const Result<double> rate = RateOf(*reply);
    if (!rate.ok()) return rate.error().WithContext(side->label + ": " + name);
    char text[64];
    std::snprintf(text, sizeof(text), "%.1f tokens/s", *rate);
    Say("round " + std::to_string(round + 1) + " of " + std::to_string(options_.rounds) + ", " +
        name + ", " + side->label + ": " + text);
    CaseResult& result = ResultOf(name);
    if (!side->repack.empty()) {
      AddPeerValue(&result, side->repack, *rate);
      return {};
    }
    result.ours.push_back(*rate);
    HM_ASSIGN(const double limit, NumberOf(kOurs, *reply, "limit_tokens_per_s"));
    result.limits.push_back(limit);
    return {};
  }

  CaseResult& ResultOf(const std::string& name) {
    return *std::ranges::find(result_.cases, name, &CaseResult::name);
  }

  static void AddPeerValue(CaseResult* result, const std::string& repack, double value) {
    const auto found = std::ranges::find(result->peers, repack, &PeerSeries::repack);
    if (found != result->peers.end()) {
      found->rounds.push_back(value);
    } else {
      result->peers.push_back({.repack = repack, .rounds = {value}});
    }
  }

  /// Our whole process, from before it is started until it has ended.
  Result<double> TimeOurStart() {
    const ModelOptions& model = options_.model;
    const std::vector<std::string> arguments = {"/proc/self/exe",
                                                "generate",
                                                "-m",
                                                model.model,
                                                "-t",
                                                std::to_string(threads_),
                                                "--isa",
                                                model.isa,
                                                "--activation",
                                                model.activation,
                                                "--prompt",
                                                kPrompt,
                                                "--max-tokens",
                                                "1",
                                                "--temperature",
                                                "0",
                                                "--ignore-eos",
                                                "--json"};
    ChildOptions child = ChildFor(kOurs);
    child.log = "/dev/null";
    const TimeUs begin = clock_.NowUs();
    HM_ASSIGN(ChildProcess process, ChildProcess::Start(child, arguments));
    HM_ASSIGN(const int code, process.Wait(TimeUs{options_.answer_limit_s} * 1'000'000));
    const TimeUs end = clock_.NowUs();
    if (code != 0) {
      return Error(ErrorCode::kUnavailable,
                   "halfmoon generate ended with code " + std::to_string(code));
    }
    return static_cast<double>(end - begin) * 1e-6;
  }

  /// From before the model is opened until its first token is sampled; the start of Python and the
  /// loading of libraries are not in it.
  Result<double> TimePeerStart(const std::string& repack) {
    HM_ASSIGN(PeerWorker worker, StartPeer(repack));
    HM_ASSIGN(const json::object reply,
              TakeTurn(options_, &worker.process, {{"do", "first_token"}, {"prompt", kPrompt}}));
    return NumberOf(PeerLabel(repack), reply, "seconds");
  }

  Status CompareFirstToken() {
    const std::string name = CaseName({.kind = BenchCase::Kind::kFirstToken});
    CaseResult& result = ResultOf(name);
    const std::vector<std::string> sides = {"", "on", "off"};
    // The first of each fills the page cache and our own caches, and does not count.
    for (int round = -1; round < options_.start_rounds; ++round) {
      for (size_t i = 0; i < sides.size(); ++i) {
        const std::string& repack = sides[(i + static_cast<size_t>(round + 1)) % sides.size()];
        const Result<double> seconds = repack.empty() ? TimeOurStart() : TimePeerStart(repack);
        if (!seconds.ok()) return seconds.error().WithContext(name);
        if (!(*seconds > 0)) {
          return Error(ErrorCode::kCorrupt, PeerLabel(repack) + ": " + name + ": no time");
        }
        if (round < 0) continue;
        if (repack.empty()) {
          result.ours.push_back(*seconds);
        } else {
          AddPeerValue(&result, repack, *seconds);
        }
      }
      if (round >= 0) {
        Say("start " + std::to_string(round + 1) + " of " + std::to_string(options_.start_rounds));
      }
    }
    return {};
  }

  void NoteMemory() {
    for (size_t i = 0; i < sides_.size(); ++i) {
      result_.sides[i].resident_bytes =
          static_cast<double>(ResidentBytes(sides_[i].process->pid()));
    }
  }

  const BenchOptions& options_;
  std::vector<BenchCase> cases_;
  std::string python_;
  const MonotonicClock clock_;
  const TimeUs begin_ = clock_.NowUs();
  std::vector<Side> sides_;  ///< ours first
  int threads_ = 1;
  int64_t max_context_ = 0;
  std::string peer_version_;
  ModelResult result_;
};

}  // namespace

Result<ModelResult> RunRounds(const BenchOptions& options, const std::vector<BenchCase>& cases,
                              const std::string& python, ComparisonFacts* facts) {
  return ModelComparison(options, cases, python).Run(facts);
}

}  // namespace halfmoon::app
