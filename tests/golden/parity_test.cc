// SPDX-License-Identifier: Apache-2.0
// Every family against its reference outputs, on every instruction set of this machine. Tolerances:
// tests/golden/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "golden/golden_checks.h"
#include "golden/golden_data.h"
#include "model/contiguous_kv.h"

namespace halfmoon::golden {
namespace {

// A choice between experts closer than this is a tie: either is right.
constexpr float kTieGap = 1e-5f;

std::vector<int32_t> AllPositions(int64_t n) {
  std::vector<int32_t> positions(static_cast<size_t>(n));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  return positions;
}

using Case = std::tuple<std::string, kernels::Isa>;

class Parity : public testing::TestWithParam<Case> {
 protected:
  Parity()
      : variant(std::get<0>(GetParam())),
        loaded(Load(OpenVariant(variant), {.isa = std::get<1>(GetParam())})) {}

  model::Model* model() { return loaded.model.get(); }

  Variant variant;
  LoadedModel loaded;
};

TEST_P(Parity, Logits_EveryPrompt_MatchReference) { ExpectReferenceLogits(variant, model(), 512); }

TEST_P(Parity, Greedy_EveryPrompt_SameIds) { ExpectReferenceGreedy(variant, model()); }

TEST_P(Parity, Capture_HiddenAndRouter_MatchReference) {
  const auto p = variant.expected().at("hidden_prompt").as_int64();
  const std::vector<int32_t> ids = variant.Read("p" + std::to_string(p) + ".input_ids").ids;
  model::Capture capture{.hidden = true, .router = true};
  AllLogits(model(), ids, 512, &capture);
  ASSERT_EQ(capture.hidden_rows.size(),
            static_cast<size_t>(model()->description().num_layers()) + 2);
  for (const model::Capture::Hidden& hidden : capture.hidden_rows) {
    const Table want = variant.Read("hidden." + hidden.name);
    ExpectClose(want, AllPositions(want.rows), hidden.rows, "hidden." + hidden.name);
  }
  size_t moe_layers = 0;
  for (const model::LayerDescription& layer : model()->description().layers) {
    moe_layers += layer.ffn == model::FfnKind::kMoe ? 1 : 0;
  }
  ASSERT_EQ(capture.router_rows.size(), moe_layers);
  for (const model::Capture::Router& router : capture.router_rows) {
    const std::string prefix = "router." + std::to_string(router.layer) + ".";
    const Table logits = variant.Read(prefix + "logits");
    ExpectClose(logits, AllPositions(logits.rows), router.logits, prefix + "logits");
    const Table indices = variant.Read(prefix + "indices");
    const Table weights = variant.Read(prefix + "weights");
    const Table gap = variant.Read(prefix + "gap");
    for (int64_t t = 0; t < indices.rows; ++t) {
      if (gap.values[static_cast<size_t>(t)] < kTieGap) continue;
      for (int64_t k = 0; k < indices.cols; ++k) {
        const auto at = static_cast<size_t>(t * indices.cols + k);
        EXPECT_EQ(router.indices[at], indices.ids[at]) << prefix << "token " << t;
        EXPECT_NEAR(router.weights[at], weights.values[at], 1e-5) << prefix << "token " << t;
      }
    }
  }
}

/// Families with sparse attention.
class SparseParity : public Parity {};

TEST_P(SparseParity, Capture_Indexer_MatchesReference) {
  const int top_k = model()->description().attention.indexer.top_k;
  const std::string prompt = "p" + std::to_string(variant.num_prompts() - 1) + ".input_ids";
  const std::vector<int32_t> ids = variant.Read(prompt).ids;
  model::Capture capture{.indexer = true};
  AllLogits(model(), ids, 512, &capture);
  ASSERT_EQ(capture.indexer_rows.size(), static_cast<size_t>(model()->description().num_layers()));
  for (const model::Capture::Indexer& indexer : capture.indexer_rows) {
    const std::string prefix = "indexer." + std::to_string(indexer.layer) + ".";
    const Table scores = variant.Read(prefix + "scores");
    const Table chosen = variant.Read(prefix + "topk");
    ASSERT_EQ(indexer.width, scores.cols);
    ASSERT_EQ(top_k, chosen.cols);
    for (int64_t t = 0; t < scores.rows; ++t) {
      const float* have = indexer.scores.data() + t * indexer.width;
      for (int64_t s = 0; s <= t; ++s) {
        EXPECT_NEAR(have[s], scores.row(t)[s], 2e-4) << prefix << t << " " << s;
      }
      for (int64_t k = 0; k < chosen.cols; ++k) {
        const auto at = static_cast<size_t>(t * chosen.cols + k);
        EXPECT_EQ(indexer.top_k[at], chosen.ids[at]) << prefix << "token " << t;
      }
    }
  }
}

/// Families with a draft layer.
class DraftParity : public Parity {};

/// On the reference's prompt, whole and token by token.
TEST_P(DraftParity, Mtp_HiddenPrompt_MatchesReference) {
  LoadedModel with_draft =
      Load(OpenVariant(variant), {.isa = std::get<1>(GetParam()), .load_mtp = true});
  model::Model* target = with_draft.model.get();
  ASSERT_EQ(target->num_mtp_layers(), 1);
  const auto p = variant.expected().at("hidden_prompt").as_int64();
  const std::vector<int32_t> ids = variant.Read("p" + std::to_string(p) + ".input_ids").ids;
  AllLogits(target, ids, 512);
  const std::vector<float> hidden(target->final_hidden().begin(), target->final_hidden().end());
  const auto h = static_cast<size_t>(target->description().hidden_dim);
  const size_t rows = ids.size() - 1;
  for (const size_t chunk : {rows, size_t{1}, size_t{7}}) {
    model::ContiguousKv kv(target->kv_layout(), static_cast<int64_t>(rows));
    std::vector<float> logits;
    std::vector<float> states;
    for (size_t begin = 0; begin < rows; begin += chunk) {
      const size_t count = std::min(chunk, rows - begin);
      const model::MtpChunk piece{.next_ids = {ids.data() + begin + 1, count},
                                  .hidden = {hidden.data() + begin * h, count * h},
                                  .start = static_cast<int32_t>(begin),
                                  .kv = kv.view(),
                                  .logits = model::LogitsMode::kAll};
      ASSERT_TRUE(target->ForwardMtp({&piece, 1}).ok());
      logits.insert(logits.end(), target->logits().begin(), target->logits().end());
      states.insert(states.end(), target->final_hidden().begin(), target->final_hidden().end());
    }
    const Table want = variant.Read("mtp.logits");
    ExpectClose(want, AllPositions(want.rows), logits, "mtp.logits");
    const Table want_hidden = variant.Read("mtp.hidden");
    ExpectClose(want_hidden, AllPositions(want_hidden.rows), states, "mtp.hidden");
  }
}

/// Median over positions of the relative error of the longest prompt's logits.
double MedianError(const Variant& variant, model::Model* model) {
  const std::string prefix = "p" + std::to_string(variant.num_prompts() - 1) + ".";
  const Table want = variant.Read(prefix + "logits");
  const std::vector<int32_t> positions = variant.Read(prefix + "positions").ids;
  const std::vector<float> got = AllLogits(model, variant.Read(prefix + "input_ids").ids, 512);
  std::vector<double> errors;
  for (size_t i = 0; i < positions.size(); ++i) {
    double error = 0.0;
    double norm = 0.0;
    for (int64_t j = 0; j < want.cols; ++j) {
      const double w = want.row(static_cast<int64_t>(i))[j];
      const double d = got[static_cast<size_t>(positions[i] * want.cols + j)] - w;
      error += d * d;
      norm += w * w;
    }
    errors.push_back(std::sqrt(error / norm));
  }
  std::nth_element(errors.begin(), errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2),
                   errors.end());
  return errors[errors.size() / 2];
}

/// The same of the reference's own run in the precision `name`.
double NoiseOf(const Variant& variant, const char* name) {
  return variant.expected().at("noise").at(name).at("rel_rms_position_p50").to_number<double>();
}

TEST_P(Parity, Int8_EightBitWeights_WithinReferenceNoise) {
  const std::shared_ptr<const checkpoint::Checkpoint> quantised =
      Quantise(OpenVariant(variant), tensor::DType::kQ8_0);
  LoadedModel rounded =
      Load(quantised, {.activation = model::Activation::kInt8, .isa = std::get<1>(GetParam())});
  EXPECT_LE(MedianError(variant, rounded.model.get()), 1.25 * NoiseOf(variant, "w8a8"));
}

/// As the product computes a checkpoint unless told otherwise. The reference rounds everything to
/// bfloat16, we at most what goes into products.
TEST_P(Parity, DefaultActivations_WeightsAsStored_WithinReferenceNoise) {
  LoadedModel rounded = Load(OpenVariant(variant), {.activation = model::Activation::kInt8,
                                                    .isa = std::get<1>(GetParam())});
  const char* precision = variant.name() == "kimi_k2/int4" ? "w8a8" : "bf16";
  EXPECT_LE(MedianError(variant, rounded.model.get()), 1.25 * NoiseOf(variant, precision));
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name =
      std::get<0>(info.param) + "_" + std::string(kernels::IsaName(std::get<1>(info.param)));
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, Parity,
                         testing::Combine(testing::ValuesIn(Variants()),
                                          testing::ValuesIn(TestedIsas())),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Golden, SparseParity,
                         testing::Combine(testing::ValuesIn(VariantsWith("indexer.0.scores")),
                                          testing::ValuesIn(TestedIsas())),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Golden, DraftParity,
                         testing::Combine(testing::ValuesIn(VariantsWith("mtp.logits")),
                                          testing::ValuesIn(TestedIsas())),
                         CaseName);

}  // namespace
}  // namespace halfmoon::golden
