// SPDX-License-Identifier: Apache-2.0
// Chat completions and completions over HTTP, against an engine that follows a script.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "serve/test_support.h"

namespace halfmoon::serve::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletion[] = "/v1/completions";

FakeEngine::Reply Saying(const std::string& text) {
  return [text](const engine::Request& request) { return Say(request, text); };
}

std::string ChatBody(std::string_view fields = "") {
  return R"({"messages":[{"role":"user","content":"hi"}])" + std::string(fields) + "}";
}

const json::object& Choice(const json::object& answer, size_t index = 0) {
  return answer.at("choices").as_array().at(index).as_object();
}

std::string Content(const json::object& answer, size_t index = 0) {
  return std::string(Choice(answer, index).at("message").as_object().at("content").as_string());
}

int64_t UsageOf(const json::object& answer, std::string_view field) {
  return answer.at("usage").as_object().at(field).as_int64();
}

TEST(ChatCompletions, WholeAnswer_HasTheShapeOfTheApi) {
  TestServer server(Saying("Hello"));
  const json::object answer = server.PostOk(kChat, ChatBody(R"(,"model":"tiny")"));
  EXPECT_EQ(answer.at("object").as_string(), "chat.completion");
  EXPECT_EQ(answer.at("model").as_string(), "tiny");
  EXPECT_EQ(answer.at("system_fingerprint").as_string(), "fp_0123456789ab");
  EXPECT_TRUE(answer.at("id").as_string().starts_with("chatcmpl-"));
  EXPECT_GT(answer.at("created").as_int64(), 1'700'000'000);
  EXPECT_EQ(Content(answer), "Hello");
  EXPECT_EQ(Choice(answer).at("message").as_object().at("role").as_string(), "assistant");
  EXPECT_EQ(Choice(answer).at("finish_reason").as_string(), "stop");
  EXPECT_TRUE(Choice(answer).at("logprobs").is_null());
  // "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n" with one token a byte.
  EXPECT_EQ(UsageOf(answer, "prompt_tokens"), 1 + 5 + 2 + 1 + 1 + 1 + 10);
  EXPECT_EQ(UsageOf(answer, "completion_tokens"), 6);
  EXPECT_EQ(UsageOf(answer, "total_tokens"), 21 + 6);
  EXPECT_EQ(answer.at("usage").at("prompt_tokens_details").at("cached_tokens").as_int64(), 0);
}

TEST(ChatCompletions, Prompt_IsTheRenderedTemplate) {
  TestServer server(Saying("x"));
  server.PostOk(
      kChat,
      ChatBody(
          R"(,"chat_template_kwargs":{"extra":"E"},"tools":[{"type":"function","function":{"name":"f"}}])"));
  EXPECT_EQ(server.tokenizer().Decode(server.engine().WaitSequence(0)->request().prompt_ids),
            "<|im_start|>user\nhi<|im_end|>\nT1E<|im_start|>assistant\n");
}

TEST(ChatCompletions, ContinueFinalMessage_EndsThePromptInsideIt) {
  TestServer server(Saying("x"));
  server.PostOk(
      kChat, R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"So, "}],
                           "continue_final_message":true})");
  const std::string prompt =
      server.tokenizer().Decode(server.engine().WaitSequence(0)->request().prompt_ids);
  EXPECT_TRUE(prompt.ends_with("<|im_start|>assistant\nSo,")) << prompt;
}

TEST(ChatCompletions, Request_ReachesTheEngine) {
  TestServer server(Saying("x"));
  server.PostOk(
      kChat, ChatBody(R"(,"temperature":0,"top_k":7,"seed":5,"max_tokens":9,"stop_token_ids":[65],
                                    "logit_bias":{"66":-3},"cache_salt":"me")"));
  const engine::Request& request = server.engine().WaitSequence(0)->request();
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_EQ(request.sampling.top_k, 7);
  EXPECT_EQ(request.sampling.seed, 5u);
  EXPECT_EQ(request.sampling.logit_bias.at(0).first, 66);
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.stop_ids, (std::vector<int32_t>{kEndId, 65}));
  EXPECT_EQ(request.num_logprobs, -1);
  EXPECT_EQ(request.cache_salt, "me");
}

TEST(ChatCompletions, ServiceTier_ChoosesTheClassAndIsTold) {
  ServerOptions options;
  options.classes.push_back(
      {.name = "batch", .priority = 2, .ttft_us = 3'000'000, .tbt_us = 40'000});
  TestServer server(Saying("x"), options);
  const json::object answer =
      server.PostOk(kChat, ChatBody(R"(,"service_tier":"batch","priority":-1)"));
  EXPECT_EQ(answer.at("service_tier").as_string(), "batch");
  const engine::Service& batch = server.engine().WaitSequence(0)->request().service;
  EXPECT_EQ(batch.ttft_limit_us, 3'000'000);
  EXPECT_EQ(batch.tbt_limit_us, 40'000);
  EXPECT_FALSE(server.PostOk(kChat, ChatBody()).contains("service_tier"));
  const engine::Service& plain = server.engine().WaitSequence(1)->request().service;
  EXPECT_LT(plain.priority, batch.priority);
  EXPECT_EQ(plain.ttft_limit_us, 0);
  const json::object refused = server.PostError(kChat, ChatBody(R"(,"service_tier":"gold")"), 400);
  EXPECT_EQ(refused.at("param").as_string(), "service_tier");
}

TEST(ChatCompletions, WithoutMaxTokens_TheContextIsTheLimit) {
  TestServer server(Saying("x"));
  server.PostOk(kChat, ChatBody());
  const engine::Request& request = server.engine().WaitSequence(0)->request();
  EXPECT_EQ(request.max_tokens, kContext - static_cast<int32_t>(request.prompt_ids.size()));
}

TEST(ChatCompletions, WithoutSeed_EachRequestGetsItsOwn) {
  TestServer server(Saying("x"));
  server.PostOk(kChat, ChatBody());
  server.PostOk(kChat, ChatBody());
  EXPECT_NE(server.engine().WaitSequence(0)->request().sampling.seed,
            server.engine().WaitSequence(1)->request().sampling.seed);
}

TEST(ChatCompletions, SeveralChoices_DrawFromDifferentSeeds) {
  TestServer server(Saying("abc"));
  const json::object answer = server.PostOk(kChat, ChatBody(R"(,"n":3,"seed":5,"max_tokens":2)"));
  ASSERT_EQ(answer.at("choices").as_array().size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Choice(answer, i).at("index").as_int64(), static_cast<int64_t>(i));
    EXPECT_EQ(Content(answer, i), "ab");
    EXPECT_EQ(Choice(answer, i).at("finish_reason").as_string(), "length");
  }
  EXPECT_EQ(UsageOf(answer, "prompt_tokens"), 21);  // once, not three times
  EXPECT_EQ(UsageOf(answer, "completion_tokens"), 6);
  const auto seed = [&](size_t i) {
    return server.engine().WaitSequence(i)->request().sampling.seed;
  };
  EXPECT_EQ(seed(0), 5u);
  EXPECT_NE(seed(1), seed(0));
  EXPECT_NE(seed(2), seed(1));
}

TEST(ChatCompletions, StopString_EndsTheText) {
  TestServer server(Saying("one two three"));
  const json::object answer = server.PostOk(kChat, ChatBody(R"(,"stop":[" t"])"));
  EXPECT_EQ(Content(answer), "one");
  EXPECT_EQ(Choice(answer).at("finish_reason").as_string(), "stop");
}

TEST(ChatCompletions, Logprobs_HaveTokensBytesAndAlternatives) {
  TestServer server(Saying("\xC3\xA9"));
  const json::object answer =
      server.PostOk(kChat, ChatBody(R"(,"logprobs":true,"top_logprobs":2)"));
  EXPECT_EQ(Content(answer), "\xC3\xA9");
  const json::array& content = Choice(answer).at("logprobs").as_object().at("content").as_array();
  ASSERT_EQ(content.size(), 2u);  // the end of sequence is no part of the message
  EXPECT_EQ(content[0].at("token").as_string(), "bytes:\\xc3");
  EXPECT_EQ(content[0].at("bytes"), (json::array{0xC3}));
  EXPECT_EQ(content[0].at("logprob").as_double(), -0.5);
  EXPECT_EQ(content[0].at("top_logprobs").as_array().size(), 2u);
}

TEST(ChatCompletions, ReturnTokenIds_ListsBoth) {
  TestServer server(Saying("ab"));
  const json::object answer = server.PostOk(kChat, ChatBody(R"(,"return_token_ids":true)"));
  EXPECT_EQ(Choice(answer).at("token_ids"), (json::array{'a', 'b', kEndId}));
  EXPECT_EQ(Choice(answer).at("prompt_token_ids").as_array().size(), 21u);
}

TEST(ChatCompletions, Stream_IsChunksThenUsageThenDone) {
  TestServer server(Saying("Hello"));
  const auto parts = server.PostStream(
      kChat, ChatBody(R"(,"stream":true,"stream_options":{"include_usage":true})"));
  ASSERT_GE(parts.size(), 3u);
  EXPECT_EQ(parts.back(), "[DONE]");
  std::string text;
  std::string finish;
  for (size_t i = 0; i + 2 < parts.size(); ++i) {
    const json::object chunk = ParseOrFail(parts[i]);
    EXPECT_EQ(chunk.at("object").as_string(), "chat.completion.chunk");
    EXPECT_TRUE(chunk.at("usage").is_null());
    const json::object& delta = Choice(chunk).at("delta").as_object();
    EXPECT_EQ(delta.contains("role"), i == 0);
    if (delta.contains("content")) text += delta.at("content").as_string();
    if (Choice(chunk).at("finish_reason").is_string())
      finish = Choice(chunk).at("finish_reason").as_string();
  }
  EXPECT_EQ(text, "Hello");
  EXPECT_EQ(finish, "stop");
  const json::object last = ParseOrFail(parts[parts.size() - 2]);
  EXPECT_TRUE(last.at("choices").as_array().empty());
  EXPECT_EQ(UsageOf(last, "completion_tokens"), 6);
}

TEST(ChatCompletions, StreamWithoutUsage_SaysNothingOfIt) {
  TestServer server(Saying("x"));
  const auto parts = server.PostStream(kChat, ChatBody(R"(,"stream":true)"));
  for (size_t i = 0; i + 1 < parts.size(); ++i)
    EXPECT_FALSE(ParseOrFail(parts[i]).contains("usage"));
}

TEST(ChatCompletions, LongPrefill_IsReportedInComments) {
  TestServer server([](const engine::Request& request) {
    std::vector<engine::Event> events = Say(request, "x");
    events.insert(events.begin(), engine::ProgressEvent{512, 3000});
    return events;
  });
  const auto parts = server.PostStream(kChat, ChatBody(R"(,"stream":true)"));
  EXPECT_NE(std::ranges::find(parts, ": prefill 512/3000"), parts.end());
}

TEST(ChatCompletions, CachedTokens_AreReported) {
  TestServer server([](const engine::Request& request) {
    std::vector<engine::Event> events = Say(request, "x");
    std::get<engine::PromptEvent>(events[0]).cached_tokens = 16;
    return events;
  });
  const json::object answer = server.PostOk(kChat, ChatBody());
  EXPECT_EQ(answer.at("usage").at("prompt_tokens_details").at("cached_tokens").as_int64(), 16);
}

TEST(ChatCompletions, PromptThatDoesNotFit_NamesBothLengths) {
  TestServer server(Saying("x"));
  const std::string body =
      R"({"messages":[{"role":"user","content":")" + std::string(300, 'a') + R"("}]})";
  const json::object error = server.PostError(kChat, body, 400);
  EXPECT_EQ(error.at("code").as_string(), "context_length_exceeded");
  EXPECT_EQ(error.at("type").as_string(), "invalid_request_error");
  EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr("319"));
  EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr("200"));
  EXPECT_EQ(server.engine().num_sequences(), 0u);
}

TEST(ChatCompletions, UnknownModel_Is404) {
  TestServer server(Saying("x"));
  const json::object error = server.PostError(kChat, ChatBody(R"(,"model":"gpt-9")"), 404);
  EXPECT_EQ(error.at("code").as_string(), "model_not_found");
  EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr("`tiny`"));
}

TEST(ChatCompletions, BadRequests_AreRefusedBeforeTheEngine) {
  TestServer server(Saying("x"));
  EXPECT_EQ(server.PostError(kChat, "{", 400).at("code").as_string(), "invalid_json");
  EXPECT_EQ(server.PostError(kChat, ChatBody(R"(,"temperature":-1)"), 400).at("param").as_string(),
            "temperature");
  EXPECT_EQ(server.PostError(kChat, ChatBody(R"(,"logit_bias":{"100000":1})"), 400)
                .at("param")
                .as_string(),
            "logit_bias");
  EXPECT_EQ(server.PostError(kChat, ChatBody(R"(,"stop_token_ids":[100000])"), 400)
                .at("param")
                .as_string(),
            "stop_token_ids");
  EXPECT_EQ(server.engine().num_sequences(), 0u);
}

TEST(ChatCompletions, FullQueue_Is429WithRetryAfter) {
  TestServer server(Saying("x"));
  server.engine().Refuse(Error(ErrorCode::kResourceExhausted, "256 requests are waiting"));
  const net::Response response = server.Post(kChat, ChatBody(R"(,"stream":true)"));
  EXPECT_EQ(response.status, 429);
  EXPECT_GE(std::stoi(std::string(response.headers.Find("Retry-After").value_or("0"))), 1);
  EXPECT_THAT(response.body, HasSubstr("rate_limit_error"));
}

TEST(ChatCompletions, EngineFailure_EndsTheAnswerWithAnError) {
  TestServer server([](const engine::Request&) {
    return std::vector<engine::Event>{
        engine::PromptEvent{}, Token('a'),
        engine::FinishEvent{engine::FinishReason::kError, Error(ErrorCode::kInternal, "boom")}};
  });
  EXPECT_EQ(server.PostError(kChat, ChatBody(), 500).at("message").as_string(), "boom");
  const auto parts = server.PostStream(kChat, ChatBody(R"(,"stream":true)"));
  ASSERT_GE(parts.size(), 2u);
  EXPECT_EQ(parts.back(), "[DONE]");
  EXPECT_THAT(parts[parts.size() - 2], HasSubstr("boom"));
  EXPECT_THAT(parts[0], HasSubstr("\"content\":\"a\""));
}

TEST(ChatCompletions, ModelWithoutTemplate_SaysSo) {
  TestServer server(Saying("x"), {}, /*ready=*/false);
  ModelInfo info;
  info.name = "plain";
  server.server().SetReady(&server.engine(), &server.tokenizer(), std::nullopt, info);
  EXPECT_EQ(server.PostError(kChat, ChatBody(), 400).at("code").as_string(), "no_chat_template");
  server.PostOk(kCompletion, R"({"prompt":"a"})");
}

TEST(ChatCompletions, JsonObject_RestrictsTheEngine) {
  TestServer server(Saying("{}"));
  server.PostOk(kChat, ChatBody(R"(,"response_format":{"type":"json_object"})"));
  const engine::Request& request = server.engine().WaitSequence(0)->request();
  ASSERT_TRUE(request.mask && request.on_token);
  std::vector<uint32_t> allowed((kVocabSize + 31) / 32, ~0u);
  request.mask(allowed);
  const auto bit = [&](int id) { return (allowed[static_cast<size_t>(id) / 32] >> (id % 32)) & 1; };
  EXPECT_TRUE(bit('{'));
  EXPECT_FALSE(bit('a'));
  EXPECT_FALSE(bit(kEndId));
}

TEST(ChatCompletions, BrokenSchema_Is400) {
  TestServer server(Saying("x"));
  const json::object error = server.PostError(
      kChat,
      ChatBody(
          R"(,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"nonsense"}}})"),
      400);
  EXPECT_EQ(error.at("param").as_string(), "response_format");
}

TEST(Completions, SeveralPrompts_AreChoicesInOrder) {
  TestServer server([](const engine::Request& request) {
    return Say(request, std::string(1, static_cast<char>(request.prompt_ids.back())));
  });
  const json::object answer = server.PostOk(kCompletion, R"({"prompt":["xa","yb"],"n":2})");
  EXPECT_EQ(answer.at("object").as_string(), "text_completion");
  ASSERT_EQ(answer.at("choices").as_array().size(), 4u);
  std::string text;
  for (size_t i = 0; i < 4; ++i) text += Choice(answer, i).at("text").as_string();
  EXPECT_EQ(text, "aabb");
  EXPECT_EQ(UsageOf(answer, "prompt_tokens"), 4);
}

TEST(Completions, TokenIdPrompts_ArePassedOn) {
  TestServer server(Saying("x"));
  server.PostOk(kCompletion, R"({"prompt":[[104,105],[257]]})");
  EXPECT_EQ(server.engine().WaitSequence(0)->request().prompt_ids,
            (std::vector<int32_t>{104, 105}));
  EXPECT_EQ(server.engine().WaitSequence(1)->request().prompt_ids, std::vector<int32_t>{257});
}

TEST(Completions, EmptyPrompt_IsRefused) {
  TestServer server(Saying("x"));
  EXPECT_EQ(server.PostError(kCompletion, R"({"prompt":""})", 400).at("param").as_string(),
            "prompt");
  EXPECT_EQ(server.PostError(kCompletion, R"({"prompt":[[]]})", 400).at("param").as_string(),
            "prompt");
}

TEST(Completions, EchoWithLogprobs_ScoresThePrompt) {
  TestServer server(Saying("!"));
  const json::object answer =
      server.PostOk(kCompletion, R"({"prompt":"h\u00e9","echo":true,"max_tokens":1,"logprobs":1})");
  EXPECT_EQ(Choice(answer).at("text").as_string(), "h\xC3\xA9!");
  const json::object& logprobs = Choice(answer).at("logprobs").as_object();
  EXPECT_EQ(logprobs.at("tokens"), (json::array{"h", "bytes:\\xc3", "bytes:\\xa9", "!"}));
  EXPECT_TRUE(logprobs.at("token_logprobs").as_array()[0].is_null());
  EXPECT_TRUE(logprobs.at("top_logprobs").as_array()[0].is_null());
  EXPECT_EQ(logprobs.at("token_logprobs").as_array()[3].as_double(), -0.5);
  EXPECT_EQ(logprobs.at("top_logprobs").as_array()[3].as_object().at("!").as_double(), -0.5);
  EXPECT_EQ(logprobs.at("text_offset"), (json::array{0, 1, 2, 2}));
  EXPECT_TRUE(server.engine().WaitSequence(0)->request().prompt_logprobs);
}

TEST(Completions, EchoWithoutOutput_IsThePromptOnly) {
  TestServer server(Saying("!"));
  const json::object answer =
      server.PostOk(kCompletion, R"({"prompt":[104,105],"echo":true,"max_tokens":0,"logprobs":0})");
  EXPECT_EQ(Choice(answer).at("text").as_string(), "hi");
  EXPECT_EQ(Choice(answer).at("finish_reason").as_string(), "length");
  EXPECT_EQ(Choice(answer).at("logprobs").as_object().at("tokens").as_array().size(), 2u);
  EXPECT_EQ(UsageOf(answer, "completion_tokens"), 0);
}

TEST(Completions, StreamWithEcho_BeginsWithThePrompt) {
  TestServer server(Saying("!"));
  const auto parts = server.PostStream(kCompletion, R"({"prompt":"hi","echo":true,"stream":true})");
  std::string text;
  for (size_t i = 0; i + 1 < parts.size(); ++i)
    text += Choice(ParseOrFail(parts[i])).at("text").as_string();
  EXPECT_EQ(text, "hi!");
  EXPECT_EQ(parts.back(), "[DONE]");
}

TEST(Completions, EndOfSequence_IsAmongTheLogprobs) {
  // Harnesses that score prompts count on one entry for each generated token.
  TestServer server(Saying(""));
  const json::object answer =
      server.PostOk(kCompletion, R"({"prompt":"a","max_tokens":1,"logprobs":1})");
  EXPECT_EQ(Choice(answer).at("logprobs").as_object().at("tokens"), (json::array{"<|im_end|>"}));
  EXPECT_EQ(Choice(answer).at("text").as_string(), "");
}

TEST(Completions, MaxOutputTokens_BoundsEveryRequest) {
  ServerOptions options;
  options.max_output_tokens = 3;
  TestServer server(Saying("abcdef"), options);
  EXPECT_EQ(Choice(server.PostOk(kCompletion, R"({"prompt":"a","max_tokens":10})"))
                .at("text")
                .as_string(),
            "abc");
}

TEST(Tokenize, PromptAndMessages_GiveIds) {
  TestServer server(Saying("x"));
  const json::object plain =
      server.PostOk("/tokenize", R"({"prompt":"hi","return_token_strs":true})");
  EXPECT_EQ(plain.at("tokens"), (json::array{104, 105}));
  EXPECT_EQ(plain.at("count").to_number<int>(), 2);
  EXPECT_EQ(plain.at("max_model_len").as_int64(), kContext);
  EXPECT_EQ(plain.at("token_strs"), (json::array{"h", "i"}));
  const json::object chat =
      server.PostOk("/tokenize", R"({"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(chat.at("count").to_number<int>(), 21);
  EXPECT_EQ(server.PostOk("/detokenize", R"({"tokens":[104,105]})").at("prompt").as_string(), "hi");
  EXPECT_EQ(server.PostError("/tokenize", "{}", 400).at("param").as_string(), "prompt");
  EXPECT_EQ(
      server.PostError("/detokenize", R"({"tokens":[1],"model":"x"})", 404).at("code").as_string(),
      "model_not_found");
}

}  // namespace
}  // namespace halfmoon::serve::testing
