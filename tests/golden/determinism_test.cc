// SPDX-License-Identifier: Apache-2.0
// Bits: the logits of a sequence are the same alone and in a batch, whatever the chunks, the
// threads and where its prefix's KV came from. Per family, instruction set and precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <tuple>

#include "base/sanitized.h"
#include "golden/golden_checks.h"
#include "golden/golden_data.h"
#include "kernels/matmul.h"
#include "model/contiguous_kv.h"
#include "tensor/tensor.h"

namespace halfmoon::golden {
namespace {

constexpr int kBatch = 16;

/// How a model is computed. kF32: everything in float32. kStored: as the product does unless told
/// otherwise, weights as stored, bfloat16 most of them. kQ4_1: the same with weights rounded to
/// Q4_1, so activations to int8; KV in f16 or what is given.
enum class Precision { kF32, kStored, kQ4_1 };

using Case = std::tuple<std::string, kernels::Isa, Precision, std::optional<kernels::KvType>>;

/// Whether it takes minutes to run everything: the plain loops, and all under sanitizers.
bool IsSlow(kernels::Isa isa) { return HALFMOON_SANITIZED || isa == kernels::Isa::kGeneric; }

class Determinism : public testing::TestWithParam<Case> {
 protected:
  Determinism() : variant(std::get<0>(GetParam())) {
    checkpoint = OpenVariant(variant);
    if (std::get<2>(GetParam()) == Precision::kQ4_1) {
      checkpoint = Quantise(checkpoint, tensor::DType::kQ4_1);
    }
    prompt = variant.Read("p" + std::to_string(variant.num_prompts() - 1) + ".input_ids").ids;
    // Fewer tokens still cross every chunk size but the largest.
    if (IsSlow(std::get<1>(GetParam()))) prompt.resize(96);
  }

  model::Activation activation() const {
    return std::get<2>(GetParam()) == Precision::kF32 ? model::Activation::kF32
                                                      : model::Activation::kInt8;
  }
  LoadedModel LoadWith(int threads) const {
    return Load(checkpoint, {.activation = activation(),
                             .isa = std::get<1>(GetParam()),
                             .threads = threads,
                             .kv_type = std::get<3>(GetParam())});
  }

  Variant variant;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
  std::vector<int32_t> prompt;
};

TEST_P(Determinism, Logits_AnyChunkAndThreads_SameBits) {
  LoadedModel one = LoadWith(1);
  const std::vector<float> want = AllLogits(one.model.get(), prompt, 512);
  LoadedModel two = LoadWith(2);
  for (const size_t chunk : {1, 7, 64, 512}) {
    EXPECT_TRUE(SameBits(want, AllLogits(one.model.get(), prompt, chunk))) << "chunk " << chunk;
    EXPECT_TRUE(SameBits(want, AllLogits(two.model.get(), prompt, chunk)))
        << "chunk " << chunk << ", 2 threads";
  }
  // Weights split between the NUMA nodes of a machine with an uneven pair of them.
  LoadedModel split = Load(checkpoint, {.activation = activation(),
                                        .isa = std::get<1>(GetParam()),
                                        .shards = {1, 2},
                                        .kv_type = std::get<3>(GetParam())});
  for (const size_t chunk : {1, 64}) {
    EXPECT_TRUE(SameBits(want, AllLogits(split.model.get(), prompt, chunk)))
        << "chunk " << chunk << ", 2 shards";
  }
}

TEST_P(Determinism, Logits_InBatchOf16_SameBits) {
  LoadedModel loaded = LoadWith(2);
  model::Model* model = loaded.model.get();
  const auto v = static_cast<size_t>(model->vocab_size());
  // Sixteen sequences of many lengths, the prompt among them, each in random chunks of mixed steps.
  std::vector<std::vector<int32_t>> sequences;
  std::mt19937 random(3);
  for (int i = 0; i < kBatch; ++i) {
    std::vector<int32_t> ids = prompt;
    if (i != 5) {
      std::shuffle(ids.begin(), ids.end(), random);
      ids.resize(1 + random() % prompt.size());
    }
    sequences.push_back(std::move(ids));
  }
  std::vector<model::ContiguousKv> kv;
  kv.reserve(sequences.size());
  for (const auto& ids : sequences) {
    kv.emplace_back(model->kv_layout(), static_cast<int64_t>(ids.size()));
  }
  std::vector<std::vector<float>> got(kBatch);
  std::vector<size_t> done(kBatch, 0);
  for (;;) {
    std::vector<model::SequenceChunk> step;
    std::vector<size_t> who;
    for (size_t i = 0; i < kBatch; ++i) {
      const size_t left = sequences[i].size() - done[i];
      if (left == 0) continue;
      const size_t count = std::min<size_t>(left, 1 + random() % 30);
      step.push_back({.ids = {sequences[i].data() + done[i], count},
                      .start = static_cast<int32_t>(done[i]),
                      .kv = kv[i].view(),
                      .logits = model::LogitsMode::kAll});
      who.push_back(i);
    }
    if (step.empty()) break;
    ASSERT_TRUE(model->Forward(step).ok());
    const float* row = model->logits().data();
    for (size_t j = 0; j < step.size(); ++j) {
      const size_t floats = step[j].ids.size() * v;
      got[who[j]].insert(got[who[j]].end(), row, row + floats);
      row += floats;
      done[who[j]] += step[j].ids.size();
    }
  }
  for (size_t i = 0; i < kBatch; ++i) {
    EXPECT_TRUE(SameBits(AllLogits(model, sequences[i], 512), got[i])) << "sequence " << i;
  }
}

TEST_P(Determinism, Logits_PrefixFromOtherSequencesPages_SameBits) {
  LoadedModel loaded = LoadWith(2);
  model::Model* model = loaded.model.get();
  const kernels::KvLayout& layout = model->kv_layout();
  const auto block = static_cast<size_t>(layout.block_size);
  const std::vector<float> want = AllLogits(model, prompt, 512);
  const size_t shared = prompt.size() / 2 / block * block;
  ASSERT_GT(shared, 0u);

  // One arena; the first sequence fills pages in reverse order, the second borrows those of the
  // shared prefix.
  const size_t pages = prompt.size() / block + 1;
  tensor::AlignedBuffer arena(2 * pages * layout.page_bytes());
  std::vector<int32_t> first_table(pages);
  std::iota(first_table.rbegin(), first_table.rend(), 0);
  std::vector<int32_t> second_table(pages);
  for (size_t i = 0; i < pages; ++i) {
    second_table[i] = i < shared / block ? first_table[i] : static_cast<int32_t>(pages + i);
  }
  std::vector<int32_t> other(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(shared));
  other.push_back(prompt[0]);
  const model::SequenceChunk first{.ids = other,
                                   .kv = {.base = arena.data(), .page_table = first_table}};
  ASSERT_TRUE(model->Forward({&first, 1}).ok());
  const model::SequenceChunk second{.ids = {prompt.data() + shared, prompt.size() - shared},
                                    .start = static_cast<int32_t>(shared),
                                    .kv = {.base = arena.data(), .page_table = second_table},
                                    .logits = model::LogitsMode::kAll};
  ASSERT_TRUE(model->Forward({&second, 1}).ok());
  const std::vector<float> got(model->logits().begin(), model->logits().end());
  const auto skip = static_cast<std::ptrdiff_t>(shared * static_cast<size_t>(model->vocab_size()));
  EXPECT_TRUE(SameBits(std::vector<float>(want.begin() + skip, want.end()), got));
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const Precision precision = std::get<2>(info.param);
  std::string name = std::get<0>(info.param) + "_" +
                     std::string(kernels::IsaName(std::get<1>(info.param))) +
                     (precision == Precision::kF32      ? "_f32"
                      : precision == Precision::kStored ? "_stored"
                                                        : "_int8");
  if (const auto type = std::get<3>(info.param)) {
    name += "_kv_" + std::string(kernels::KvTypeName(*type));
  }
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

/// One of each way to cache: heads, heads with norms over all of them, latents, latents with index
/// keys.
constexpr std::string_view kCachedNarrow[] = {"qwen3_moe", "minimax_m2", "deepseek_v3",
                                              "deepseek_v32"};

/// What is slow runs one variant of each family, the rest all.
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const kernels::Isa isa : TestedIsas()) {
    std::string last_family;
    for (const std::string& name : Variants()) {
      const std::string family = name.substr(0, name.find('/'));
      const bool first = family != last_family;
      if (IsSlow(isa) && !first) continue;
      last_family = family;
      for (const Precision precision : {Precision::kF32, Precision::kQ4_1}) {
        cases.emplace_back(name, isa, precision, std::nullopt);
      }
      // Elsewhere weights as stored take the kernels of kF32.
      if (kernels::MultipliesBf16(isa)) {
        cases.emplace_back(name, isa, Precision::kStored, std::nullopt);
      }
      if (first && std::ranges::find(kCachedNarrow, family) != std::end(kCachedNarrow)) {
        for (const auto type : {kernels::KvType::kQ8_0, kernels::KvType::kBF16}) {
          cases.emplace_back(name, isa, Precision::kQ4_1, type);
        }
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Golden, Determinism, testing::ValuesIn(Cases()), CaseName);

}  // namespace
}  // namespace halfmoon::golden
