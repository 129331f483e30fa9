// SPDX-License-Identifier: Apache-2.0
// `halfmoon bench --compare`: which models, which peer, and what is printed of them.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "apps/halfmoon/bench_options.h"
#include "apps/halfmoon/bench_peer.h"
#include "apps/halfmoon/bench_rounds.h"
#include "apps/halfmoon/cache_folder.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/embedded_files.h"
#include "apps/halfmoon/runtime.h"
#include "base/file.h"
#include "base/topology.h"

namespace halfmoon::app {
namespace {

void PrintJson(const ComparisonFacts& facts, const ModelResult& model) {
  for (const CaseResult& result : model.cases) {
    std::printf("%s\n", json::Serialize(CaseJson(facts, model, result)).c_str());
  }
  std::printf("%s\n", json::Serialize(SidesJson(facts, model)).c_str());
  std::fflush(stdout);
}

/// The options for one model: those that a peer asks for, and sequences for every case.
Result<BenchOptions> OptionsFor(const BenchOptions& given, const PeerBuild& build,
                                const std::string& model) {
  BenchOptions options = given;
  // The peer opens files only, so a name from a cache becomes its path.
  HM_ASSIGN(const ModelSource source, FindModelSource(model));
  options.model.model = source.path.string();
  if (build.label == "avx2" && options.model.isa == "auto") options.model.isa = build.label;
  HM_ASSIGN(const int sequences, MostSequences(given.cases));
  options.model.max_sequences = std::max(options.model.max_sequences, sequences);
  return options;
}

}  // namespace

int BenchBesidePeer(const BenchOptions& options) {
  const Result<PeerBuild> build = FindPeerBuild(options.compare);
  if (!build.ok()) return Fail(build.error());
  const Result<std::vector<BenchCase>> cases = ChooseCases(options.cases, /*first_token=*/true);
  if (!cases.ok()) return Fail(cases.error());
  const std::filesystem::path cache = CacheFolder();
  if (options.peer_python.empty() && cache.empty()) {
    return Fail(Error(ErrorCode::kInvalidArgument,
                      "no folder to build llama.cpp in: set HOME or XDG_CACHE_HOME, or name a "
                      "Python that has it with --peer-python"));
  }
  const Result<std::string> python = PreparePeer(*build, options.peer_python, cache / "peers");
  if (!python.ok()) return Fail(python.error());
  ComparisonFacts facts{.commit = std::string(BuildCommit()),
                        .version = HALFMOON_VERSION,
                        .cpu = CpuName(),
                        .peer = "llama.cpp",
                        .peer_build = build->label};
  std::vector<ModelResult> results;
  double stolen_share = 0;
  int exit_code = kExitOk;
  for (const std::string& model : options.models) {
    const Result<BenchOptions> one = OptionsFor(options, *build, model);
    Result<ModelResult> result =
        one.ok() ? RunRounds(*one, *cases, *python, &facts) : Result<ModelResult>(one.error());
    if (!result.ok()) {
      exit_code = Fail(result.error());
      continue;
    }
    if (options.json) PrintJson(facts, *result);
    stolen_share = std::max(stolen_share, facts.stolen_share);
    results.push_back(std::move(result).value());
  }
  if (results.empty()) return exit_code;
  facts.stolen_share = stolen_share;
  const std::string table = Markdown(facts, results);
  std::fprintf(options.json ? stderr : stdout, "\n%s", table.c_str());
  if (!options.markdown.empty()) {
    const Status written = WriteFileAtomic(options.markdown, table);
    if (!written.ok()) return Fail(written.error());
  }
  return exit_code;
}

}  // namespace halfmoon::app
