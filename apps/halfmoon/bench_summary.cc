// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_summary.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "base/check.h"

namespace halfmoon::app {
namespace {

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string Format(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return text;
}

json::object SeriesJson(const std::vector<double>& rounds) {
  return {{"median", Median(rounds)},
          {"spread", Spread(rounds)},
          {"rounds", json::array(rounds.begin(), rounds.end())}};
}

json::object FactsJson(const ComparisonFacts& facts, const ModelResult& model) {
  return {{"commit", facts.commit},
          {"version", facts.version},
          {"cpu", facts.cpu},
          {"isa", facts.isa},
          {"threads", facts.threads},
          {"peer",
           {{"name", facts.peer},
            {"llama_cpp_python", facts.peer_version},
            {"build", facts.peer_build}}},
          {"priority_raised", facts.priority_raised},
          {"stolen_share", facts.stolen_share},
          {"model", model.model},
          {"file_bytes", model.file_bytes}};
}

double MedianOf(const std::vector<kernels::MachineLimits>& limits,
                double kernels::MachineLimits::* field) {
  std::vector<double> values;
  for (const kernels::MachineLimits& one : limits) values.push_back(one.*field);
  return Median(std::move(values));
}

std::string Row(const ModelResult& model, const CaseResult& result) {
  const PeerSeries& peer = result.best_peer();
  const Ratio ratio = PairedRatio(result.ours, peer.rounds);
  const int digits = result.is_seconds ? 3 : 1;
  const char* unit = result.is_seconds ? "s" : "tokens/s";
  std::string row = "| " + model.model + " | " + result.name;
  row +=
      Format(" | %.*f %s ± %.0f %%", digits, Median(result.ours), unit, 50 * Spread(result.ours));
  row += Format(" | %.*f %s ± %.0f %% (%s)", digits, Median(peer.rounds), unit,
                50 * Spread(peer.rounds), peer.repack.c_str());
  row += Format(" | %.2f (%.2f to %.2f)", ratio.median, ratio.least, ratio.most);
  row += result.limits.empty() ? " | |\n" : Format(" | %.0f %% |\n", 100 * result.share());
  return row;
}

std::string SideWords(const SideFacts& side, double file_bytes) {
  std::string words = side.side + Format(" loads in %.2f s", side.load_s);
  if (side.load_again_s > 0) words += Format(", again in %.2f s", side.load_again_s);
  return words +
         Format(", and holds %.2f times the file in memory", side.resident_bytes / file_bytes);
}

}  // namespace

double Median(std::vector<double> values) {
  HM_CHECK(!values.empty());
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

double Spread(const std::vector<double>& values) {
  const auto [least, most] = std::ranges::minmax(values);
  return (most - least) / Median(values);
}

Ratio PairedRatio(const std::vector<double>& ours, const std::vector<double>& theirs) {
  HM_CHECK(ours.size() == theirs.size(), "rounds of one side only");
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / theirs[i]);
  const auto [least, most] = std::ranges::minmax(ratios);
  return {.median = Median(ratios), .least = least, .most = most};
}

const PeerSeries& CaseResult::best_peer() const {
  HM_CHECK(!peers.empty());
  const auto median = [](const PeerSeries& series) { return Median(series.rounds); };
  return is_seconds ? *std::ranges::min_element(peers, {}, median)
                    : *std::ranges::max_element(peers, {}, median);
}

double CaseResult::share() const { return PairedRatio(ours, limits).median; }

json::object CaseJson(const ComparisonFacts& facts, const ModelResult& model,
                      const CaseResult& result) {
  const PeerSeries& best = result.best_peer();
  const Ratio ratio = PairedRatio(result.ours, best.rounds);
  json::object line = FactsJson(facts, model);
  line["case"] = result.name;
  line["unit"] = result.is_seconds ? "s" : "tokens/s";
  line["halfmoon"] = SeriesJson(result.ours);
  json::object peer = SeriesJson(best.rounds);
  peer["repack"] = best.repack;
  line["llama_cpp"] = std::move(peer);
  json::object others;
  for (const PeerSeries& series : result.peers) {
    if (series.repack != best.repack) others[series.repack] = SeriesJson(series.rounds);
  }
  line["llama_cpp_other"] = std::move(others);
  line["ratio"] = {{"median", ratio.median}, {"min", ratio.least}, {"max", ratio.most}};
  if (result.limits.empty()) return line;
  line["limit_tokens_per_s"] = Median(result.limits);
  line["share_of_limit"] = result.share();
  line["limits"] = {
      {"read_bytes_per_s", MedianOf(model.limits, &kernels::MachineLimits::read_bytes_per_s)},
      {"int8_ops_per_s", MedianOf(model.limits, &kernels::MachineLimits::int8_ops_per_s)},
      {"f32_flops_per_s", MedianOf(model.limits, &kernels::MachineLimits::f32_flops_per_s)}};
  return line;
}

json::object SidesJson(const ComparisonFacts& facts, const ModelResult& model) {
  json::object line = FactsJson(facts, model);
  line["case"] = "load";
  json::object sides;
  for (const SideFacts& side : model.sides) {
    json::object fields{{"load_s", side.load_s},
                        {"resident_bytes", side.resident_bytes},
                        {"resident_over_file", side.resident_bytes / model.file_bytes}};
    if (side.load_again_s > 0) fields["load_again_s"] = side.load_again_s;
    sides[side.side] = std::move(fields);
  }
  line["sides"] = std::move(sides);
  return line;
}

std::string Markdown(const ComparisonFacts& facts, const std::vector<ModelResult>& models) {
  std::string text = facts.cpu + Format(", %d threads, %s kernels, commit %s, in turns with ",
                                        facts.threads, facts.isa.c_str(), facts.commit.c_str());
  text += facts.peer + " (llama-cpp-python " + facts.peer_version + ", built " + facts.peer_build;
  text +=
      "; the better of repack on and off). Medians over rounds, ± half their spread; the ratio "
      "is within rounds: median, least, most. Above 1 is faster for tokens/s and slower for "
      "seconds.";
  text += Format(" Priority %s, %.1f %% of processor time stolen.\n\n",
                 facts.priority_raised ? "raised" : "not raised", 100 * facts.stolen_share);
  text += "| model | case | halfmoon | llama.cpp (repack) | ratio | share of limit |\n";
  text += "|---|---|---|---|---|---|\n";
  for (const ModelResult& model : models) {
    for (const CaseResult& result : model.cases) text += Row(model, result);
  }
  text += "\n";
  for (const ModelResult& model : models) {
    text += "- " + model.model + Format(" (%.2f GB)", model.file_bytes * 1e-9);
    const char* separator = ": ";
    for (const SideFacts& side : model.sides) {
      text += separator + SideWords(side, model.file_bytes);
      separator = "; ";
    }
    text += ".";
    if (!model.limits.empty()) {
      using Limits = kernels::MachineLimits;
      text += Format(" Limits: read %.1f GB/s, int8 %.0f GOP/s, float32 %.0f GFLOP/s.",
                     1e-9 * MedianOf(model.limits, &Limits::read_bytes_per_s),
                     1e-9 * MedianOf(model.limits, &Limits::int8_ops_per_s),
                     1e-9 * MedianOf(model.limits, &Limits::f32_flops_per_s));
    }
    text += "\n";
  }
  return text;
}

}  // namespace halfmoon::app
