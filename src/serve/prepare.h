// SPDX-License-Identifier: Apache-2.0
// From a parsed request to what the engine runs: templates, token ids, limits, seeds. Long prompts
// make this slow, so it runs on worker threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generation.h"
#include "serve/api_error.h"
#include "serve/backend.h"
#include "serve/grammar_state.h"
#include "serve/id_source.h"
#include "serve/openai_request.h"
#include "serve/openai_response.h"
#include "serve/service_class.h"

namespace halfmoon::serve {

/// One sequence of a request. Choice i belongs to prompt i / n.
struct ChoicePlan {
  engine::GenerationOptions options;
  std::string echo_text;                  ///< put in front of the output; empty: nothing
  bool echo_logprobs = false;             ///< the prompt's logprobs go in front too
  std::shared_ptr<GrammarState> grammar;  ///< null: none
};

/// A request ready to be queued.
struct GenerationPlan {
  std::vector<ChoicePlan> choices;
  int choices_per_prompt = 1;
  bool include_usage = false;
  std::unique_ptr<ResponseFormat> format;
};

/// What the server adds to a request.
struct PrepareOptions {
  std::string model;              ///< the name to answer with
  int32_t max_output_tokens = 0;  ///< bound of max_tokens; 0: the context only
  ServiceClass service_class;
};

/// Each fills `plan`, or returns why the request cannot run. Errors: 400, among them
/// context_length_exceeded with both lengths.
std::optional<ApiError> PrepareChat(const Backend& backend, const PrepareOptions& options,
                                    IdSource& ids, const ChatRequest& request,
                                    GenerationPlan& plan);
std::optional<ApiError> PrepareCompletion(const Backend& backend, const PrepareOptions& options,
                                          IdSource& ids, CompletionRequest request,
                                          GenerationPlan& plan);

/// Renders and tokenises a conversation.
std::optional<ApiError> TokenizeChat(const Backend& backend, const ChatPrompt& prompt,
                                     std::vector<int32_t>& ids);

}  // namespace halfmoon::serve
