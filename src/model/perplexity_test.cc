// SPDX-License-Identifier: Apache-2.0
#include "model/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "model/contiguous_kv.h"

namespace halfmoon::model {
namespace {

using testing::HasSubstr;

class PerplexityTest : public testing::Test {
 protected:
  PerplexityTest() {
    auto checkpoint = checkpoint::Open(std::filesystem::path(HALFMOON_GOLDEN_DIR) / "qwen3/dense");
    HM_CHECK(checkpoint.ok(), checkpoint.error().message());
    auto loaded = Model::Load(std::move(checkpoint).value(), &pool,
                              {.activation = Activation::kF32,
                               .isa = kernels::AvailableIsas().back(),
                               .max_step_tokens = 16,
                               .max_context = 64});
    HM_CHECK(loaded.ok(), loaded.error().message());
    model = std::move(loaded).value();
    for (int i = 0; i < 50; ++i) ids.push_back(static_cast<int32_t>(i * 37 % model->vocab_size()));
  }

  /// -ln p of ids[target] given ids[begin, target), computed alone.
  double Score(int64_t begin, int64_t target) {
    double score = 0.0;
    ContiguousKv kv(model->kv_layout(), 64);
    for (int64_t at = begin; at < target; ++at) {
      const SequenceChunk chunk{
          .ids = {ids.data() + at, 1}, .start = static_cast<int32_t>(at - begin), .kv = kv.view()};
      EXPECT_TRUE(model->Forward({&chunk, 1}).ok());
    }
    double sum = 0.0;
    for (const float logit : model->logits()) sum += std::exp(double{logit});
    const auto id = static_cast<size_t>(ids[static_cast<size_t>(target)]);
    score = std::log(sum) - double{model->logits()[id]};
    return score;
  }

  Result<Perplexity> Compute(int64_t window, int64_t stride) {
    return ComputePerplexity(model.get(), &pool, ids, {.window = window, .stride = stride}, {});
  }

  ThreadPool pool{2};
  std::unique_ptr<Model> model;
  std::vector<int32_t> ids;
};

TEST_F(PerplexityTest, SlidingWindow_ScoresEachTokenOnceInItsFirstWindow) {
  struct Case {
    int64_t window;
    int64_t stride;
  };
  // One window, overlap, none, and a last window of one token, which has nothing to predict.
  for (const Case& c : {Case{64, 32}, Case{20, 10}, Case{20, 7}, Case{7, 7}}) {
    std::vector<double> expected;
    int64_t scored_to = 0;
    for (int64_t begin = 0; scored_to < 50; begin += c.stride) {
      const int64_t end = std::min<int64_t>(begin + c.window, 50);
      for (int64_t t = std::max(scored_to, begin + 1); t < end; ++t) {
        expected.push_back(Score(begin, t));
      }
      scored_to = end;
    }
    double mean = 0.0;
    for (const double score : expected) mean += score / static_cast<double>(expected.size());
    const Result<Perplexity> result = Compute(c.window, c.stride);
    ASSERT_TRUE(result.ok()) << result.error().message();
    EXPECT_EQ(result->scored_tokens, static_cast<int64_t>(expected.size()));
    EXPECT_NEAR(result->mean_nll, mean, 1e-5) << c.window << " " << c.stride;
    EXPECT_NEAR(result->value(), std::exp(mean), 1e-4 * std::exp(mean));
    double squares = 0.0;
    for (const double score : expected) squares += std::pow(score - mean, 2);
    const auto n = static_cast<double>(expected.size());
    EXPECT_NEAR(result->standard_error, std::sqrt(squares / (n - 1) / n), 1e-5);
  }
}

TEST_F(PerplexityTest, Progress_EndsAtAllWindows) {
  int64_t calls = 0;
  const auto result = ComputePerplexity(model.get(), &pool, ids, {.window = 20, .stride = 10},
                                        [&](int64_t done, int64_t total, const Perplexity&) {
                                          EXPECT_EQ(done, ++calls);
                                          EXPECT_EQ(total, 4);
                                        });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(calls, 4);
}

TEST_F(PerplexityTest, BadRequests_ErrorNamesTheNumber) {
  const auto message = [&](int64_t window, int64_t stride) {
    const Result<Perplexity> result = Compute(window, stride);
    return result.ok() ? "" : std::string(result.error().message());
  };
  EXPECT_THAT(message(1, 1), HasSubstr("window of 1"));
  EXPECT_THAT(message(65, 1), HasSubstr("expected 2 to 64"));
  EXPECT_THAT(message(20, 0), HasSubstr("stride of 0"));
  EXPECT_THAT(message(20, 21), HasSubstr("stride of 21"));
  ids[30] = 1 << 20;
  EXPECT_THAT(message(20, 10), HasSubstr("token id 1048576"));
  ids.resize(1);
  EXPECT_THAT(message(20, 10), HasSubstr("the text has 1"));
}

}  // namespace
}  // namespace halfmoon::model
