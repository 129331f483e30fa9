// SPDX-License-Identifier: Apache-2.0
// Bodies of API requests, read and checked. Everything here takes bytes from strangers: it never
// throws and never fails a CHECK, and what it returns is bounded by the body's size and by
// limits.h.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "serve/api_error.h"
#include "serve/generation_params.h"

namespace halfmoon::serve {

/// A conversation, normalised for chat templates: roles are system, user, assistant or tool,
/// content is text or null, arguments of tool calls are objects where they are JSON objects.
struct ChatPrompt {
  json::array messages;  ///< at least one
  json::array tools;     ///< empty where there are none or tool_choice is "none"
  json::object template_kwargs;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;
};

struct ChatRequest {
  GenerationParams params;
  ChatPrompt prompt;
};

/// Text, or token ids.
using CompletionPrompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest {
  GenerationParams params;
  std::vector<CompletionPrompt> prompts;  ///< at least one; prompts times n at most kMaxChoices
  bool echo = false;
  bool add_special_tokens = true;
};

struct TokenizeRequest {
  std::string model;
  std::variant<std::string, ChatPrompt> prompt;
  bool add_special_tokens = true;
  bool return_token_strs = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};

/// Each reads one body into `request` and returns what is wrong with it, or nullopt.
std::optional<ApiError> ParseChatRequest(std::string_view body,
                                         const engine::SamplingParams& defaults,
                                         ChatRequest& request);
std::optional<ApiError> ParseCompletionRequest(std::string_view body,
                                               const engine::SamplingParams& defaults,
                                               CompletionRequest& request);
std::optional<ApiError> ParseTokenizeRequest(std::string_view body, TokenizeRequest& request);
std::optional<ApiError> ParseDetokenizeRequest(std::string_view body, DetokenizeRequest& request);

}  // namespace halfmoon::serve
