// SPDX-License-Identifier: Apache-2.0
#include "golden/golden_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/contiguous_kv.h"

namespace halfmoon::golden {
namespace {

constexpr double kRelativeRms = 2e-5;
constexpr double kMaxAbs = 2e-3;

size_t ArgMax(const float* row, int64_t n) {
  return static_cast<size_t>(std::max_element(row, row + n) - row);
}

}  // namespace

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectClose(const Table& expected, const std::vector<int32_t>& positions,
                 const std::vector<float>& got, const std::string& what) {
  double error = 0.0;
  double norm = 0.0;
  double worst = 0.0;
  for (size_t i = 0; i < positions.size(); ++i) {
    const float* want = expected.row(static_cast<int64_t>(i));
    const float* have = got.data() + positions[i] * expected.cols;
    for (int64_t j = 0; j < expected.cols; ++j) {
      const double difference = static_cast<double>(have[j]) - want[j];
      error += difference * difference;
      norm += static_cast<double>(want[j]) * want[j];
      worst = std::max(worst, std::abs(difference));
    }
  }
  EXPECT_LE(std::sqrt(error / norm), kRelativeRms) << what;
  EXPECT_LE(worst, kMaxAbs) << what;
}

void ExpectReferenceLogits(const Variant& variant, model::Model* model, size_t chunk) {
  for (size_t p = 0; p < variant.num_prompts(); ++p) {
    const std::string prefix = "p" + std::to_string(p) + ".";
    const std::string what = prefix + "logits in chunks of " + std::to_string(chunk);
    const Table want = variant.Read(prefix + "logits");
    const std::vector<int32_t> positions = variant.Read(prefix + "positions").ids;
    const std::vector<float> got = AllLogits(model, variant.Read(prefix + "input_ids").ids, chunk);
    ASSERT_EQ(want.cols, model->vocab_size());
    ExpectClose(want, positions, got, what);
    for (size_t i = 0; i < positions.size(); ++i) {
      EXPECT_EQ(ArgMax(got.data() + positions[i] * want.cols, want.cols),
                ArgMax(want.row(static_cast<int64_t>(i)), want.cols))
          << what << ", position " << positions[i];
    }
  }
}

void ExpectReferenceGreedy(const Variant& variant, model::Model* model) {
  for (size_t p = 0; p < variant.num_prompts(); ++p) {
    const std::string prefix = "p" + std::to_string(p) + ".";
    const std::vector<int32_t> prompt = variant.Read(prefix + "input_ids").ids;
    const std::vector<int32_t> want = variant.Read(prefix + "greedy_ids").ids;
    model::ContiguousKv kv(model->kv_layout(), static_cast<int64_t>(prompt.size() + want.size()));
    std::vector<int32_t> next = prompt;
    int32_t start = 0;
    std::vector<int32_t> got;
    while (got.size() < want.size()) {
      const model::SequenceChunk chunk{.ids = next, .start = start, .kv = kv.view()};
      ASSERT_TRUE(model->Forward({&chunk, 1}).ok());
      start += static_cast<int32_t>(next.size());
      next = {static_cast<int32_t>(ArgMax(model->logits().data(), model->vocab_size()))};
      got.push_back(next[0]);
    }
    EXPECT_EQ(got, want) << prefix;
  }
}

}  // namespace halfmoon::golden
