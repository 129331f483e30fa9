// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_request.h"

#include <gtest/gtest.h>

#include "serve/limits.h"

namespace halfmoon::serve {
namespace {

const engine::SamplingParams kDefaults;

ChatRequest Chat(std::string_view body) {
  ChatRequest request;
  const std::optional<ApiError> error = ParseChatRequest(body, kDefaults, request);
  EXPECT_FALSE(error) << error->message;
  return request;
}

ApiError ChatError(std::string_view body) {
  ChatRequest request;
  const std::optional<ApiError> error = ParseChatRequest(body, kDefaults, request);
  EXPECT_TRUE(error) << body;
  return error.value_or(ApiError());
}

/// A chat request with one user message and `fields` (which begin with a comma).
std::string WithFields(std::string_view fields) {
  return R"({"messages":[{"role":"user","content":"hi"}])" + std::string(fields) + "}";
}

CompletionRequest Completion(std::string_view body) {
  CompletionRequest request;
  const std::optional<ApiError> error = ParseCompletionRequest(body, kDefaults, request);
  EXPECT_FALSE(error) << error->message;
  return request;
}

ApiError CompletionError(std::string_view body) {
  CompletionRequest request;
  const std::optional<ApiError> error = ParseCompletionRequest(body, kDefaults, request);
  EXPECT_TRUE(error) << body;
  return error.value_or(ApiError());
}

TEST(ParseChatRequest, MinimalBody_TakesDefaults) {
  const ChatRequest request = Chat(WithFields(""));
  EXPECT_EQ(request.params.model, "");
  EXPECT_EQ(request.params.n, 1);
  EXPECT_FALSE(request.params.stream);
  EXPECT_FALSE(request.params.max_tokens);
  EXPECT_FALSE(request.params.seed);
  EXPECT_EQ(request.params.num_logprobs, -1);
  EXPECT_FLOAT_EQ(request.params.sampling.temperature, 1.0f);
  EXPECT_TRUE(request.prompt.add_generation_prompt);
  EXPECT_FALSE(request.prompt.add_special_tokens);
}

TEST(ParseChatRequest, AllSamplingFields_Arrive) {
  const ChatRequest request = Chat(WithFields(
      R"(,"model":"m","stream":true,"stream_options":{"include_usage":true},"n":3,"seed":-1,
          "temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.05,"repetition_penalty":1.1,
          "presence_penalty":-2,"frequency_penalty":2,"logit_bias":{"5":-100,"7":1.5},
          "max_tokens":9,"stop":["a","b"],"stop_token_ids":[3],"logprobs":true,"top_logprobs":4,
          "ignore_eos":true,"skip_special_tokens":false,"include_stop_str_in_output":true,
          "return_token_ids":true,"cache_salt":"s","user":"someone","metadata":{"a":"b"})"));
  const GenerationParams& params = request.params;
  EXPECT_TRUE(params.stream && params.include_usage && params.ignore_eos && params.include_stop);
  EXPECT_TRUE(params.return_token_ids);
  EXPECT_FALSE(params.skip_special_tokens);
  EXPECT_EQ(params.n, 3);
  EXPECT_EQ(params.seed, UINT64_MAX);
  EXPECT_EQ(params.max_tokens, 9);
  EXPECT_EQ(params.num_logprobs, 4);
  EXPECT_EQ(params.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(params.stop_token_ids, std::vector<int32_t>{3});
  EXPECT_EQ(params.cache_salt, "s");
  EXPECT_EQ(params.sampling.top_k, 0);
  EXPECT_FLOAT_EQ(params.sampling.min_p, 0.05f);
  EXPECT_FLOAT_EQ(params.sampling.repetition_penalty, 1.1f);
  ASSERT_EQ(params.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(params.sampling.logit_bias[1].first, 7);
  EXPECT_FLOAT_EQ(params.sampling.logit_bias[1].second, 1.5f);
}

TEST(ParseChatRequest, AbsentSamplingFields_TakeTheModelsDefaults) {
  engine::SamplingParams defaults;
  defaults.temperature = 0.6f;
  defaults.top_k = 20;
  ChatRequest request;
  ASSERT_FALSE(ParseChatRequest(WithFields(R"(,"top_k":5,"temperature":null)"), defaults, request));
  EXPECT_FLOAT_EQ(request.params.sampling.temperature, 0.6f);
  EXPECT_EQ(request.params.sampling.top_k, 5);
}

TEST(ParseChatRequest, LargeSeed_KeepsAllBits) {
  EXPECT_EQ(Chat(WithFields(R"(,"seed":18446744073709551615)")).params.seed, UINT64_MAX);
}

TEST(ParseChatRequest, MaxCompletionTokens_WinsOverMaxTokens) {
  EXPECT_EQ(Chat(WithFields(R"(,"max_tokens":5,"max_completion_tokens":7)")).params.max_tokens, 7);
}

TEST(ParseChatRequest, StopString_IsAListOfOne) {
  EXPECT_EQ(Chat(WithFields(R"(,"stop":"\n")")).params.stop, std::vector<std::string>{"\n"});
}

TEST(ParseChatRequest, TextParts_AreJoined) {
  const ChatRequest request = Chat(
      R"({"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]})");
  const json::object& message = request.prompt.messages[0].as_object();
  EXPECT_EQ(message.at("role").as_string(), "system");
  EXPECT_EQ(message.at("content").as_string(), "a\nb");
}

TEST(ParseChatRequest, ToolConversation_GetsArgumentsAsObjects) {
  const ChatRequest request = Chat(R"({"messages":[
      {"role":"user","content":"weather?"},
      {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",
        "function":{"name":"get","arguments":"{\"city\":\"Oslo\"}"}}]},
      {"role":"tool","tool_call_id":"c1","content":"rain"}],
    "tools":[{"type":"function","function":{"name":"get","parameters":{}}}]})");
  const json::object& call = request.prompt.messages[1].as_object();
  EXPECT_TRUE(call.at("content").is_null());
  const json::object& function =
      call.at("tool_calls").as_array()[0].as_object().at("function").as_object();
  EXPECT_EQ(function.at("arguments").as_object().at("city").as_string(), "Oslo");
  EXPECT_EQ(request.prompt.messages[2].as_object().at("tool_call_id").as_string(), "c1");
  EXPECT_EQ(request.prompt.tools.size(), 1u);
}

TEST(ParseChatRequest, ToolChoiceNone_HidesTheTools) {
  EXPECT_TRUE(
      Chat(WithFields(
               R"(,"tool_choice":"none","tools":[{"type":"function","function":{"name":"f"}}])"))
          .prompt.tools.empty());
}

TEST(ParseChatRequest, JsonSchema_BecomesAGrammar) {
  const ChatRequest request = Chat(WithFields(
      R"(,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"integer"}}})"));
  ASSERT_TRUE(request.params.grammar);
  EXPECT_EQ(request.params.grammar->source, R"({"type":"integer"})");
  EXPECT_FALSE(Chat(WithFields(R"(,"response_format":{"type":"text"})")).params.grammar);
}

TEST(ParseChatRequest, ContinueFinalMessage_TurnsTheGenerationPromptOff) {
  const ChatRequest request =
      Chat(R"({"messages":[{"role":"assistant","content":"So"}],"continue_final_message":true})");
  EXPECT_TRUE(request.prompt.continue_final_message);
  EXPECT_FALSE(request.prompt.add_generation_prompt);
}

TEST(ParseChatRequest, WrongFields_AreNamed) {
  const struct {
    std::string_view fields;
    std::string_view param;
  } cases[] = {
      {R"(,"temperature":-1)", "temperature"},
      {R"(,"temperature":"hot")", "temperature"},
      {R"(,"top_p":0)", "top_p"},
      {R"(,"top_p":1.5)", "top_p"},
      {R"(,"top_k":-2)", "top_k"},
      {R"(,"min_p":2)", "min_p"},
      {R"(,"repetition_penalty":0)", "repetition_penalty"},
      {R"(,"presence_penalty":3)", "presence_penalty"},
      {R"(,"n":0)", "n"},
      {R"(,"n":1000)", "n"},
      {R"(,"max_tokens":-1)", "max_tokens"},
      {R"(,"max_tokens":1.5)", "max_tokens"},
      {R"(,"stop":[""])", "stop"},
      {R"(,"stop":7)", "stop"},
      {R"(,"logit_bias":{"x":1})", "logit_bias"},
      {R"(,"logit_bias":{"1":101})", "logit_bias"},
      {R"(,"logit_bias":[1])", "logit_bias"},
      {R"(,"seed":"1")", "seed"},
      {R"(,"stream":1)", "stream"},
      {R"(,"stream_options":{"include_usage":true})", "stream_options"},
      {R"(,"top_logprobs":2)", "top_logprobs"},
      {R"(,"logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"(,"response_format":{"type":"xml"})", "response_format.type"},
      {R"(,"response_format":{"type":"json_schema"})", "response_format.json_schema"},
      {R"(,"tools":[{"type":"function"}])", "tools"},
      {R"(,"stop_token_ids":[-1])", "stop_token_ids"},
      {R"(,"chat_template_kwargs":[])", "chat_template_kwargs"},
      {R"(,"continue_final_message":true,"add_generation_prompt":true)", "continue_final_message"},
  };
  for (const auto& c : cases) {
    const ApiError error = ChatError(WithFields(c.fields));
    EXPECT_EQ(error.status, 400) << c.fields;
    EXPECT_EQ(error.param, c.param) << c.fields;
    EXPECT_EQ(error.code, "invalid_value") << c.fields;
    EXPECT_NE(error.message.find(c.param.substr(c.param.rfind('.') + 1)), std::string::npos)
        << error.message;
  }
}

TEST(ParseChatRequest, FieldsThatWouldChangeTheAnswer_AreRefused) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"modalities", R"(["text","audio"])"},
      {"audio", "{}"},
      {"tool_choice", R"("required")"},
      {"min_tokens", "5"},
      {"use_beam_search", "true"},
      {"guided_regex", R"("a")"},
      {"functions", "[{}]"},
      {"chat_template", R"("x")"},
      {"dry_multiplier", "0.8"},
      {"echo", "true"},
      {"web_search_options", "{}"}};
  for (const auto& [field, value] : cases) {
    const ApiError error =
        ChatError(WithFields(",\"" + std::string(field) + "\":" + std::string(value)));
    EXPECT_EQ(error.code, "unsupported_parameter") << field;
    EXPECT_EQ(error.param, field);
  }
}

TEST(ParseChatRequest, NeutralValuesOfThem_Pass) {
  Chat(WithFields(
      R"(,"modalities":["text"],"audio":null,"min_tokens":0,"use_beam_search":false)"
      R"(,"dry_multiplier":0.0,"mirostat":0,"typical_p":1.0,"tool_choice":"auto","unheard_of":[1])"));
}

TEST(ParseChatRequest, WrongMessages_AreNamed) {
  EXPECT_EQ(ChatError("{}").param, "messages");
  EXPECT_EQ(ChatError(R"({"messages":[]})").param, "messages");
  EXPECT_EQ(ChatError(R"({"messages":["hi"]})").param, "messages[0]");
  EXPECT_EQ(ChatError(R"({"messages":[{"role":"bard","content":"x"}]})").param, "messages[0].role");
  EXPECT_EQ(ChatError(R"({"messages":[{"role":"user"}]})").param, "messages[0].content");
  EXPECT_EQ(ChatError(R"({"messages":[{"role":"user","content":5}]})").param,
            "messages[0].content");
  const ApiError image = ChatError(
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})");
  EXPECT_EQ(image.code, "unsupported_parameter");
  EXPECT_NE(image.message.find("image_url"), std::string::npos);
}

TEST(ParseChatRequest, TooManyMessages_AreRefused) {
  std::string body = R"({"messages":[)";
  for (size_t i = 0; i <= kMaxMessages; ++i) {
    body += i == 0 ? "" : ",";
    body += R"({"role":"user","content":"x"})";
  }
  EXPECT_EQ(ChatError(body + "]}").param, "messages");
}

TEST(ParseChatRequest, NotJson_IsSaidPlainly) {
  for (const std::string_view body :
       {"", "{", "[]", "nul", "{\"a\":1}}", "\xff", "{\"messages\":\"\xff\"}"}) {
    EXPECT_EQ(ChatError(body).code, "invalid_json") << body;
  }
  EXPECT_EQ(ChatError(std::string(100000, '[')).code, "invalid_json");
}

TEST(ParseCompletionRequest, EveryShapeOfPrompt_IsRead) {
  EXPECT_EQ(std::get<std::string>(Completion(R"({"prompt":"a"})").prompts.at(0)), "a");
  EXPECT_EQ(Completion(R"({"prompt":["a","b"]})").prompts.size(), 2u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(Completion(R"({"prompt":[1,2]})").prompts.at(0)),
            (std::vector<int32_t>{1, 2}));
  const CompletionRequest lists = Completion(R"({"prompt":[[1],[2,3]]})");
  EXPECT_EQ(std::get<std::vector<int32_t>>(lists.prompts.at(1)), (std::vector<int32_t>{2, 3}));
}

TEST(ParseCompletionRequest, DefaultsAndEcho_AreThoseOfTheApi) {
  const CompletionRequest plain = Completion(R"({"prompt":"a"})");
  EXPECT_EQ(plain.params.max_tokens, 16);
  EXPECT_TRUE(plain.add_special_tokens);
  const CompletionRequest scoring = Completion(
      R"({"prompt":[[1,2]],"echo":true,"max_tokens":0,"logprobs":1,"best_of":1,"suffix":""})");
  EXPECT_TRUE(scoring.echo);
  EXPECT_EQ(scoring.params.max_tokens, 0);
  EXPECT_EQ(scoring.params.num_logprobs, 1);
}

TEST(ParseCompletionRequest, WrongPrompts_AreRefused) {
  for (const std::string_view body :
       {R"({})", R"({"prompt":[]})", R"({"prompt":7})", R"({"prompt":["a",7]})",
        R"({"prompt":[1,"a"]})", R"({"prompt":[1.5]})", R"({"prompt":[-1]})",
        R"({"prompt":[[1],["a"]]})", R"({"prompt":[4294967296]})"}) {
    EXPECT_EQ(CompletionError(body).param, "prompt") << body;
  }
  EXPECT_EQ(CompletionError(R"({"prompt":["a","b"],"n":100})").param, "n");
  EXPECT_EQ(CompletionError(R"({"prompt":"a","suffix":"b"})").code, "unsupported_parameter");
  EXPECT_EQ(CompletionError(R"({"prompt":"a","best_of":3})").code, "unsupported_parameter");
}

TEST(ParseTokenizeRequest, PromptOrMessages_IsNeeded) {
  TokenizeRequest request;
  EXPECT_FALSE(ParseTokenizeRequest(R"({"prompt":"a","return_token_strs":true})", request));
  EXPECT_TRUE(request.add_special_tokens && request.return_token_strs);
  EXPECT_FALSE(ParseTokenizeRequest(R"({"messages":[{"role":"user","content":"a"}]})", request));
  EXPECT_TRUE(std::holds_alternative<ChatPrompt>(request.prompt));
  EXPECT_FALSE(request.add_special_tokens);
  EXPECT_TRUE(ParseTokenizeRequest("{}", request));
}

TEST(ParseDetokenizeRequest, Tokens_AreRead) {
  DetokenizeRequest request;
  EXPECT_FALSE(ParseDetokenizeRequest(R"({"tokens":[1,2]})", request));
  EXPECT_EQ(request.tokens, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(ParseDetokenizeRequest(R"({"tokens":"1"})", request));
  EXPECT_TRUE(ParseDetokenizeRequest("{}", request));
}

}  // namespace
}  // namespace halfmoon::serve
