// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_case.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace halfmoon::app {
namespace {

constexpr int kMostTokens = 1 << 20;
constexpr int kMostSequences = 1024;
constexpr std::string_view kFirstTokenName = "first token";

std::string Name(const std::string& what, int depth) {
  return depth == 0 ? what : what + " at " + std::to_string(depth);
}

/// The whole text as a number within [least, most].
std::optional<int> Number(std::string_view text, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (value < least || value > most) return std::nullopt;
  return value;
}

}  // namespace

std::string CaseName(const BenchCase& which) {
  switch (which.kind) {
    case BenchCase::Kind::kPrefill:
      return Name("prefill " + std::to_string(which.tokens), which.depth);
    case BenchCase::Kind::kDecode:
      return Name("decode x" + std::to_string(which.sequences), which.depth);
    case BenchCase::Kind::kFirstToken:
      return std::string(kFirstTokenName);
  }
  return "";
}

Result<BenchCase> ParseCase(std::string_view name) {
  const Error error(ErrorCode::kInvalidArgument,
                    "case \"" + std::string(name) +
                        "\": expected \"prefill TOKENS\", \"decode xSEQUENCES\", either with \" at "
                        "DEPTH\" behind it, or \"first token\"");
  if (name == kFirstTokenName) return BenchCase{.kind = BenchCase::Kind::kFirstToken};
  BenchCase which;
  std::string_view what = name;
  constexpr std::string_view kAt = " at ";
  if (const size_t at = name.find(kAt); at != std::string_view::npos) {
    const std::optional<int> depth = Number(name.substr(at + kAt.size()), 0, kMostTokens);
    if (!depth.has_value()) return error;
    which.depth = *depth;
    what = name.substr(0, at);
  }
  constexpr std::string_view kPrefill = "prefill ";
  constexpr std::string_view kDecode = "decode x";
  std::optional<int> count;
  if (what.starts_with(kPrefill)) {
    count = Number(what.substr(kPrefill.size()), 1, kMostTokens);
    which.tokens = count.value_or(0);
  } else if (what.starts_with(kDecode)) {
    count = Number(what.substr(kDecode.size()), 1, kMostSequences);
    which.kind = BenchCase::Kind::kDecode;
    which.sequences = count.value_or(0);
  }
  if (!count.has_value()) return error;
  return which;
}

Result<std::vector<BenchCase>> ChooseCases(const CaseRequest& request, bool first_token) {
  std::vector<BenchCase> cases;
  if (!request.names.empty()) {
    for (const std::string& name : request.names) {
      HM_ASSIGN(cases.emplace_back(), ParseCase(name));
    }
    return cases;
  }
  const bool usual = !request.AsksForSome();
  const std::vector<int> usual_prefill = {512, 4096};
  const std::vector<int> usual_batch = {1, 4, 16, 64};
  const auto& prefill = request.prefill.empty() ? usual_prefill : request.prefill;
  const auto& batch = request.batch.empty() ? usual_batch : request.batch;
  for (const int depth : request.depth.empty() ? std::vector<int>{0} : request.depth) {
    for (const int tokens : prefill) {
      cases.push_back({.kind = BenchCase::Kind::kPrefill, .tokens = tokens, .depth = depth});
    }
    for (const int sequences : batch) {
      cases.push_back({.kind = BenchCase::Kind::kDecode, .sequences = sequences, .depth = depth});
    }
  }
  if (usual) cases.push_back({.kind = BenchCase::Kind::kDecode, .sequences = 1, .depth = 4096});
  if (usual && first_token) cases.push_back({.kind = BenchCase::Kind::kFirstToken});
  return cases;
}

Result<int> MostSequences(const CaseRequest& request) {
  HM_ASSIGN(const std::vector<BenchCase> cases, ChooseCases(request, /*first_token=*/false));
  int most = 1;
  for (const BenchCase& one : cases) most = std::max(most, one.sequences);
  return most;
}

Result<std::vector<BenchCase>> CasesThatFit(
    const std::vector<BenchCase>& cases, bool asked, int decode_tokens, int64_t max_context,
    const std::function<void(const std::string& why)>& left_out) {
  std::vector<BenchCase> fitting;
  for (const BenchCase& one : cases) {
    const int positions = PositionsOf(one, decode_tokens);
    if (positions <= max_context) {
      fitting.push_back(one);
      continue;
    }
    const std::string why = CaseName(one) + ": " + std::to_string(positions) +
                            " tokens do not fit the context of " + std::to_string(max_context);
    if (asked) return Error(ErrorCode::kInvalidArgument, why);
    left_out(why);
  }
  return fitting;
}

int PositionsOf(const BenchCase& which, int decode_tokens) {
  return which.depth + (which.kind == BenchCase::Kind::kPrefill ? which.tokens : decode_tokens);
}

}  // namespace halfmoon::app
