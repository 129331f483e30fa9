// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::app {
namespace {

using testing::HasSubstr;
using testing::Not;

/// Two cases and a first token, with round numbers.
ModelResult SomeModel() {
  ModelResult model{.model = "tiny", .file_bytes = 2e9};
  model.cases.push_back({.name = "decode x1",
                         .ours = {100, 90, 120},
                         .peers = {{.repack = "on", .rounds = {50, 60, 40}},
                                   {.repack = "off", .rounds = {10, 70, 20}}},
                         .limits = {200, 100, 160}});
  model.cases.push_back(
      {.name = "first token",
       .is_seconds = true,
       .ours = {0.1, 0.3},
       .peers = {{.repack = "on", .rounds = {0.4, 0.6}}, {.repack = "off", .rounds = {0.2, 0.2}}}});
  model.sides = {{.side = "halfmoon", .load_s = 2, .load_again_s = 0.5, .resident_bytes = 2.1e9},
                 {.side = "llama.cpp, repack on", .load_s = 4, .resident_bytes = 4e9}};
  model.limits = {{.read_bytes_per_s = 40e9, .int8_ops_per_s = 900e9, .f32_flops_per_s = 200e9},
                  {.read_bytes_per_s = 44e9, .int8_ops_per_s = 940e9, .f32_flops_per_s = 240e9}};
  return model;
}

ComparisonFacts SomeFacts() {
  return {.commit = "1234567",
          .version = "0.1.0",
          .cpu = "Some CPU",
          .isa = "avx2",
          .threads = 2,
          .peer = "llama.cpp",
          .peer_version = "0.3.36",
          .peer_build = "avx2",
          .priority_raised = true,
          .stolen_share = 0.004};
}

TEST(Median, OddAndEven_Middle) {
  EXPECT_EQ(Median({5}), 5);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({9, 1, 5, 7}), 6);
}

TEST(Spread, Values_RangeByMedian) {
  EXPECT_EQ(Spread({4}), 0);
  EXPECT_EQ(Spread({4, 6, 5}), 0.4);
}

TEST(PairedRatio, Rounds_WithinEachOther) {
  // Medians by themselves would say 100 / 50.
  const Ratio ratio = PairedRatio({100, 90, 120}, {50, 60, 40});
  EXPECT_EQ(ratio.median, 2);
  EXPECT_EQ(ratio.least, 1.5);
  EXPECT_EQ(ratio.most, 3);
}

TEST(BestPeer, RatesAndSeconds_BetterMedian) {
  const ModelResult model = SomeModel();
  EXPECT_EQ(model.cases[0].best_peer().repack, "on");
  EXPECT_EQ(model.cases[1].best_peer().repack, "off");
}

TEST(Share, LimitOfEachRound_Median) {
  EXPECT_EQ(SomeModel().cases[0].share(), 0.75);  // of 0.5, 0.9 and 0.75
}

TEST(CaseJson, Rate_HasBothSidesRatioAndShare) {
  const ModelResult model = SomeModel();
  const json::object line = CaseJson(SomeFacts(), model, model.cases[0]);
  EXPECT_EQ(line.at("commit"), "1234567");
  EXPECT_EQ(line.at("unit"), "tokens/s");
  EXPECT_EQ(line.at("halfmoon").at("median"), 100.0);
  EXPECT_EQ(line.at("halfmoon").at("rounds"), (json::array{100.0, 90.0, 120.0}));
  EXPECT_EQ(line.at("llama_cpp").at("repack"), "on");
  EXPECT_EQ(line.at("llama_cpp_other").at("off").at("median"), 20.0);
  EXPECT_EQ(line.at("ratio").at("max"), 3.0);
  EXPECT_EQ(line.at("limit_tokens_per_s"), 160.0);
  EXPECT_EQ(line.at("share_of_limit"), 0.75);
  EXPECT_EQ(line.at("limits").at("read_bytes_per_s"), 42e9);
}

TEST(CaseJson, Seconds_NoShare) {
  const ModelResult model = SomeModel();
  const json::object line = CaseJson(SomeFacts(), model, model.cases[1]);
  EXPECT_EQ(line.at("unit"), "s");
  EXPECT_DOUBLE_EQ(line.at("ratio").at("median").as_double(), 1.0);  // of 0.5 and 1.5
  EXPECT_FALSE(line.contains("share_of_limit"));
}

TEST(SidesJson, Memory_ByTheFile) {
  const json::object line = SidesJson(SomeFacts(), SomeModel());
  EXPECT_EQ(line.at("sides").at("halfmoon").at("resident_over_file"), 1.05);
  EXPECT_EQ(line.at("sides").at("halfmoon").at("load_again_s"), 0.5);
  EXPECT_EQ(line.at("sides").at("llama.cpp, repack on").at("resident_over_file"), 2.0);
  EXPECT_FALSE(line.at("sides").at("llama.cpp, repack on").as_object().contains("load_again_s"));
}

TEST(Markdown, Models_NamedMachineRowsAndMemory) {
  const std::string text = Markdown(SomeFacts(), {SomeModel()});
  EXPECT_THAT(text, HasSubstr("Some CPU, 2 threads, avx2 kernels, commit 1234567"));
  EXPECT_THAT(text, HasSubstr("llama-cpp-python 0.3.36, built avx2"));
  EXPECT_THAT(text, HasSubstr("Priority raised, 0.4 % of processor time stolen."));
  EXPECT_THAT(text, HasSubstr("| tiny | decode x1 | 100.0 tokens/s ± 15 % | 50.0 tokens/s ± 20 % "
                              "(on) | 2.00 (1.50 to 3.00) | 75 % |\n"));
  EXPECT_THAT(text, HasSubstr("| tiny | first token | 0.200 s ± 50 % | 0.200 s ± 0 % (off) | 1.00 "
                              "(0.50 to 1.50) | |\n"));
  EXPECT_THAT(text, HasSubstr("tiny (2.00 GB): halfmoon loads in 2.00 s, again in 0.50 s, and "
                              "holds 1.05 times the file"));
  EXPECT_THAT(text, HasSubstr("read 42.0 GB/s, int8 920 GOP/s, float32 220 GFLOP/s."));
}

TEST(Markdown, NoRounds_NoLimits) {
  ModelResult model = SomeModel();
  model.limits.clear();
  model.cases.erase(model.cases.begin());
  EXPECT_THAT(Markdown(SomeFacts(), {model}), Not(HasSubstr("Limits")));
}

}  // namespace
}  // namespace halfmoon::app
