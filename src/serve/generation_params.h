// SPDX-License-Identifier: Apache-2.0
// The fields that chat completions and completions have in common.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "serve/field_reader.h"
#include "text/grammar.h"

namespace halfmoon::serve {

/// A wish for constrained output.
struct GrammarSpec {
  text::GrammarKind kind = text::GrammarKind::kJsonSchema;
  std::string source;
  std::string param;  ///< request field it came from, for errors
};

/// How to generate and how to answer, independent of the prompt. Checked except for what needs the
/// model: token ids against the vocabulary, max_tokens against the context.
struct GenerationParams {
  std::string model;  ///< empty: the default
  bool stream = false;
  bool include_usage = false;
  int n = 1;
  engine::SamplingParams sampling;  ///< `seed` is not set here
  std::optional<uint64_t> seed;     ///< absent: the server draws one
  std::optional<int32_t> max_tokens;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  int32_t num_logprobs = -1;  ///< as engine::Request::num_logprobs
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool include_stop = false;
  bool return_token_ids = false;
  bool tokens_as_ids = false;  ///< "token_id:17" in place of token texts in logprobs
  std::string cache_salt;
  std::string service_tier;  ///< name of its class; empty: the default
  int32_t priority = 0;      ///< among requests of its class, smaller ones first
  std::optional<GrammarSpec> grammar;
};

/// Reads the common fields and refuses those that would change the answer and are not supported.
/// `defaults` holds the values of absent sampling fields. Complaints stay in `reader`.
GenerationParams ReadGenerationParams(FieldReader& reader, const engine::SamplingParams& defaults);

/// A list of token ids, each in [0, 2^31). Complaints name `param`.
std::vector<int32_t> ReadTokenIds(FieldReader& reader, const json::array& list,
                                  std::string_view param);

}  // namespace halfmoon::serve
