// SPDX-License-Identifier: Apache-2.0
#include "sim/simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "sim/report.h"
#include "sim/run_options.h"

namespace halfmoon::sim {
namespace {

/// 1 ms a prompt token; steps of 20 ms; 10 us to copy a token.
CostModel Simple() {
  return {.name = "simple",
          .costs = {.prefill = {.token_us = 1000.0},
                    .decode = {.fixed_us = 20'000.0},
                    .network_bytes_per_s = 1e9},
          .layers = 10,
          .kv_bytes_per_token = 10'000,
          .kv_tokens = 100'000,
          .max_running = 100};
}

Trace TraceOf(std::vector<TraceRequest> requests, std::vector<uint64_t> blocks = {}) {
  return {.block_tokens = 100, .requests = std::move(requests), .blocks = std::move(blocks)};
}

SimOptions Disaggregated(std::string_view policy = "global") {
  SimOptions options{.prefill_nodes = 1, .decode_nodes = 1};
  options.policy = *cluster::FindPolicy(policy);
  return options;
}

SimResult RunAll(const SimOptions& options, const CostModel& model, const Trace& trace) {
  Simulator simulator(options, model, trace);
  SimResult result = simulator.Run();
  EXPECT_EQ(simulator.violation(), "");
  return result;
}

TEST(Simulator_OneRequest, TakesWhatItsPartsTake) {
  const Trace trace = TraceOf({{.prompt_tokens = 1000, .output_tokens = 11}});
  const SimResult result = RunAll(Disaggregated(), Simple(), trace);
  const RequestRecord& record = result.requests[0];
  EXPECT_EQ(record.outcome, Outcome::kDone);
  EXPECT_EQ(record.ttft_us, 1'000'000);
  // The copy went along but for its last layer: 1000 us of 10000.
  EXPECT_EQ(record.tbt_us, 21'000.0);
  EXPECT_EQ(result.end_us, 1'000'000 + 1000 + 10 * 20'000);
  EXPECT_EQ(result.streamed_bytes, 10'000'000);
}

// The last token of the prompt is left to the node that decodes: the first answer comes with its
// first step, and no gap is longer than a step.
TEST(Simulator_OneRequest, MayBeAnsweredByItsDecodeNode) {
  const Trace trace = TraceOf({{.prompt_tokens = 1000, .output_tokens = 11}});
  SimOptions options = Disaggregated();
  options.first_token = cluster::FirstToken::kDecode;
  const SimResult result = RunAll(options, Simple(), trace);
  EXPECT_EQ(result.requests[0].ttft_us, 1'000'000 + 1000 + 20'000);
  EXPECT_EQ(result.requests[0].tbt_us, 20'000.0);
  EXPECT_EQ(result.end_us, 1'000'000 + 1000 + 11 * 20'000);
}

// A second turn that comes before the first is computed finds what that has left when it starts.
TEST(Simulator_Prefix, IsFoundWhenThePromptStarts) {
  const std::vector<uint64_t> blocks{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const auto row = [](TimeUs at_us) {
    return TraceRequest{.arrival_us = at_us,
                        .prompt_tokens = 1000,
                        .output_tokens = 2,
                        .first_block = 0,
                        .num_blocks = 10};
  };
  const SimResult result =
      RunAll(Disaggregated(), Simple(), TraceOf({row(0), row(500'000)}, blocks));
  EXPECT_EQ(result.requests[1].own_tokens[1], 999);
  EXPECT_EQ(result.requests[1].ttft_us, 501'000);
}

TEST(Simulator_Queue, IsServedOneByOne) {
  const Trace trace = TraceOf({{.prompt_tokens = 1000, .output_tokens = 2},
                               {.prompt_tokens = 1000, .output_tokens = 2},
                               {.arrival_us = 500'000, .prompt_tokens = 10, .output_tokens = 1}});
  const SimResult result = RunAll(Disaggregated(), Simple(), trace);
  EXPECT_EQ(result.requests[0].ttft_us, 1'000'000);
  EXPECT_EQ(result.requests[1].ttft_us, 2'000'000);
  EXPECT_EQ(result.requests[2].ttft_us, 1'510'000);
}

TEST(Simulator_Prefix, IsKeptFetchedAndDemoted) {
  // The same prompt three times; the second finds its node busy.
  const std::vector<uint64_t> blocks{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const auto row = [](TimeUs at_us) {
    return TraceRequest{.arrival_us = at_us,
                        .prompt_tokens = 1000,
                        .output_tokens = 2,
                        .first_block = 0,
                        .num_blocks = 10};
  };
  const Trace trace = TraceOf({row(0), row(2'000'000), row(2'000'000)}, blocks);
  SimOptions options = Disaggregated();
  options.prefill_nodes = 2;
  const SimResult result = RunAll(options, Simple(), trace);
  EXPECT_EQ(result.requests[0].own_tokens[1], 0);
  EXPECT_EQ(result.requests[1].own_tokens[1], 999);
  EXPECT_EQ(result.requests[1].ttft_us, 1000);
  // One is one behind the other on the same node rather than fetched: 1 ms against 10.
  EXPECT_EQ(result.requests[2].own_tokens[1] + result.requests[2].fetched_tokens, 999);
  options.dram_tokens = 500;
  EXPECT_LT(RunAll(options, Simple(), trace).requests[1].own_tokens[1], 999);
  options.ssd_tokens = 1200;
  const SimResult two_tiers = RunAll(options, Simple(), trace);
  // Of five slots a tenth is kept free, as the store does.
  EXPECT_EQ(two_tiers.requests[1].own_tokens[1], 400);
  EXPECT_EQ(two_tiers.requests[1].own_tokens[2], 599);
}

TEST(Simulator_Decode, WaitsForRoom) {
  CostModel model = Simple();
  model.max_running = 1;
  const Trace trace = TraceOf(
      {{.prompt_tokens = 10, .output_tokens = 101}, {.prompt_tokens = 10, .output_tokens = 101}});
  const SimResult result = RunAll(Disaggregated(), model, trace);
  EXPECT_GT(result.requests[1].tbt_us, 200'000.0);  // one long gap among ten
  EXPECT_NEAR(static_cast<double>(result.end_us), 2 * 100 * 20'000.0, 20'000.0);
}

// vLLM 0.5.1 lets prompts go first, so that what decodes stands still; chunks let it go on.
TEST(Simulator_Coupled, PromptsStopDecoding) {
  const Trace trace = TraceOf({{.prompt_tokens = 10, .output_tokens = 101},
                               {.arrival_us = 100'000, .prompt_tokens = 5000, .output_tokens = 2}});
  SimOptions options{.coupled_nodes = 1};
  const SimResult whole = RunAll(options, Simple(), trace);
  EXPECT_NEAR(whole.requests[0].tbt_us, (5'000'000 + 10 * 20'000) / 10.0, 3000.0);
  EXPECT_NEAR(static_cast<double>(whole.requests[1].ttft_us), 5'000'000.0, 20'000.0);
  options.coupled_chunk_tokens = 101;
  const SimResult chunks = RunAll(options, Simple(), trace);
  EXPECT_EQ(chunks.requests[0].tbt_us, 120'000.0);
  EXPECT_NEAR(static_cast<double>(chunks.requests[1].ttft_us), 6'000'000.0, 50'000.0);
}

// A short prompt goes where it decodes, in chunks that leave the others within their limit.
TEST(Simulator_Conditional, KeepsTheLimitOfOthers) {
  std::vector<TraceRequest> rows{{.prompt_tokens = 10, .output_tokens = 301}};
  for (int i = 0; i < 20; ++i) {
    rows.push_back(
        {.arrival_us = 100'000 + i, .prompt_tokens = i == 0 ? 9000 : 100, .output_tokens = 2});
  }
  SimOptions options = Disaggregated("slack");
  options.limits = {.ttft_us = 5'000'000, .tbt_us = 50'000};
  const SimResult result = RunAll(options, Simple(), TraceOf(rows));
  for (const RequestRecord& record : result.requests) EXPECT_LE(record.tbt_us, 50'000.0 + 1000.0);
  EXPECT_LT(result.requests[2].ttft_us, 2'000'000);
}

TEST(Simulator_Late, RejectsWhatIsComputed) {
  std::vector<TraceRequest> rows;
  for (int i = 0; i < 20; ++i) rows.push_back({.prompt_tokens = 10, .output_tokens = 500});
  CostModel model = Simple();
  model.costs.decode.sequence_us = 10'000.0;
  SimOptions options = Disaggregated();
  options.headroom = 1.0;
  options.limits.tbt_us = 65'000;  // four sequences
  options.reject = cluster::RejectPolicy::kLate;
  const Summary late = Summarize(RunAll(options, model, TraceOf(rows)), options.limits);
  EXPECT_GE(late.rejected_late, 10);  // not all: some join while others wait for a step to end
  EXPECT_GT(late.wasted_prefill_s, 0.0);
  options.reject = cluster::RejectPolicy::kPredictive;
  const Summary predictive = Summarize(RunAll(options, model, TraceOf(rows)), options.limits);
  EXPECT_EQ(predictive.rejected, 16);
  EXPECT_EQ(predictive.effective, 4);
  EXPECT_EQ(predictive.wasted_prefill_s, 0.0);
}

// Steps that the scheduler of a node plans, and their sums, tell the same of a request. What they
// do not share: a prompt is computed in steps of 2048 tokens, each rounded to a microsecond, and
// the node that decodes computes the last partial page of a prompt (up to 15 tokens more).
TEST(Simulator_Detailed, AgreesWithTheSumOfItsSteps) {
  std::vector<TraceRequest> rows;
  std::vector<uint64_t> blocks;
  for (int i = 0; i < 120; ++i) {
    TraceRequest row{.arrival_us = i / 3 * 400'000,
                     .prompt_tokens = 50 + i * 377 % 4000,
                     .output_tokens = 1 + i * 13 % 90,
                     .first_block = blocks.size()};
    row.num_blocks = (row.prompt_tokens + 95) / 96;
    const auto family = static_cast<uint64_t>(i % 7 * 1000);
    for (int b = 0; b < row.num_blocks; ++b) {
      const bool shared = b < 20 && b + 1 < row.num_blocks;
      blocks.push_back(shared ? family + static_cast<uint64_t>(b)
                              : 100'000 + static_cast<uint64_t>(i * 100 + b));
    }
    rows.push_back(row);
  }
  CostModel model = Simple();
  model.costs.prefill = {.token_us = 100.0, .position_us = 0.01};
  model.costs.decode = {.fixed_us = 20'000.0, .sequence_us = 100.0, .kv_token_us = 0.02};
  for (const std::string policy : {"global", "local", "random", "slack"}) {
    SimOptions options = Disaggregated(policy);
    options.prefill_nodes = options.decode_nodes = 2;
    Trace trace = TraceOf(rows, blocks);
    trace.block_tokens = 96;  // six pages
    const SimResult sums = RunAll(options, model, trace);
    options.detailed = true;
    const SimResult steps = RunAll(options, model, trace);
    double ttft_us = 0.0;
    double tbt_us = 0.0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const RequestRecord& a = sums.requests[i];
      const RequestRecord& b = steps.requests[i];
      EXPECT_EQ(a.outcome, b.outcome) << policy << i;
      EXPECT_NEAR(a.prefill_us, b.prefill_us, 2.0) << policy << i;
      ttft_us += static_cast<double>(b.ttft_us - a.ttft_us);
      tbt_us += b.tbt_us - a.tbt_us;
      // A step more or less until a sequence joins.
      EXPECT_NEAR(static_cast<double>(a.ttft_us), static_cast<double>(b.ttft_us), 30'000.0)
          << policy << i;
      EXPECT_NEAR(a.tbt_us, b.tbt_us, 45'000.0) << policy << i;
    }
    const auto count = static_cast<double>(rows.size());
    EXPECT_NEAR(ttft_us / count, 0.0, 3000.0) << policy;
    EXPECT_NEAR(tbt_us / count, 0.0, 3000.0) << policy;
    EXPECT_NEAR(static_cast<double>(sums.end_us), static_cast<double>(steps.end_us), 50'000.0);
  }
}

// More sequences than pages hold: the scheduler preempts, and all end.
TEST(Simulator_Detailed, PreemptsWherePagesRunOut) {
  std::vector<TraceRequest> rows;
  for (int i = 0; i < 30; ++i) {
    rows.push_back({.arrival_us = i * 10'000, .prompt_tokens = 100 + i, .output_tokens = 200});
  }
  CostModel model = Simple();
  model.kv_tokens = 1000;
  SimOptions options = Disaggregated();
  options.detailed = true;
  for (const RequestRecord& record : RunAll(options, model, TraceOf(rows)).requests) {
    EXPECT_EQ(record.outcome, Outcome::kDone);
  }
}

TEST(Simulator_Faults, LoseNoRequest) {
  std::vector<TraceRequest> rows;
  for (int i = 0; i < 200; ++i) {
    rows.push_back({.arrival_us = i * 50'000,
                    .prompt_tokens = 100 + i * 7 % 500,
                    .output_tokens = 1 + i * 13 % 100});
  }
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SimOptions options = Disaggregated(seed % 2 == 0 ? "global" : "slack");
    options.prefill_nodes = 3;
    options.decode_nodes = 3;
    options.seed = seed;
    for (int32_t node = 0; node < 6; ++node) {
      const auto at_us = static_cast<TimeUs>(
          1'000'000 + (seed * 377 + static_cast<uint64_t>(node) * 911) % 9000 * 1000);
      options.faults.push_back({.at_us = at_us, .back_us = at_us + 700'000, .node = node});
    }
    for (const RequestRecord& record : RunAll(options, Simple(), TraceOf(rows)).requests) {
      EXPECT_NE(record.outcome, Outcome::kLive);
    }
  }
}

TEST(MeanOfLongestTenth_Gaps, RoundsTheirNumberUp) {
  std::vector<float> gaps{1, 9, 2, 8, 3, 7, 4, 6, 5, 0, 10};
  EXPECT_EQ(MeanOfLongestTenth(gaps), 9.5);
  gaps = {3};
  EXPECT_EQ(MeanOfLongestTenth(gaps), 3.0);
}

TEST(SetOption_Values, AreCheckedByName) {
  SimOptions options;
  EXPECT_TRUE(SetOption("rate", "1.5", &options).ok());
  EXPECT_EQ(options.rate, 1.5);
  EXPECT_TRUE(SetOption("nic", "800", &options).ok());
  EXPECT_EQ(options.nic_bytes_per_s, 1e11);
  for (const OptionName& option : OptionNames()) {
    const Status status = SetOption(option.name, "x", &options);
    ASSERT_FALSE(status.ok()) << option.name;
    EXPECT_THAT(status.error().message(), testing::StartsWith(std::string(option.name) + ": "));
  }
  EXPECT_FALSE(SetOption("color", "1", &options).ok());
  EXPECT_FALSE(SetOption("rate", "0", &options).ok());
  EXPECT_FALSE(SetOption("prefill", "-1", &options).ok());
  EXPECT_FALSE(CheckOptions({}).ok());
  EXPECT_FALSE(CheckOptions({.prefill_nodes = 1}).ok());
  EXPECT_TRUE(CheckOptions({.decode_nodes = 1}).ok());
}

TEST(ExpandSweeps_TwoOptions, GiveEveryPair) {
  const std::vector<std::string> sweeps{"rate=1,2", "policy=local,global,load"};
  const std::vector<Assignment> runs = ExpandSweeps(sweeps).value();
  ASSERT_EQ(runs.size(), 6u);
  EXPECT_EQ(runs[4], (Assignment{{"rate", "2"}, {"policy", "global"}}));
  EXPECT_EQ(ExpandSweeps({}).value().size(), 1u);
  EXPECT_FALSE(ExpandSweeps(std::vector<std::string>{"rate"}).ok());
  EXPECT_FALSE(ExpandSweeps(std::vector<std::string>{"rate="}).ok());
}

TEST(ParseCostModel_Files, AreReadAndWritten) {
  const std::filesystem::path path =
      std::filesystem::path(HALFMOON_SOURCE_DIR) / "bench/costs/llama3-70b-8xa800.json";
  const std::string text = ReadTextFile(path, 1 << 20).value();
  const CostModel model = ParseCostModel(text).value();
  EXPECT_EQ(model.kv_bytes_per_token, 320 * 1024);
  const CostModel again = ParseCostModel(FormatCostModel(model)).value();
  EXPECT_EQ(again.costs.decode, model.costs.decode);
  EXPECT_EQ(again.kv_tokens, model.kv_tokens);
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) {
    EXPECT_TRUE(ParseCostModel(ReadTextFile(entry.path(), 1 << 20).value()).ok()) << entry.path();
  }
  EXPECT_FALSE(ParseCostModel("{}").ok());
  EXPECT_THAT(ParseCostModel("{\"halfmoon_sim_costs\": 2}").error().message(),
              testing::HasSubstr("version 2"));
  std::string negative = text;
  negative.replace(negative.find("66446"), 5, "-1e99");
  EXPECT_THAT(ParseCostModel(negative).error().message(), testing::HasSubstr("fixed_us"));
}

TEST(Report_Formats, HoldEveryRunAndNothingUnescaped) {
  const Trace trace = TraceOf({{.prompt_tokens = 1000, .output_tokens = 11},
                               {.arrival_us = 9000, .prompt_tokens = 10, .output_tokens = 11}});
  std::vector<sim::Run> runs(2);
  for (sim::Run& run : runs) {
    run.options = Disaggregated();
    run.label = &run == runs.data() ? "<first>" : "second";
    run.result = RunAll(run.options, Simple(), trace);
    run.summary = Summarize(run.result, run.options.limits);
    EXPECT_EQ(run.summary.effective, 2);
  }
  EXPECT_THAT(FormatTable(runs),
              testing::AllOf(testing::HasSubstr("<first>"), testing::HasSubstr("second")));
  const std::string html = FormatHtml(runs, "a & b");
  EXPECT_THAT(html, testing::AllOf(
                        testing::HasSubstr("a &amp; b"), testing::HasSubstr("&lt;first&gt;"),
                        testing::Not(testing::HasSubstr("<first>")), testing::HasSubstr("<svg")));
  const json::object o = ReportJson(runs, "simple");
  EXPECT_EQ(o.at("runs").as_array().size(), 2u);
  EXPECT_EQ(json::Serialize(o), json::Serialize(ReportJson(runs, "simple")));
}

}  // namespace
}  // namespace halfmoon::sim
