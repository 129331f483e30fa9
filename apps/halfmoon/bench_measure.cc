// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_measure.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "model/contiguous_kv.h"

namespace halfmoon::app {
namespace {

std::vector<int32_t> RandomIds(size_t count, int64_t vocab_size) {
  std::mt19937 random(1);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  }
  return ids;
}

/// Pages for `tokens` positions, of which the first `depth` are filled. Only the first of them are
/// computed and the others copied: what a step costs does not depend on the values.
Result<model::ContiguousKv> KvAtDepth(model::Model* model, int depth, int tokens) {
  const kernels::KvLayout& layout = model->kv_layout();
  model::ContiguousKv kv(layout, int64_t{depth} + tokens);
  const int block = layout.block_size;
  const int step = model->options().max_step_tokens;
  const int computed = std::min(depth, std::max(block, step / block * block));
  const std::vector<int32_t> ids = RandomIds(static_cast<size_t>(computed), model->vocab_size());
  for (int begin = 0; begin < computed; begin += step) {
    const int count = std::min(step, computed - begin);
    const model::SequenceChunk chunk{
        .ids = std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        .start = begin,
        .kv = kv.view(),
        .logits = model::LogitsMode::kNone};
    HM_TRY(model->Forward({&chunk, 1}));
  }
  if (computed == depth) return kv;
  std::byte* pages = kv.view().base;
  const int whole = computed / block;
  for (int page = whole; page * block < depth; ++page) {
    std::memcpy(pages + static_cast<size_t>(page) * layout.page_bytes(),
                pages + static_cast<size_t>(page % whole) * layout.page_bytes(),
                layout.page_bytes());
  }
  return kv;
}

std::string CaseName(const std::string& what, int depth) {
  return depth == 0 ? what : what + " at " + std::to_string(depth);
}

template <typename Run>
Result<Measurement> Measure(const std::string& what, model::Model* model, int depth, int tokens,
                            int repeats, const Run& run) {
  const MonotonicClock clock;
  Measurement measurement{.name = CaseName(what, depth), .depth = depth, .tokens = tokens};
  HM_TRY(run());  // Warms caches and pages; not counted.
  measurement.before = model->expert_stats();
  for (int i = 0; i < repeats; ++i) {
    const TimeUs begin = clock.NowUs();
    HM_TRY(run());
    measurement.seconds.push_back(static_cast<double>(clock.NowUs() - begin) * 1e-6);
  }
  measurement.after = model->expert_stats();
  std::sort(measurement.seconds.begin(), measurement.seconds.end());
  return measurement;
}

/// Seconds from submission to the last token of a greedy answer to `prompt`, on an engine of its
/// own.
Result<double> TimeGeneration(const ModelOptions& options, const std::vector<int32_t>& prompt,
                              int tokens, Runtime* runtime) {
  HM_TRY(StartEngine(options, 1, runtime));
  engine::Request request;
  request.prompt_ids = prompt;
  request.max_tokens = tokens;
  request.sampling.temperature = 0.0f;
  const TimeUs begin = runtime->clock.NowUs();
  HM_ASSIGN(const std::unique_ptr<engine::RequestHandle> handle,
            runtime->engine->Submit(std::move(request)));
  while (const std::optional<engine::Event> event = handle->Next()) {
    const auto* finish = std::get_if<engine::FinishEvent>(&*event);
    if (finish != nullptr && finish->error.has_value()) return *finish->error;
  }
  return static_cast<double>(runtime->clock.NowUs() - begin) * 1e-6;
}

}  // namespace

Result<Measurement> MeasurePrefill(model::Model* model, int depth, int tokens, int repeats) {
  const auto step = static_cast<size_t>(model->options().max_step_tokens);
  const std::vector<int32_t> ids = RandomIds(static_cast<size_t>(tokens), model->vocab_size());
  HM_ASSIGN(model::ContiguousKv kv, KvAtDepth(model, depth, tokens));
  const std::string what = "prefill " + std::to_string(tokens);
  return Measure(what, model, depth, tokens, repeats, [&]() -> Status {
    for (size_t begin = 0; begin < ids.size(); begin += step) {
      const size_t count = std::min(step, ids.size() - begin);
      const bool last = begin + count == ids.size();
      const model::SequenceChunk chunk{
          .ids = {ids.data() + begin, count},
          .start = depth + static_cast<int32_t>(begin),
          .kv = kv.view(),
          .logits = last ? model::LogitsMode::kLast : model::LogitsMode::kNone};
      HM_TRY(model->Forward({&chunk, 1}));
    }
    return {};
  });
}

Result<Measurement> MeasureDecode(model::Model* model, int depth, int batch, int tokens,
                                  int repeats) {
  const std::vector<int32_t> ids =
      RandomIds(static_cast<size_t>(batch) * static_cast<size_t>(tokens), model->vocab_size());
  std::vector<model::ContiguousKv> kv;
  kv.reserve(static_cast<size_t>(batch));
  for (int i = 0; i < batch; ++i) {
    HM_ASSIGN(model::ContiguousKv one, KvAtDepth(model, depth, tokens));
    kv.push_back(std::move(one));
  }
  std::vector<model::SequenceChunk> chunks(static_cast<size_t>(batch));
  const std::string what = "decode x" + std::to_string(batch);
  return Measure(what, model, depth, batch * tokens, repeats, [&]() -> Status {
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < batch; ++i) {
        const auto at = static_cast<size_t>(i) * static_cast<size_t>(tokens);
        chunks[static_cast<size_t>(i)] = {.ids = {ids.data() + at + static_cast<size_t>(t), 1},
                                          .start = depth + t,
                                          .kv = kv[static_cast<size_t>(i)].view()};
      }
      HM_TRY(model->Forward(chunks));
    }
    return {};
  });
}

Result<GuessingMeasurement> MeasureGuessing(const ModelOptions& options, int tokens, int repeats,
                                            Runtime* runtime) {
  constexpr size_t kPeriod = 32;
  const std::vector<int32_t> part = RandomIds(kPeriod, runtime->model->vocab_size());
  std::vector<int32_t> prompt;
  for (int i = 0; i < 4; ++i) prompt.insert(prompt.end(), part.begin(), part.end());
  GuessingMeasurement result{.plain = {.name = "generate", .tokens = tokens},
                             .guessing = {.name = "generate guessing", .tokens = tokens}};
  const engine::DraftSource source = runtime->draft_source;
  for (int i = 0; i < repeats; ++i) {
    runtime->draft_source = engine::DraftSource::kNone;
    HM_ASSIGN(const double plain_s, TimeGeneration(options, prompt, tokens, runtime));
    result.plain.seconds.push_back(plain_s);
    runtime->draft_source = source;
    HM_ASSIGN(const double guessing_s, TimeGeneration(options, prompt, tokens, runtime));
    result.guessing.seconds.push_back(guessing_s);
    result.stats = runtime->engine->Stats();
  }
  runtime->engine.reset();
  std::ranges::sort(result.plain.seconds);
  std::ranges::sort(result.guessing.seconds);
  return result;
}

}  // namespace halfmoon::app
