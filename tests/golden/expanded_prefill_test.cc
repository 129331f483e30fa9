// SPDX-License-Identifier: Apache-2.0
// MlaPrefill::kExpanded: the same numbers as the reference, however a prompt is cut and whatever
// shares its steps; and what of the default's bits remains.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "golden/golden_checks.h"
#include "golden/golden_data.h"
#include "model/contiguous_kv.h"

namespace halfmoon::golden {
namespace {

using model::MlaPrefill;

std::vector<std::string> LatentVariants() {
  std::vector<std::string> names = Variants();
  std::erase_if(names, [](const std::string& name) {
    return !OpenVariant(Variant(name))->config().contains("kv_lora_rank");
  });
  return names;
}

using Case = std::tuple<std::string, kernels::Isa>;

class ExpandedPrefill : public testing::TestWithParam<Case> {
 protected:
  ExpandedPrefill() : variant(std::get<0>(GetParam())), checkpoint(OpenVariant(variant)) {}

  LoadedModel LoadAs(MlaPrefill mla_prefill, int threads = 2) const {
    return Load(checkpoint,
                {.isa = std::get<1>(GetParam()), .threads = threads, .mla_prefill = mla_prefill});
  }
  std::vector<int32_t> LongestPrompt() const {
    return variant.Read("p" + std::to_string(variant.num_prompts() - 1) + ".input_ids").ids;
  }

  Variant variant;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
};

TEST_P(ExpandedPrefill, Logits_WholeAndInChunks_MatchReference) {
  LoadedModel expanded = LoadAs(MlaPrefill::kExpanded);
  // Chunks after the first expand what earlier ones left in the cache.
  for (const size_t chunk : {512, 100, 64}) {
    ExpectReferenceLogits(variant, expanded.model.get(), chunk);
  }
}

TEST_P(ExpandedPrefill, Greedy_EveryPrompt_SameIds) {
  ExpectReferenceGreedy(variant, LoadAs(MlaPrefill::kExpanded).model.get());
}

TEST_P(ExpandedPrefill, LongChunk_OtherBitsThanAbsorbed_ShortChunks_TheSame) {
  LoadedModel absorbed = LoadAs(MlaPrefill::kAbsorbed);
  LoadedModel expanded = LoadAs(MlaPrefill::kExpanded);
  const std::vector<int32_t> prompt = LongestPrompt();
  const std::vector<float> want = AllLogits(absorbed.model.get(), prompt, 512);
  EXPECT_FALSE(SameBits(want, AllLogits(expanded.model.get(), prompt, 512)));
  EXPECT_TRUE(SameBits(want, AllLogits(expanded.model.get(), prompt, 7)));
}

TEST_P(ExpandedPrefill, AnyThreads_SameBits) {
  const std::vector<int32_t> prompt = LongestPrompt();
  LoadedModel one = LoadAs(MlaPrefill::kExpanded, 1);
  LoadedModel three = LoadAs(MlaPrefill::kExpanded, 3);
  EXPECT_TRUE(
      SameBits(AllLogits(one.model.get(), prompt, 100), AllLogits(three.model.get(), prompt, 100)));
}

/// Two prompts in chunks and a sequence that decodes, in shared steps: each as if alone, when it is
/// cut the same way.
TEST_P(ExpandedPrefill, MixedSteps_SameBitsAsAlone) {
  LoadedModel loaded = LoadAs(MlaPrefill::kExpanded);
  model::Model* model = loaded.model.get();
  const std::vector<int32_t> prompt = LongestPrompt();
  const std::vector<std::vector<int32_t>> sequences = {
      {prompt.rbegin(), prompt.rbegin() + 90}, {prompt.begin(), prompt.begin() + 3}, prompt};
  const std::vector<size_t> chunks = {30, 1, 67};
  std::vector<model::ContiguousKv> kv;
  kv.reserve(sequences.size());
  for (const auto& ids : sequences) {
    kv.emplace_back(model->kv_layout(), static_cast<int64_t>(ids.size()));
  }
  std::vector<std::vector<float>> got(sequences.size());
  const auto v = static_cast<size_t>(model->vocab_size());
  for (size_t step = 0; step < 3; ++step) {
    std::vector<model::SequenceChunk> batch;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const size_t begin = step * chunks[i];
      batch.push_back(
          {.ids = {sequences[i].data() + begin, std::min(chunks[i], sequences[i].size() - begin)},
           .start = static_cast<int32_t>(begin),
           .kv = kv[i].view(),
           .logits = model::LogitsMode::kAll});
    }
    EXPECT_TRUE(model->Forward(batch).ok());
    const float* row = model->logits().data();
    for (size_t i = 0; i < batch.size(); ++i) {
      const size_t floats = batch[i].ids.size() * v;
      got[i].insert(got[i].end(), row, row + floats);
      row += floats;
    }
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_TRUE(SameBits(AllLogits(model, sequences[i], chunks[i]), got[i])) << "sequence " << i;
  }
}

TEST_P(ExpandedPrefill, Model_KeepsKvApartAndCountsItsWeights) {
  LoadedModel absorbed = LoadAs(MlaPrefill::kAbsorbed);
  LoadedModel expanded = LoadAs(MlaPrefill::kExpanded);
  EXPECT_NE(absorbed.model->fingerprint(), expanded.model->fingerprint());
  EXPECT_LT(absorbed.model->weight_bytes(), expanded.model->weight_bytes());
  EXPECT_EQ(absorbed.model->WeightBytesPerStep(1), expanded.model->WeightBytesPerStep(1));
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name =
      std::get<0>(info.param) + "_" + std::string(kernels::IsaName(std::get<1>(info.param)));
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, ExpandedPrefill,
                         testing::Combine(testing::ValuesIn(LatentVariants()),
                                          testing::ValuesIn(TestedIsas())),
                         CaseName);

TEST(ExpandedPrefillModels, SevenVariants) { EXPECT_EQ(LatentVariants().size(), 7u); }

TEST(ExpandedPrefillModels, GroupedAttention_IsRefusedByName) {
  try {
    Load(OpenVariant(Variant("qwen3/dense")), {.mla_prefill = MlaPrefill::kExpanded});
    FAIL() << "loaded";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("a qwen3 model has grouped-query attention"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace halfmoon::golden
