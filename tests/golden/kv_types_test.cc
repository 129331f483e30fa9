// SPDX-License-Identifier: Apache-2.0
// What a narrower KV cache costs: logits with KV in f16, bf16 and q8_0 against KV in float32,
// everything else in float32. Prints the rows of the table in docs/performance.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "golden/golden_checks.h"
#include "golden/golden_data.h"

namespace halfmoon::golden {
namespace {

/// Logits of all prompts of a variant.
std::vector<float> PromptLogits(const Variant& variant, kernels::KvType type, int64_t* vocab) {
  const LoadedModel loaded =
      Load(OpenVariant(variant), {.isa = kernels::BestIsa(), .kv_type = type});
  EXPECT_EQ(loaded.model->kv_layout().k_type, type);
  *vocab = loaded.model->vocab_size();
  std::vector<float> all;
  for (size_t p = 0; p < variant.num_prompts(); ++p) {
    const std::vector<int32_t> ids = variant.Read("p" + std::to_string(p) + ".input_ids").ids;
    const std::vector<float> logits = AllLogits(loaded.model.get(), ids, 512);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

struct Difference {
  double max_error = 0.0;     ///< largest difference of two logits
  double median_error = 0.0;  ///< of positions: norm of the difference by that of the logits
  int changed = 0;            ///< positions where another token is likeliest
  int positions = 0;
};

Difference Compare(const std::vector<float>& want, const std::vector<float>& got, int64_t vocab) {
  Difference result;
  std::vector<double> relative;
  for (size_t row = 0; row < want.size(); row += static_cast<size_t>(vocab), ++result.positions) {
    double errors = 0.0;
    double squares = 0.0;
    for (size_t i = row; i < row + static_cast<size_t>(vocab); ++i) {
      const double error = double{got[i]} - double{want[i]};
      result.max_error = std::max(result.max_error, std::abs(error));
      errors += error * error;
      squares += double{want[i]} * double{want[i]};
    }
    relative.push_back(std::sqrt(errors / squares));
    const auto best = [&](const std::vector<float>& logits) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row);
      return std::max_element(first, first + vocab) - first;
    };
    result.changed += best(want) != best(got) ? 1 : 0;
  }
  const auto middle = relative.begin() + static_cast<std::ptrdiff_t>(relative.size() / 2);
  std::nth_element(relative.begin(), middle, relative.end());
  result.median_error = *middle;
  return result;
}

class KvTypes : public testing::TestWithParam<std::string> {};

TEST_P(KvTypes, Logits_CloseToFloat32Kv) {
  const Variant variant(GetParam());
  int64_t vocab = 0;
  const std::vector<float> want = PromptLogits(variant, kernels::KvType::kF32, &vocab);
  const Difference f16 = Compare(want, PromptLogits(variant, kernels::KvType::kF16, &vocab), vocab);
  const Difference bf16 =
      Compare(want, PromptLogits(variant, kernels::KvType::kBF16, &vocab), vocab);
  const Difference q8 = Compare(want, PromptLogits(variant, kernels::KvType::kQ8_0, &vocab), vocab);
  std::printf("| %s |", GetParam().c_str());
  for (const Difference& type : {f16, bf16, q8}) {
    std::printf(" %.1e | %.1e | %d |", type.max_error, type.median_error, type.changed);
  }
  std::printf(" %d |\n", q8.positions);
  // Of the median, because rounding may turn a choice between experts or keys that is all but a
  // tie, and with random weights one other expert changes a position's logits altogether.
  EXPECT_GT(f16.max_error, 0.0);
  EXPECT_GT(q8.median_error, f16.median_error);
  EXPECT_GT(bf16.median_error, f16.median_error);
  EXPECT_LT(f16.median_error, 2e-3);
  EXPECT_LT(bf16.median_error, 3e-2);
  EXPECT_LT(q8.median_error, 3e-2);
}

std::string FirstOf(const std::string& family) {
  const std::vector<std::string> all = Variants();
  return *std::ranges::find_if(
      all, [&](const std::string& name) { return name.starts_with(family + "/"); });
}

TEST(KvTypesOfModel, Fingerprint_TellsTypesOfKeysAndValuesApart) {
  ThreadPool pool(1);
  const auto checkpoint = OpenVariant(Variant(FirstOf("qwen3_moe")));
  std::set<std::string> fingerprints;
  constexpr kernels::KvType kTypes[] = {kernels::KvType::kF16, kernels::KvType::kQ8_0,
                                        kernels::KvType::kBF16};
  for (const auto k : kTypes) {
    for (const auto v : kTypes) {
      const auto model =
          model::Model::Load(checkpoint, &pool, {.k_type = k, .v_type = v, .max_context = 64});
      ASSERT_TRUE(model.ok()) << model.error().message();
      fingerprints.insert((*model)->fingerprint());
    }
  }
  EXPECT_EQ(fingerprints.size(), 9u);
}

TEST(KvTypesOfModel, LatentAttention_RefusesDifferentTypesOfKeysAndValues) {
  ThreadPool pool(1);
  const auto model = model::Model::Load(OpenVariant(Variant(FirstOf("deepseek_v3"))), &pool,
                                        {.k_type = kernels::KvType::kQ8_0, .max_context = 64});
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(model.error().message().find("keys (q8_0) and values (f16)"), std::string::npos)
      << model.error().message();
}

INSTANTIATE_TEST_SUITE_P(Golden, KvTypes, testing::ValuesIn(Variants()), [](const auto& variant) {
  std::string name = variant.param;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
});

}  // namespace
}  // namespace halfmoon::golden
