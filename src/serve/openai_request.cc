// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_request.h"

#include <limits>
#include <utility>

#include "serve/chat_messages.h"
#include "serve/field_reader.h"
#include "serve/limits.h"

namespace halfmoon::serve {
namespace {

std::optional<ApiError> ParseBody(std::string_view body, json::object& object) {
  Result<json::object> parsed = json::ParseObject(body);
  if (!parsed.ok()) {
    ApiError error;
    error.message = "the request body is " + parsed.error().message();
    if (parsed.error().message().starts_with("expected")) {
      error.message = "the request body: " + parsed.error().message();
    }
    error.code = "invalid_json";
    return error;
  }
  object = std::move(*parsed);
  return std::nullopt;
}

void ReadChatOnly(FieldReader& reader, GenerationParams& params) {
  if (const auto limit =
          reader.Int("max_completion_tokens", 0, std::numeric_limits<int32_t>::max())) {
    params.max_tokens = static_cast<int32_t>(*limit);
  }
  const bool logprobs = reader.Bool("logprobs").value_or(false);
  const auto top = reader.Int("top_logprobs", 0, kMaxTopLogprobs);
  if (logprobs) {
    params.num_logprobs = static_cast<int32_t>(top.value_or(0));
  } else if (top.value_or(0) > 0) {
    reader.FailField("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  }
  reader.RefuseUnless("modalities", R"(["text"])", "this model writes text only");
  reader.RefuseUnless("audio", "", "this model writes text only");
  reader.RefuseUnless("web_search_options", "", "this server does not search the web");
  reader.RefuseUnless("verbosity", R"("medium")", "this model has no such control");
  reader.RefuseUnless("echo", "false", "use 'continue_final_message', or /v1/completions");
}

void AddPrompt(FieldReader& reader, const json::value& value, CompletionRequest& request) {
  if (value.is_string()) {
    request.prompts.emplace_back(std::string(value.as_string()));
  } else if (value.is_array()) {
    request.prompts.emplace_back(ReadTokenIds(reader, value.as_array(), "prompt"));
  } else {
    reader.FailField("prompt",
                     "'prompt' has to be a string, a list of strings, a list of token ids or a "
                     "list of lists of token ids");
  }
}

void ReadPrompts(FieldReader& reader, CompletionRequest& request) {
  const json::value* value = reader.Any("prompt");
  if (!reader.ok()) return;
  if (value == nullptr) return reader.FailField("prompt", "'prompt' is missing");
  if (!value->is_array()) return AddPrompt(reader, *value, request);
  const json::array& list = value->as_array();
  if (list.empty()) return reader.FailField("prompt", "'prompt' is an empty list");
  if (list.front().is_number()) return AddPrompt(reader, *value, request);
  if (static_cast<int64_t>(list.size()) > kMaxChoices) {
    return reader.FailField("prompt", "'prompt' has " + std::to_string(list.size()) +
                                          " prompts; at most " + std::to_string(kMaxChoices) +
                                          " are allowed");
  }
  for (const json::value& element : list) {
    AddPrompt(reader, element, request);
    if (!reader.ok()) return;
  }
}

}  // namespace

std::optional<ApiError> ParseChatRequest(std::string_view body,
                                         const engine::SamplingParams& defaults,
                                         ChatRequest& request) {
  json::object object;
  if (auto error = ParseBody(body, object)) return error;
  FieldReader reader(object);
  request.params = ReadGenerationParams(reader, defaults);
  ReadChatOnly(reader, request.params);
  request.prompt = ReadChatPrompt(reader);
  return reader.error();
}

std::optional<ApiError> ParseCompletionRequest(std::string_view body,
                                               const engine::SamplingParams& defaults,
                                               CompletionRequest& request) {
  json::object object;
  if (auto error = ParseBody(body, object)) return error;
  FieldReader reader(object);
  request.params = ReadGenerationParams(reader, defaults);
  if (!request.params.max_tokens) request.params.max_tokens = 16;  // the API's documented default
  if (const auto logprobs = reader.Int("logprobs", 0, kMaxTopLogprobs)) {
    request.params.num_logprobs = static_cast<int32_t>(*logprobs);
  }
  request.echo = reader.Bool("echo").value_or(false);
  request.add_special_tokens = reader.Bool("add_special_tokens").value_or(true);
  ReadPrompts(reader, request);
  const auto choices = static_cast<int64_t>(request.prompts.size()) * request.params.n;
  if (choices > kMaxChoices) {
    reader.FailField("n", "prompts times 'n' is " + std::to_string(choices) + "; at most " +
                              std::to_string(kMaxChoices) + " are allowed");
  }
  reader.RefuseUnless("suffix", "\"\"", "this server does not fill in the middle");
  if (const auto best_of = reader.Int("best_of", 1, kMaxChoices);
      best_of && *best_of != request.params.n) {
    reader.Fail(UnsupportedField("best_of", "'best_of' other than 'n' is not supported"));
  }
  return reader.error();
}

std::optional<ApiError> ParseTokenizeRequest(std::string_view body, TokenizeRequest& request) {
  json::object object;
  if (auto error = ParseBody(body, object)) return error;
  FieldReader reader(object);
  request.model = reader.String("model").value_or("");
  request.return_token_strs = reader.Bool("return_token_strs").value_or(false);
  const bool chat = reader.Any("messages") != nullptr;
  request.add_special_tokens = reader.Bool("add_special_tokens").value_or(!chat);
  if (chat) {
    request.prompt = ReadChatPrompt(reader);
  } else if (auto prompt = reader.String("prompt")) {
    request.prompt = *std::move(prompt);
  } else {
    reader.FailField("prompt", "'prompt' or 'messages' is needed");
  }
  return reader.error();
}

std::optional<ApiError> ParseDetokenizeRequest(std::string_view body, DetokenizeRequest& request) {
  json::object object;
  if (auto error = ParseBody(body, object)) return error;
  FieldReader reader(object);
  request.model = reader.String("model").value_or("");
  if (const json::array* tokens = reader.Array("tokens")) {
    request.tokens = ReadTokenIds(reader, *tokens, "tokens");
  } else {
    reader.FailField("tokens", "'tokens' has to be a list of token ids");
  }
  return reader.error();
}

}  // namespace halfmoon::serve
