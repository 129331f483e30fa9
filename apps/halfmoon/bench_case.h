// SPDX-License-Identifier: Apache-2.0
// The cases that `halfmoon bench` measures, by the names that it prints.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::app {

struct BenchCase {
  enum class Kind {
    kPrefill,     ///< a prompt of `tokens` tokens, logits of the last
    kDecode,      ///< `sequences` sequences, one token of each a step
    kFirstToken,  ///< from nothing to the first token of a short answer; only beside a peer
  };
  Kind kind = Kind::kPrefill;
  int tokens = 0;     ///< of a prefill
  int sequences = 1;  ///< of a decode
  int depth = 0;      ///< tokens in the KV cache before, of each sequence

  bool operator==(const BenchCase&) const = default;
};

/// "prefill 512", "decode x16", "decode x1 at 4096", "first token".
std::string CaseName(const BenchCase& which);

/// The reverse. Errors: kInvalidArgument saying how cases are named.
Result<BenchCase> ParseCase(std::string_view name);

/// Which cases a command line asks for.
struct CaseRequest {
  std::vector<std::string> names;  ///< --cases; empty: by the lists below
  std::vector<int> prefill;        ///< prompt lengths at each depth
  std::vector<int> batch;          ///< sequences decoded at each depth
  std::vector<int> depth;          ///< all lists empty: the usual cases

  bool AsksForSome() const {
    return !names.empty() || !prefill.empty() || !batch.empty() || !depth.empty();
  }
};

/// The cases in the order in which they are measured. Where nothing is asked for: prompts of 512
/// and 4096 tokens, 1, 4, 16 and 64 sequences, and one sequence at depth 4096; `first_token` then
/// adds that. Errors: those of ParseCase.
Result<std::vector<BenchCase>> ChooseCases(const CaseRequest& request, bool first_token);

/// Most sequences that any of those cases decodes together.
Result<int> MostSequences(const CaseRequest& request);

/// Drops the cases that reach beyond `max_context`, and says why to `left_out`; where cases were
/// asked for, that is an error (kInvalidArgument).
Result<std::vector<BenchCase>> CasesThatFit(
    const std::vector<BenchCase>& cases, bool asked, int decode_tokens, int64_t max_context,
    const std::function<void(const std::string& why)>& left_out);

/// Positions that a case reaches, with `decode_tokens` decoded by each sequence.
int PositionsOf(const BenchCase& which, int decode_tokens);

}  // namespace halfmoon::app
