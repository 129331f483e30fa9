// SPDX-License-Identifier: Apache-2.0
// Bits through the engine: a request's tokens and logprobs are the same alone, beside others, and
// from a prefix that is cached or comes back from disk. Per family, on the fastest instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/temporary_folder_for_test.h"
#include "engine/engine.h"
#include "golden/golden_data.h"
#include "store/tiered_store.h"

namespace halfmoon::golden {
namespace {

struct Output {
  std::vector<int32_t> ids;
  std::vector<uint32_t> logprob_bits;
  int32_t cached_tokens = 0;

  bool SameTokens(const Output& other) const {
    return ids == other.ids && logprob_bits == other.logprob_bits;
  }
};

using Case = std::tuple<std::string, model::Activation>;

class EngineDeterminism : public testing::TestWithParam<Case> {
 protected:
  EngineDeterminism() {
    const Variant variant(std::get<0>(GetParam()));
    std::shared_ptr<const checkpoint::Checkpoint> checkpoint = OpenVariant(variant);
    const model::Activation activation = std::get<1>(GetParam());
    if (activation == model::Activation::kInt8) {
      checkpoint = Quantise(checkpoint, tensor::DType::kQ4_1);
    }
    loaded = Load(checkpoint, {.activation = activation, .isa = kernels::BestIsa()});
    prompt = variant.Read("p" + std::to_string(variant.num_prompts() - 1) + ".input_ids").ids;
  }

  std::unique_ptr<engine::Engine> StartEngine(store::BlockStore* store = nullptr) {
    Result<std::unique_ptr<engine::Engine>> engine =
        engine::Engine::Start(loaded.model.get(), &clock,
                              {.kv_bytes = size_t{64} << 20,
                               .max_running = 8,
                               .max_queued = 32,
                               .step_tokens = 64,
                               .store = store});
    if (!engine.ok()) throw std::runtime_error(engine.error().message());
    return std::move(engine).value();
  }

  // A store over this folder, as a new process would open it.
  std::unique_ptr<store::TieredStore> OpenStore(const TemporaryFolder& folder) {
    auto opened = store::OpenSegmentFolder({.path = folder.path()});
    if (!opened.ok()) throw std::runtime_error(opened.error().message());
    const kernels::KvLayout& layout = loaded.model->kv_layout();
    auto store =
        store::TieredStore::Open({.scope = {.model_fingerprint = loaded.model->fingerprint(),
                                            .kv_format_version = kernels::kKvFormatVersion,
                                            .block_size = static_cast<uint32_t>(layout.block_size),
                                            .page_bytes = layout.page_bytes()},
                                  .folder = std::move(opened).value(),
                                  .disk_bytes = uint64_t{64} << 20},
                                 &clock);
    if (!store.ok()) throw std::runtime_error(store.error().message());
    return std::move(store).value();
  }

  static std::unique_ptr<engine::RequestHandle> Submit(engine::Engine* engine,
                                                       std::vector<int32_t> ids) {
    engine::Request request;
    request.prompt_ids = std::move(ids);
    request.max_tokens = 20;
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 11;
    request.num_logprobs = 0;
    Result<std::unique_ptr<engine::RequestHandle>> handle = engine->Submit(std::move(request));
    if (!handle.ok()) throw std::runtime_error(handle.error().message());
    return std::move(handle).value();
  }

  static Output Read(engine::RequestHandle* handle) {
    Output output;
    while (std::optional<engine::Event> event = handle->Next()) {
      if (const auto* token = std::get_if<engine::TokenEvent>(&*event)) {
        output.ids.push_back(token->id);
        output.logprob_bits.push_back(std::bit_cast<uint32_t>(token->logprob));
      } else if (const auto* done = std::get_if<engine::PromptEvent>(&*event)) {
        output.cached_tokens = done->cached_tokens;
      }
    }
    return output;
  }

  MonotonicClock clock;
  LoadedModel loaded;
  std::vector<int32_t> prompt;
};

TEST_P(EngineDeterminism, CachedPrefix_SameTokensAndLogprobs) {
  const std::unique_ptr<engine::Engine> fresh = StartEngine();
  const Output alone = Read(Submit(fresh.get(), prompt).get());
  ASSERT_EQ(alone.ids.size(), 20u);
  EXPECT_EQ(alone.cached_tokens, 0);

  // Again on the engine that has it in its cache, whole and after a prompt that shares a part.
  const Output again = Read(Submit(fresh.get(), prompt).get());
  EXPECT_GT(again.cached_tokens, 0);
  EXPECT_TRUE(alone.SameTokens(again));

  const std::unique_ptr<engine::Engine> other = StartEngine();
  std::vector<int32_t> shared(prompt.begin(),
                              prompt.begin() + static_cast<std::ptrdiff_t>(prompt.size() / 2));
  shared.push_back(prompt.back());
  Read(Submit(other.get(), shared).get());
  const Output partly = Read(Submit(other.get(), prompt).get());
  EXPECT_GT(partly.cached_tokens, 0);
  EXPECT_LT(partly.cached_tokens, again.cached_tokens);
  EXPECT_TRUE(alone.SameTokens(partly));
}

TEST_P(EngineDeterminism, PrefixFromDisk_SameTokensAndLogprobs) {
  const TemporaryFolder folder;
  const std::unique_ptr<engine::Engine> plain = StartEngine();
  const Output alone = Read(Submit(plain.get(), prompt).get());
  for (int start = 0; start < 3; ++start) {
    const std::unique_ptr<store::TieredStore> store = OpenStore(folder);
    const std::unique_ptr<engine::Engine> engine = StartEngine(store.get());
    const Output output = Read(Submit(engine.get(), prompt).get());
    const int block = loaded.model->kv_layout().block_size;
    const auto whole = (static_cast<int>(prompt.size()) - 1) / block * block;
    EXPECT_EQ(output.cached_tokens, start == 0 ? 0 : whole);
    EXPECT_TRUE(alone.SameTokens(output));
    while (engine->Stats().waiting_offers > 0) std::this_thread::yield();
    ASSERT_TRUE(store->Flush(60'000'000));
  }
}

TEST_P(EngineDeterminism, GeneratedThenPrompted_SameTokens) {
  const std::unique_ptr<engine::Engine> first = StartEngine();
  const Output generated = Read(Submit(first.get(), prompt).get());
  // The answer's own blocks, written token by token, serve as the next prompt's prefix.
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), generated.ids.begin(), generated.ids.end());
  const Output continued = Read(Submit(first.get(), longer).get());
  EXPECT_GE(continued.cached_tokens, static_cast<int32_t>(prompt.size()));
  const std::unique_ptr<engine::Engine> second = StartEngine();
  const Output from_scratch = Read(Submit(second.get(), longer).get());
  EXPECT_EQ(from_scratch.cached_tokens, 0);
  EXPECT_TRUE(continued.SameTokens(from_scratch));
}

TEST_P(EngineDeterminism, AmongOthers_SameTokensAndLogprobs) {
  const std::unique_ptr<engine::Engine> quiet = StartEngine();
  const Output alone = Read(Submit(quiet.get(), prompt).get());
  const std::unique_ptr<engine::Engine> busy = StartEngine();
  std::vector<std::unique_ptr<engine::RequestHandle>> others;
  for (size_t i = 0; i < 15; ++i) {
    std::vector<int32_t> ids = prompt;
    std::rotate(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(5 * i + 3), ids.end());
    ids.resize(20 + 10 * i);
    others.push_back(Submit(busy.get(), ids));
  }
  const std::unique_ptr<engine::RequestHandle> handle = Submit(busy.get(), prompt);
  EXPECT_TRUE(alone.SameTokens(Read(handle.get())));
  for (const auto& other : others) EXPECT_EQ(Read(other.get()).ids.size(), 20u);
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const bool f32 = std::get<1>(info.param) == model::Activation::kF32;
  std::string name = std::get<0>(info.param) + (f32 ? "_f32" : "_int8");
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, EngineDeterminism,
                         testing::Combine(testing::ValuesIn(Variants()),
                                          testing::Values(model::Activation::kF32,
                                                          model::Activation::kInt8)),
                         CaseName);

}  // namespace
}  // namespace halfmoon::golden
