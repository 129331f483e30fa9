// SPDX-License-Identifier: Apache-2.0
// What /metrics shows, in the text format of Prometheus.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/engine.h"

namespace halfmoon::serve {

/// How a generation request ended.
enum class Outcome { kStop, kLength, kCancelled, kError };

/// Collects and prints. Names are halfmoon_*; those that vLLM has too are printed a second time
/// under its names, so that dashboards made for it work. Thread-safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// One HTTP exchange was answered. route: the path of a known route, or "other".
  void CountHttp(std::string_view route, int status);
  /// From arrival of the request to its first token.
  void ObserveFirstToken(double seconds);
  /// `count` tokens came `seconds` after the one before.
  void ObserveTokens(double seconds, int64_t count);
  /// A request ended. Lengths and duration are kept of those that ended well.
  void ObserveEnd(Outcome outcome, double seconds, int64_t prompt_tokens,
                  int64_t completion_tokens);

  /// Whole seconds after which a request refused now may find a place: how long requests took
  /// lately, times the waves of requests in front. At least 1, at most 120.
  int RetryAfterSeconds(const engine::EngineStats& stats) const;

  /// The page. stats: of the engine, if there is one; model: label model_name.
  std::string Print(const std::optional<engine::EngineStats>& stats,
                    const std::string& model) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon::serve
