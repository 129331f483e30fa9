// SPDX-License-Identifier: Apache-2.0
#include "sim/report.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "sim/chart.h"

namespace halfmoon::sim {
namespace {

constexpr size_t kMaxDrawn = 8;  // lines that one can still tell apart

template <typename... Args>
std::string Format(const char* format, Args... args) {
  std::array<char, 1024> text{};
  const int length = std::snprintf(text.data(), text.size(), format, args...);
  return {text.data(), std::min(text.size() - 1, static_cast<size_t>(std::max(0, length)))};
}

constexpr std::array<const char*, 12> kColumns{
    "effective",   "goodput/s", "TTFT mean s", "p90",     "TBT mean ms", "p99",
    "prefill s/r", "wasted s",  "hit own",     "fetched", "rejected",    "late"};

std::array<std::string, 12> Cells(const Summary& s) {
  const double requests = static_cast<double>(std::max<int64_t>(1, s.requests - s.rejected));
  return {Format("%.1f %%", 100 * s.effective_share),
          Format("%.3f", s.goodput_per_s),
          Format("%.2f", s.ttft_s.mean),
          Format("%.2f", s.ttft_s.p90),
          Format("%.0f", s.tbt_ms.mean),
          Format("%.0f", s.tbt_ms.p99),
          Format("%.3f", s.prefill_s / requests),
          Format("%.0f", s.wasted_prefill_s),
          Format("%.1f %%", 100 * (s.hit_own_dram + s.hit_own_ssd)),
          Format("%.1f %%", 100 * s.hit_fetched),
          Format("%lld", static_cast<long long>(s.rejected)),
          Format("%lld", static_cast<long long>(s.rejected_late))};
}

json::object OptionsJson(const SimOptions& o) {
  return {{"prefill", o.prefill_nodes},
          {"decode", o.decode_nodes},
          {"coupled", o.coupled_nodes},
          {"coupled_cache", o.coupled_cache},
          {"detailed", o.detailed},
          {"coupled_chunk_tokens", o.coupled_chunk_tokens},
          {"policy", o.policy.name},
          {"reject", cluster::RejectPolicyName(o.reject)},
          {"ttft_limit_s", static_cast<double>(o.limits.ttft_us) * 1e-6},
          {"tbt_limit_ms", static_cast<double>(o.limits.tbt_us) * 1e-3},
          {"rate", o.rate},
          {"copies", o.copies},
          {"jitter_s", static_cast<double>(o.jitter_us) * 1e-6},
          {"dram_tokens", o.dram_tokens},
          {"ssd_tokens", o.ssd_tokens},
          {"nic_bytes_per_s", o.nic_bytes_per_s},
          {"seed", o.seed}};
}

/// Share of requests that have at most so much; those that have nothing never do.
Series Cumulative(const Run& run, double (*value)(const RequestRecord&)) {
  std::vector<double> values;
  for (const RequestRecord& record : run.result.requests) {
    if (record.outcome == Outcome::kDone) values.push_back(value(record));
  }
  std::ranges::sort(values);
  Series series{.label = run.label, .points = {}};
  const double all = static_cast<double>(std::max<size_t>(1, run.result.requests.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    series.points.emplace_back(values[i], 100.0 * static_cast<double>(i + 1) / all);
  }
  return series;
}

Series OverTime(const Run& run, const char* what, int32_t LoadSample::* field) {
  Series series{.label = run.label + std::string(what), .points = {}};
  for (const LoadSample& sample : run.result.load) {
    series.points.emplace_back(static_cast<double>(sample.at_us) * 1e-6,
                               static_cast<double>(sample.*field));
  }
  return series;
}

std::string Charts(std::span<const Run> runs) {
  std::vector<Series> ttft;
  std::vector<Series> tbt;
  std::vector<Series> waiting;
  std::vector<Series> decoding;
  std::vector<Series> rejected;
  double ttft_max = 1.0;
  double tbt_max = 1.0;
  for (const Run& run : runs.first(std::min(runs.size(), kMaxDrawn))) {
    ttft.push_back(Cumulative(
        run, [](const RequestRecord& r) { return static_cast<double>(r.ttft_us) * 1e-6; }));
    tbt.push_back(Cumulative(run, [](const RequestRecord& r) { return r.tbt_us * 1e-3; }));
    waiting.push_back(OverTime(run, "", &LoadSample::waiting_prompts));
    decoding.push_back(OverTime(run, "", &LoadSample::decoding));
    rejected.push_back(OverTime(run, "", &LoadSample::rejected));
    ttft_max = std::max({ttft_max, run.summary.ttft_s.p99,
                         static_cast<double>(run.options.limits.ttft_us) * 1.1e-6});
    tbt_max = std::max(
        {tbt_max, run.summary.tbt_ms.p99, static_cast<double>(run.options.limits.tbt_us) * 1.1e-3});
  }
  const cluster::ServiceLimits& limits = runs.front().options.limits;
  std::string html;
  html += LineChart({.title = "TTFT: share of all requests within",
                     .x_label = "seconds",
                     .y_label = "%",
                     .x_max = ttft_max,
                     .mark_x = static_cast<double>(limits.ttft_us) * 1e-6},
                    ttft);
  html += LineChart({.title = "TBT: share of all requests within",
                     .x_label = "ms, mean of a request's longest 10 %",
                     .y_label = "%",
                     .x_max = tbt_max,
                     .mark_x = static_cast<double>(limits.tbt_us) * 1e-3},
                    tbt);
  html +=
      LineChart({.title = "Prompts waiting", .x_label = "seconds", .y_label = "prompts"}, waiting);
  html += LineChart({.title = "Sequences decoding", .x_label = "seconds", .y_label = "sequences"},
                    decoding);
  html += LineChart({.title = "Rejected", .x_label = "seconds", .y_label = "requests a sample"},
                    rejected);
  return html;
}

}  // namespace

std::string FormatTable(std::span<const Run> runs) {
  size_t label_width = 3;
  for (const Run& run : runs) label_width = std::max(label_width, run.label.size());
  std::array<size_t, kColumns.size()> widths{};
  std::vector<std::array<std::string, kColumns.size()>> rows;
  for (size_t c = 0; c < kColumns.size(); ++c) widths[c] = std::string_view(kColumns[c]).size();
  for (const Run& run : runs) {
    rows.push_back(Cells(run.summary));
    for (size_t c = 0; c < kColumns.size(); ++c) {
      widths[c] = std::max(widths[c], rows.back()[c].size());
    }
  }
  std::string text = Format("%-*s", static_cast<int>(label_width), "run");
  for (size_t c = 0; c < kColumns.size(); ++c) {
    text += Format("  %*s", static_cast<int>(widths[c]), kColumns[c]);
  }
  text += "\n";
  for (size_t r = 0; r < runs.size(); ++r) {
    text += runs[r].label + std::string(label_width - runs[r].label.size(), ' ');
    for (size_t c = 0; c < kColumns.size(); ++c) {
      text += Format("  %*s", static_cast<int>(widths[c]), rows[r][c].c_str());
    }
    text += "\n";
  }
  return text;
}

json::object ReportJson(std::span<const Run> runs, const std::string& cost_model) {
  json::array list;
  for (const Run& run : runs) {
    json::array load;
    for (const LoadSample& sample : run.result.load) {
      load.push_back(json::array{static_cast<double>(sample.at_us) * 1e-6, sample.waiting_prompts,
                                 sample.decoding, sample.rejected});
    }
    list.push_back({{"label", run.label},
                    {"options", OptionsJson(run.options)},
                    {"summary", SummaryJson(run.summary)},
                    {"load_fields", {"at_s", "waiting_prompts", "decoding", "rejected"}},
                    {"load", std::move(load)}});
  }
  return {{"costs", cost_model}, {"runs", std::move(list)}};
}

std::string FormatHtml(std::span<const Run> runs, const std::string& title) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" +
      EscapeHtml(title) +
      "</title><style>\nbody{font:15px "
      "system-ui,sans-serif;margin:2em;color:#1f2328;background:#fff}\n"
      "table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:right;border-bottom:1px "
      "solid #d1d9e0}td:first-child,th:first-child{text-align:left}\nsvg{margin:1em 1em 0 "
      "0;max-width:100%}text{font-size:11px;fill:#57606a}.title{font-size:13px;font-weight:600;"
      "fill:"
      "#1f2328}.x{text-anchor:middle}.y,.key{text-anchor:end}.grid{stroke:#eaeef2}.mark{stroke:#"
      "d1242f;stroke-dasharray:4 3}.key{fill:inherit}\n</style></head><body><h1>" +
      EscapeHtml(title) + "</h1>\n<table><tr><th>run</th>";
  for (const char* column : kColumns) html += "<th>" + EscapeHtml(column) + "</th>";
  html += "</tr>\n";
  for (const Run& run : runs) {
    html += "<tr><td>" + EscapeHtml(run.label) + "</td>";
    for (const std::string& cell : Cells(run.summary)) html += "<td>" + EscapeHtml(cell) + "</td>";
    html += "</tr>\n";
  }
  html +=
      "</table>\n<p>effective: first token and tokens within their limits, of all requests. hit "
      "own, "
      "fetched: shares of the prompt tokens of computed requests. wasted: prefill seconds of "
      "requests that were not effective.</p>\n";
  if (!runs.empty()) html += Charts(runs);
  return html + "</body></html>\n";
}

}  // namespace halfmoon::sim
