// SPDX-License-Identifier: Apache-2.0
#include "engine/generation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "engine/toy_model.h"
#include "text/test_vocabularies.h"

namespace halfmoon::engine {
namespace {

constexpr int32_t kEnd = 261;  // "<|end|>"

// An engine whose requests say what the test tells them to: the mask leaves one token at a time.
class GenerationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<text::Tokenizer>> tokenizer =
        text::Tokenizer::FromJson(json::Serialize(text::ByteLevelTokenizerJson()));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    tokenizer_ = std::move(*tokenizer);
    Result<std::unique_ptr<Engine>> engine =
        Engine::Start(std::make_unique<ToyModel>(ToyOptions{.vocab_size = 264}, &counters_),
                      &clock_, {.kv_bytes = 64 * ToyModel::PageBytes(16), .stream_capacity = 4});
    ASSERT_TRUE(engine.ok()) << engine.error().message();
    engine_ = std::move(*engine);
  }

  static GenerationOptions Saying(std::vector<int32_t> ids) {
    GenerationOptions options;
    options.request.prompt_ids = {1, 2, 3};
    options.request.max_tokens = static_cast<int32_t>(ids.size());
    options.request.stop_ids = {kEnd};
    auto said = std::make_shared<size_t>(0);
    options.request.mask = [ids, said](std::span<uint32_t> allowed) {
      const auto id = static_cast<size_t>(ids[(*said)++]);
      std::ranges::fill(allowed, 0u);
      allowed[id / 32] = 1u << (id % 32);
    };
    return options;
  }
  static std::vector<int32_t> Bytes(std::string_view text) {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::unique_ptr<Generation> Start(GenerationOptions options) {
    Result<std::unique_ptr<Generation>> generation =
        Generation::Start(engine_.get(), tokenizer_.get(), std::move(options));
    EXPECT_TRUE(generation.ok()) << generation.error().message();
    return std::move(*generation);
  }

  struct Output {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<std::string> pieces;
    FinishEvent finish;
    int prompts = 0;
  };
  static Output ReadAll(Generation* generation) {
    Output output;
    while (std::optional<GenerationDelta> delta = generation->Next()) {
      output.text += delta->text;
      if (!delta->text.empty()) output.pieces.push_back(delta->text);
      for (const TokenEvent& token : delta->tokens) output.ids.push_back(token.id);
      if (delta->prompt.has_value()) ++output.prompts;
      if (delta->finish.has_value()) output.finish = *delta->finish;
    }
    EXPECT_FALSE(generation->TryNext().has_value());
    return output;
  }

  const MonotonicClock clock_;
  ToyCounters counters_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(GenerationTest, Text_DecodedWithUsage) {
  auto generation = Start(Saying({260, 111, 256, 257}));  // "hell" "o" " a" "ab"
  const Output output = ReadAll(generation.get());
  EXPECT_EQ(output.text, "hello aab");
  EXPECT_EQ(output.ids, (std::vector<int32_t>{260, 111, 256, 257}));
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_EQ(output.prompts, 1);
  EXPECT_EQ(generation->prompt_tokens(), 3);
  EXPECT_EQ(generation->completion_tokens(), 4);
  EXPECT_EQ(generation->cached_tokens(), 0);
}

TEST_F(GenerationTest, NoTokenizer_IdsWithoutText) {
  auto generation = Generation::Start(engine_.get(), nullptr, Saying({260, 111}));
  ASSERT_TRUE(generation.ok()) << generation.error().message();
  std::vector<int32_t> ids;
  while (auto delta = (*generation)->Next()) {
    EXPECT_EQ(delta->text, "");
    for (const TokenEvent& token : delta->tokens) ids.push_back(token.id);
  }
  EXPECT_EQ(ids, (std::vector<int32_t>{260, 111}));

  GenerationOptions options = Saying({260});
  options.stop = {"x"};
  auto refused = Generation::Start(engine_.get(), nullptr, std::move(options));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::kInvalidArgument);
}

TEST_F(GenerationTest, CharacterOfSeveralTokens_NeverCut) {
  auto generation = Start(Saying(Bytes("a\xC3\xA9\xF0\x9F\x8C\x97z")));
  const Output output = ReadAll(generation.get());
  EXPECT_EQ(output.text, "a\xC3\xA9\xF0\x9F\x8C\x97z");
  for (const std::string& piece : output.pieces) {
    EXPECT_NE(static_cast<uint8_t>(piece[0]) & 0xC0, 0x80) << "a piece begins inside a character";
  }
}

TEST_F(GenerationTest, EndsInsideCharacter_ReplacementComesAtTheEnd) {
  EXPECT_EQ(ReadAll(Start(Saying(Bytes("a\xF0\x9F"))).get()).text, "a\xEF\xBF\xBD");
}

TEST_F(GenerationTest, StopStringAcrossTokens_CutAndCancelled) {
  GenerationOptions options = Saying(Bytes("one\n\nUser: two"));
  options.stop = {"User:", "\n\nX"};
  auto generation = Start(std::move(options));
  const Output output = ReadAll(generation.get());
  EXPECT_EQ(output.text, "one\n\n");
  EXPECT_EQ(output.finish.reason, FinishReason::kStop);
  EXPECT_EQ(output.ids.size(), 10u);  // up to the token that completed it
  EXPECT_EQ(generation->completion_tokens(), 10);
}

TEST_F(GenerationTest, IncludeStop_TextKeepsIt) {
  GenerationOptions options = Saying(Bytes("one. two"));
  options.stop = {"."};
  options.include_stop = true;
  EXPECT_EQ(ReadAll(Start(std::move(options)).get()).text, "one.");
}

TEST_F(GenerationTest, StopStringNeverCompleted_HeldTextIsDelivered) {
  GenerationOptions options = Saying(Bytes("abc EN"));
  options.stop = {"END"};
  EXPECT_EQ(ReadAll(Start(std::move(options)).get()).text, "abc EN");
}

TEST_F(GenerationTest, StopId_NoTextUnlessAsked) {
  std::vector<int32_t> ids = Bytes("hi");
  ids.push_back(kEnd);
  ids.push_back('x');
  GenerationOptions options = Saying(ids);
  const Output output = ReadAll(Start(options).get());
  EXPECT_EQ(output.text, "hi");
  EXPECT_EQ(output.ids.size(), 3u);
  EXPECT_EQ(output.finish.reason, FinishReason::kStop);
  options = Saying(ids);
  options.skip_special = false;
  EXPECT_EQ(ReadAll(Start(options).get()).text, "hi");
  options = Saying(ids);
  options.skip_special = false;
  options.include_stop = true;
  EXPECT_EQ(ReadAll(Start(options).get()).text, "hi<|end|>");
}

TEST_F(GenerationTest, SkipSpecial_LeavesThemOut) {
  GenerationOptions options = Saying({'a', 262, 'b'});
  EXPECT_EQ(ReadAll(Start(options).get()).text, "ab");
  options = Saying({'a', 262, 'b'});
  options.skip_special = false;
  EXPECT_EQ(ReadAll(Start(options).get()).text, "a<|start|>b");
}

TEST_F(GenerationTest, NotifyAndTryNext_WholeOutputWithoutWaiting) {
  auto generation = Start(Saying(Bytes("several tokens, more than the stream holds")));
  std::atomic<int> notified{0};
  generation->SetNotify([&notified] { ++notified; });
  std::string text;
  bool finished = false;
  for (int i = 0; i < 10000 && !finished; ++i) {
    if (std::optional<GenerationDelta> delta = generation->TryNext()) {
      text += delta->text;
      finished = delta->finish.has_value();
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  EXPECT_EQ(text, "several tokens, more than the stream holds");
  EXPECT_GT(notified.load(), 0);
}

TEST_F(GenerationTest, Cancel_EndsAsCancelled) {
  auto generation = Start(Saying(std::vector<int32_t>(300, 'a')));
  generation->Next();
  generation->Cancel();
  const Output output = ReadAll(generation.get());
  EXPECT_EQ(output.finish.reason, FinishReason::kCancelled);
  EXPECT_LT(generation->completion_tokens(), 300);
}

TEST_F(GenerationTest, EmptyStopStringOrBadRequest_Refused) {
  GenerationOptions options = Saying({'a'});
  options.stop = {""};
  const auto empty_stop = Generation::Start(engine_.get(), tokenizer_.get(), options);
  ASSERT_FALSE(empty_stop.ok());
  EXPECT_NE(empty_stop.error().message().find("stop string"), std::string::npos);
  options = Saying({'a'});
  options.request.prompt_ids.clear();
  const auto no_prompt = Generation::Start(engine_.get(), tokenizer_.get(), options);
  ASSERT_FALSE(no_prompt.ok());
  EXPECT_EQ(no_prompt.error().code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace halfmoon::engine
