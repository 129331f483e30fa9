// SPDX-License-Identifier: Apache-2.0
// Sampled tokens follow the model's distribution with guesses as without, counted on a vocabulary
// small enough for every sequence of three tokens to be common.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/engine_fixture.h"
#include "engine/toy_drafter.h"

namespace halfmoon::engine {
namespace {

constexpr int32_t kVocab = 4;
constexpr int kRuns = 20000;
const std::vector<int32_t> kPrompt = {2, 0, 3};

using Triple = std::vector<int32_t>;

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0.0;
  for (const float logit : logits) sum += p.emplace_back(std::exp(logit / temperature));
  for (double& value : p) value /= sum;
  return p;
}

/// The probability of each three tokens after the prompt.
std::map<Triple, double> Expected(double temperature) {
  std::map<Triple, double> expected;
  const auto after = [&](Triple ids) {
    ids.insert(ids.begin(), kPrompt.begin(), kPrompt.end());
    return Softmax(ToyModel::LogitsAfter(ids, kVocab), temperature);
  };
  const std::vector<double> first = after({});
  for (int32_t a = 0; a < kVocab; ++a) {
    const std::vector<double> second = after({a});
    for (int32_t b = 0; b < kVocab; ++b) {
      const std::vector<double> third = after({a, b});
      for (int32_t c = 0; c < kVocab; ++c) {
        expected[{a, b, c}] = first[static_cast<size_t>(a)] * second[static_cast<size_t>(b)] *
                              third[static_cast<size_t>(c)];
      }
    }
  }
  return expected;
}

/// Distance of counts to expectation in units of the 99.9 % bound of chi-square: above 1 is too
/// far.
double Misfit(const std::map<Triple, int>& counts, const std::map<Triple, double>& expected) {
  double chi_square = 0.0;
  double rare_expected = 0.0;
  double rare_counted = 0.0;
  int cells = 0;
  const auto add = [&](double counted, double want) {
    chi_square += (counted - want) * (counted - want) / want;
    ++cells;
  };
  for (const auto& [triple, probability] : expected) {
    const auto it = counts.find(triple);
    const double counted = it == counts.end() ? 0.0 : it->second;
    const double want = probability * kRuns;
    if (want >= 5.0) {
      add(counted, want);
    } else {
      rare_expected += want;
      rare_counted += counted;
    }
  }
  if (rare_expected > 0.0) add(rare_counted, rare_expected);
  // Wilson and Hilferty's cube.
  const double freedom = cells - 1;
  const double spread = 2.0 / (9.0 * freedom);
  return chi_square / (freedom * std::pow(1.0 - spread + 3.09 * std::sqrt(spread), 3.0));
}

class SpeculationStatistics : public EngineTest {
 protected:
  std::map<Triple, int> Count(double temperature, int32_t wrong_percent) {
    drafter_ = std::make_unique<ToyDrafter>(kVocab, wrong_percent);
    EngineOptions options{.max_queued = 64};
    options.speculation = {.max_tokens = 2, .adaptive = false};
    Start(200, options, {.vocab_size = kVocab});
    std::map<Triple, int> counts;
    for (int begin = 0; begin < kRuns; begin += 50) {
      std::vector<std::unique_ptr<RequestHandle>> handles;
      for (int i = 0; i < 50; ++i) {
        Request request = Greedy(kPrompt, 3);
        request.sampling = {.temperature = static_cast<float>(temperature),
                            .seed = static_cast<uint64_t>(begin + i)};
        handles.push_back(Submit(std::move(request)));
      }
      for (const auto& handle : handles) ++counts[ReadAll(handle.get()).ids];
    }
    return counts;
  }
};

TEST_F(SpeculationStatistics, TriplesOfSampledTokens_FollowTheModel) {
  for (const double temperature : {0.7, 1.5}) {
    const std::map<Triple, double> expected = Expected(temperature);
    for (const int32_t wrong_percent : {0, 30}) {
      const std::map<Triple, int> counts = Count(temperature, wrong_percent);
      EXPECT_LT(Misfit(counts, expected), 1.0) << temperature << " " << wrong_percent;
      // Both outcomes of a guess are common, so either would show.
      const EngineStats stats = engine_->Stats();
      EXPECT_GT(stats.accepted_draft_tokens, stats.draft_tokens / 5);
      EXPECT_LT(stats.accepted_draft_tokens, stats.draft_tokens * 9 / 10);
      // The measure is sharp enough to tell a neighbouring temperature.
      EXPECT_GT(Misfit(counts, Expected(1.1 * temperature)), 1.0);
    }
  }
}

}  // namespace
}  // namespace halfmoon::engine
