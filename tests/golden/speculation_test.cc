// SPDX-License-Identifier: Apache-2.0
// Speculative decoding on real forward passes: with each source of guesses an engine gives the
// tokens and logprobs that it gives without, and those of the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/mtp_drafter.h"
#include "golden/golden_data.h"
#include "model/contiguous_kv.h"

namespace halfmoon::golden {
namespace {

using engine::DraftSource;

constexpr int32_t kGreedyTokens = 24;

struct Output {
  std::vector<int32_t> ids;
  std::vector<uint32_t> logprob_bits;
};

Output Read(engine::RequestHandle* handle) {
  Output output;
  while (std::optional<engine::Event> event = handle->Next()) {
    if (const auto* token = std::get_if<engine::TokenEvent>(&*event)) {
      output.ids.push_back(token->id);
      output.logprob_bits.push_back(std::bit_cast<uint32_t>(token->logprob));
    }
  }
  return output;
}

int32_t ArgMax(std::span<const float> row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

std::vector<int32_t> Prompt(const Variant& variant, size_t i) {
  return variant.Read("p" + std::to_string(i) + ".input_ids").ids;
}

using Case = std::tuple<std::string, model::Activation>;

class Speculation : public testing::TestWithParam<Case> {
 protected:
  Speculation() : variant(std::get<0>(GetParam())) {
    checkpoint = OpenVariant(variant);
    if (activation() == model::Activation::kInt8) {
      checkpoint = Quantise(checkpoint, tensor::DType::kQ8_0);
    }
    target = Load(checkpoint, Spec(true));
  }

  static model::Activation activation() { return std::get<1>(GetParam()); }
  static LoadSpec Spec(bool load_mtp) {
    return {.activation = activation(), .isa = kernels::BestIsa(), .load_mtp = load_mtp};
  }

  std::unique_ptr<engine::Engine> StartEngine(const engine::SpeculationOptions& speculation) {
    Result<std::unique_ptr<engine::Engine>> started =
        engine::Engine::Start(target.model.get(), &clock,
                              {.kv_bytes = size_t{32} << 20,
                               .max_running = 8,
                               .max_queued = 64,
                               .step_tokens = 96,
                               .speculation = speculation});
    if (!started.ok()) throw std::runtime_error(started.error().message());
    return std::move(started).value();
  }

  /// Every prompt greedily, then with temperatures and seeds, all at the same time.
  std::vector<Output> RunAll(engine::Engine* engine) const {
    std::vector<std::unique_ptr<engine::RequestHandle>> handles;
    for (const float temperature : {0.0f, 0.3f, 1.0f}) {
      for (size_t i = 0; i < variant.num_prompts(); ++i) {
        engine::Request request;
        request.prompt_ids = Prompt(variant, i);
        request.max_tokens = kGreedyTokens;
        request.num_logprobs = 0;
        request.sampling = {.temperature = temperature, .seed = 40 + i};
        if (i == 1) request.sampling.repetition_penalty = temperature > 0.0f ? 1.2f : 1.0f;
        Result<std::unique_ptr<engine::RequestHandle>> handle = engine->Submit(std::move(request));
        if (!handle.ok()) throw std::runtime_error(handle.error().message());
        handles.push_back(std::move(handle).value());
      }
    }
    std::vector<Output> outputs;
    for (const auto& handle : handles) outputs.push_back(Read(handle.get()));
    return outputs;
  }

  void ExpectSameAsPlain(const engine::SpeculationOptions& speculation, const char* what) {
    const std::vector<Output> plain = RunAll(StartEngine({}).get());
    const std::unique_ptr<engine::Engine> guessing = StartEngine(speculation);
    // The second time prompts come from the prefix cache.
    for (int round = 0; round < 2; ++round) {
      const std::vector<Output> outputs = RunAll(guessing.get());
      for (size_t i = 0; i < plain.size(); ++i) {
        EXPECT_EQ(outputs[i].ids, plain[i].ids) << what << " request " << i;
        EXPECT_EQ(outputs[i].logprob_bits, plain[i].logprob_bits) << what << " request " << i;
        if (activation() == model::Activation::kF32 && i < variant.num_prompts()) {
          EXPECT_EQ(outputs[i].ids, variant.Read("p" + std::to_string(i) + ".greedy_ids").ids);
        }
      }
    }
    EXPECT_GT(guessing->Stats().cached_prompt_tokens, 0u);
    stats = guessing->Stats();
  }

  MonotonicClock clock;
  Variant variant;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
  LoadedModel target;
  engine::EngineStats stats;
};

TEST_P(Speculation, Ngram_SameAsPlain) {
  ExpectSameAsPlain({.source = DraftSource::kNgram, .max_tokens = 6, .adaptive = false}, "n-gram");
}

TEST_P(Speculation, Adaptive_SameAsPlain) {
  ExpectSameAsPlain({.source = DraftSource::kNgram, .max_tokens = 6}, "adaptive n-gram");
}

// The model guesses for itself: every guess comes true, sampled ones as well, because they are
// drawn with the same random numbers.
TEST_P(Speculation, DraftModelEqualToTarget_AllGuessesComeTrue) {
  const LoadedModel draft = Load(checkpoint, Spec(false));
  ExpectSameAsPlain({.source = DraftSource::kModel,
                     .max_tokens = 5,
                     .adaptive = false,
                     .draft_model = draft.model.get(),
                     .draft_kv_bytes = size_t{32} << 20},
                    "equal draft model");
  EXPECT_GT(stats.draft_tokens, 200u);
  // But for a request with a penalty, whose guesses do not see the guesses before them.
  EXPECT_GT(stats.accepted_draft_tokens, stats.draft_tokens * 4 / 5);
}

TEST_P(Speculation, DraftModelWithOtherWeightsAndFewPages_SameAsPlain) {
  const LoadedModel draft =
      Load(Quantise(OpenVariant(variant), tensor::DType::kQ4_0),
           {.activation = model::Activation::kInt8, .isa = kernels::BestIsa()});
  // Pages for the longest prompt and a little: sequences lose them to each other.
  const kernels::KvLayout& layout = draft.model->kv_layout();
  ExpectSameAsPlain({.source = DraftSource::kModel,
                     .max_tokens = 4,
                     .adaptive = false,
                     .draft_model = draft.model.get(),
                     .draft_kv_bytes = 9 * layout.page_bytes()},
                    "other draft model");
  EXPECT_GT(stats.draft_tokens, 50u);
  EXPECT_GT(stats.accepted_draft_tokens, 0u);
  EXPECT_LT(stats.accepted_draft_tokens, stats.draft_tokens);
}

/// Models with a draft layer.
class DraftLayer : public Speculation {};

TEST_P(DraftLayer, Mtp_SameAsPlain) {
  ExpectSameAsPlain({.source = DraftSource::kMtp, .max_tokens = 3, .adaptive = false}, "mtp");
  EXPECT_GT(stats.draft_tokens, 200u);
}

// Guesses made step by step, in chunks, beside guesses that failed, are those of one pass of the
// draft layer over the whole sequence.
TEST_P(DraftLayer, Mtp_GuessesAreThoseOfTheWholeSequence) {
  model::Model* model = target.model.get();
  const auto h = static_cast<size_t>(model->description().hidden_dim);
  const auto vocab = static_cast<size_t>(model->vocab_size());
  const size_t longest = variant.num_prompts() - 2;
  std::vector<int32_t> ids = Prompt(variant, longest);
  const auto prompt = static_cast<int32_t>(ids.size());
  const Table more = variant.Read("p" + std::to_string(longest) + ".greedy_ids");
  ids.insert(ids.end(), more.ids.begin(), more.ids.end());
  const auto total = static_cast<int32_t>(ids.size());

  AllLogits(model, ids, 512);
  const std::vector<float> hidden(model->final_hidden().begin(), model->final_hidden().end());
  // What follows position p + 1 by the draft layer, and after it by the layer fed with its output.
  const auto whole = [&](int32_t last, size_t guesses) {
    model::ContiguousKv kv(model->kv_layout(), total + 8);
    const auto rows = static_cast<size_t>(last) + 1;
    model::MtpChunk chunk{.next_ids = std::span(ids).subspan(1, rows),
                          .hidden = {hidden.data(), rows * h},
                          .kv = kv.view()};
    EXPECT_TRUE(model->ForwardMtp({&chunk, 1}).ok());
    std::vector<int32_t> tokens = {ArgMax(model->logits())};
    while (tokens.size() < guesses) {
      const std::vector<float> fed(model->final_hidden().begin(), model->final_hidden().end());
      chunk.start = last + static_cast<int32_t>(tokens.size());
      chunk.next_ids = std::span<const int32_t>(tokens).last(1);
      chunk.hidden = fed;
      EXPECT_TRUE(model->ForwardMtp({&chunk, 1}).ok());
      tokens.push_back(ArgMax(model->logits()));
    }
    return tokens;
  };

  std::vector<std::vector<int32_t>> guessed;
  std::vector<int32_t> ends;
  engine::MtpDrafter drafter(model);
  const engine::SamplingParams greedy{.temperature = 0.0f};
  const engine::TokenHistory history;
  model::ContiguousKv kv(model->kv_layout(), total + 8);
  for (int32_t start = 0; start < total - 1;) {
    const int32_t count = std::min(start < prompt ? 23 : 1 + start % 3, total - 1 - start);
    // Two tokens more than stay: guesses that do not come true.
    std::vector<int32_t> computed(ids.begin() + start, ids.begin() + start + count);
    computed.insert(computed.end(), {5, 6});
    const model::SequenceChunk chunk{
        .ids = computed, .start = start, .kv = kv.view(), .logits = model::LogitsMode::kAll};
    EXPECT_TRUE(model->Forward({&chunk, 1}).ok());
    start += count;
    const auto known = std::span<const int32_t>(ids).first(static_cast<size_t>(start) + 1);
    const engine::ComputedRows rows{.id = sched::SeqId{1},
                                    .ids = known,
                                    .start = start - count,
                                    .count = count,
                                    .sampling = &greedy,
                                    .history = &history,
                                    .kv = kv.view(),
                                    .guess_next = true};
    drafter.Learn({&rows, 1});
    engine::DraftJob job{.id = sched::SeqId{1},
                         .ids = known,
                         .sampling = &greedy,
                         .history = &history,
                         .kv = kv.view(),
                         .max_tokens = 3};
    drafter.Propose({&job, 1});
    guessed.push_back(job.tokens);
    ends.push_back(start);
  }
  ASSERT_GT(guessed.size(), 10u);
  for (size_t i = 0; i < guessed.size(); ++i) {
    EXPECT_EQ(guessed[i], whole(ends[i] - 1, 3)) << "after " << ends[i] << " tokens";
  }
  EXPECT_EQ(vocab, static_cast<size_t>(model->vocab_size()));
}

// And so the engine accepts exactly as many of them as that pass predicts.
TEST_P(DraftLayer, Mtp_AcceptanceIsWhatTheWholeSequencePredicts) {
  model::Model* model = target.model.get();
  const auto h = static_cast<size_t>(model->description().hidden_dim);
  const auto vocab = static_cast<size_t>(model->vocab_size());
  const std::vector<int32_t> prompt = Prompt(variant, 2);
  constexpr int32_t kTokens = 120;
  const auto run = [&](engine::Engine* engine) {
    engine::Request request;
    request.prompt_ids = prompt;
    request.max_tokens = kTokens;
    // Few tokens to choose from, so that some guesses come true by chance.
    request.sampling = {.temperature = 0.0f};
    for (int32_t id = 0; id < 4; ++id) request.sampling.logit_bias.emplace_back(id, 90.0f);
    return Read(engine->Submit(std::move(request)).value().get()).ids;
  };
  std::vector<int32_t> ids = prompt;
  const std::vector<int32_t> generated = run(StartEngine({}).get());
  ids.insert(ids.end(), generated.begin(), generated.end());

  AllLogits(model, ids, 512);
  const std::vector<float> hidden(model->final_hidden().begin(), model->final_hidden().end());
  model::ContiguousKv kv(model->kv_layout(), static_cast<int64_t>(ids.size()));
  const model::MtpChunk chunk{.next_ids = std::span<const int32_t>(ids).subspan(1),
                              .hidden = {hidden.data(), (ids.size() - 1) * h},
                              .kv = kv.view(),
                              .logits = model::LogitsMode::kAll};
  EXPECT_TRUE(model->ForwardMtp({&chunk, 1}).ok());
  const auto guess = [&](size_t row) {
    // Among the tokens that the bias leaves.
    return ArgMax(model->logits().subspan(row * vocab, 4));
  };
  uint64_t drafted = 0;
  uint64_t accepted = 0;
  // Nothing is guessed where one token is left.
  for (size_t known = prompt.size() + 1; known + 1 < ids.size();) {
    ++drafted;
    const bool came_true = guess(known - 2) == ids[known];
    accepted += came_true ? 1 : 0;
    known += came_true ? 2 : 1;
  }
  const std::unique_ptr<engine::Engine> engine =
      StartEngine({.source = DraftSource::kMtp, .max_tokens = 1, .adaptive = false});
  EXPECT_EQ(run(engine.get()), generated);
  EXPECT_EQ(engine->Stats().draft_tokens, drafted);
  EXPECT_EQ(engine->Stats().accepted_draft_tokens, accepted);
  EXPECT_GT(accepted, 0u);
  EXPECT_LT(accepted, drafted);
  // From the prefix cache, the draft layer's part of the pages included.
  EXPECT_EQ(run(engine.get()), generated);
  EXPECT_GT(engine->Stats().cached_prompt_tokens, 0u);
  EXPECT_EQ(engine->Stats().draft_tokens, 2 * drafted);
  EXPECT_EQ(engine->Stats().accepted_draft_tokens, 2 * accepted);
}

TEST_P(DraftLayer, NotLoaded_RefusedWithAReason) {
  const LoadedModel without = Load(checkpoint, Spec(false));
  const engine::EngineOptions options{.kv_bytes = size_t{32} << 20,
                                      .speculation = {.source = DraftSource::kMtp}};
  const auto refused = engine::Engine::Start(without.model.get(), &clock, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find("draft layer"), std::string::npos);
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const bool f32 = std::get<1>(info.param) == model::Activation::kF32;
  std::string name = std::get<0>(info.param) + (f32 ? "_f32" : "_int8");
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

constexpr model::Activation kActivations[] = {model::Activation::kF32, model::Activation::kInt8};

INSTANTIATE_TEST_SUITE_P(Golden, Speculation,
                         testing::Combine(testing::Values("llama/smollm2_tied_f32",
                                                          "deepseek_v3/bf16", "qwen3_moe/window"),
                                          testing::ValuesIn(kActivations)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Golden, DraftLayer,
                         testing::Combine(testing::ValuesIn(VariantsWith("mtp.logits")),
                                          testing::ValuesIn(kActivations)),
                         CaseName);

}  // namespace
}  // namespace halfmoon::golden
