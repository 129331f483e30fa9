// SPDX-License-Identifier: Apache-2.0
// Bodies of API requests: whatever the bytes, the parsers answer with a request within bounds or an
// error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/limits.h"
#include "serve/openai_request.h"
#include "serve/routes.h"

namespace {

using namespace halfmoon::serve;

void Require(bool fact) {
  if (!fact) std::abort();
}

void CheckError(const ApiError& error) {
  Require(error.status == 400 && !error.message.empty() && error.code.has_value());
  Require(!halfmoon::json::Serialize(error.ToJson()).empty());
}

void CheckParams(const GenerationParams& params) {
  Require(params.n >= 1 && params.n <= kMaxChoices);
  Require(params.sampling.temperature >= 0 && params.sampling.top_p > 0 &&
          params.sampling.top_p <= 1);
  Require(params.sampling.top_k >= 0 && params.sampling.repetition_penalty > 0);
  Require(params.num_logprobs >= -1 && params.num_logprobs <= kMaxTopLogprobs);
  Require(params.max_tokens.value_or(0) >= 0 && params.stop.size() <= kMaxStopStrings);
  for (const auto& [id, bias] : params.sampling.logit_bias) {
    Require(id >= 0 && bias >= -100 && bias <= 100);
  }
  for (const std::string& stop : params.stop)
    Require(!stop.empty() && stop.size() <= kMaxStopBytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const halfmoon::engine::SamplingParams defaults;

  ChatRequest chat;
  if (const auto error = ParseChatRequest(body, defaults, chat)) {
    CheckError(*error);
  } else {
    CheckParams(chat.params);
    Require(!chat.prompt.messages.empty());
    for (const auto& message : chat.prompt.messages) {
      Require(message.is_object() && message.as_object().contains("role") &&
              message.as_object().contains("content"));
    }
  }

  CompletionRequest completion;
  if (const auto error = ParseCompletionRequest(body, defaults, completion)) {
    CheckError(*error);
  } else {
    CheckParams(completion.params);
    Require(!completion.prompts.empty());
    Require(static_cast<int64_t>(completion.prompts.size()) * completion.params.n <= kMaxChoices);
  }

  TokenizeRequest tokenize;
  if (const auto error = ParseTokenizeRequest(body, tokenize)) CheckError(*error);
  DetokenizeRequest detokenize;
  if (const auto error = ParseDetokenizeRequest(body, detokenize)) CheckError(*error);

  FindRoute("GET", body);
  return 0;
}
