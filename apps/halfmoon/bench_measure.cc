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

Result<PreparedCase> PreparedCase::Make(model::Model* model, const BenchCase& which,
                                        int decode_tokens) {
  const bool prefill = which.kind == BenchCase::Kind::kPrefill;
  PreparedCase prepared(model, which, prefill ? which.tokens : decode_tokens);
  const auto sequences = static_cast<size_t>(prefill ? 1 : which.sequences);
  prepared.ids_ = RandomIds(sequences * static_cast<size_t>(prepared.length_), model->vocab_size());
  prepared.kv_.reserve(sequences);
  for (size_t i = 0; i < sequences; ++i) {
    HM_ASSIGN(model::ContiguousKv kv, KvAtDepth(model, which.depth, prepared.length_));
    prepared.kv_.push_back(std::move(kv));
  }
  return prepared;
}

Status PreparedCase::Run() {
  return case_.kind == BenchCase::Kind::kPrefill ? RunPrefill() : RunDecode();
}

Status PreparedCase::RunPrefill() {
  const auto step = static_cast<size_t>(model_->options().max_step_tokens);
  for (size_t begin = 0; begin < ids_.size(); begin += step) {
    const size_t count = std::min(step, ids_.size() - begin);
    const bool last = begin + count == ids_.size();
    const model::SequenceChunk chunk{
        .ids = {ids_.data() + begin, count},
        .start = case_.depth + static_cast<int32_t>(begin),
        .kv = kv_.front().view(),
        .logits = last ? model::LogitsMode::kLast : model::LogitsMode::kNone};
    HM_TRY(model_->Forward({&chunk, 1}));
  }
  return {};
}

Status PreparedCase::RunDecode() {
  std::vector<model::SequenceChunk> chunks(kv_.size());
  for (int t = 0; t < length_; ++t) {
    for (size_t i = 0; i < kv_.size(); ++i) {
      const size_t at = i * static_cast<size_t>(length_) + static_cast<size_t>(t);
      chunks[i] = {.ids = {ids_.data() + at, 1}, .start = case_.depth + t, .kv = kv_[i].view()};
    }
    HM_TRY(model_->Forward(chunks));
  }
  return {};
}

Result<Measurement> MeasureCase(const Passes& passes, PreparedCase* prepared) {
  const MonotonicClock clock;
  model::Model* model = prepared->model();
  Measurement measurement{.name = CaseName(prepared->which()),
                          .depth = prepared->which().depth,
                          .tokens = prepared->tokens()};
  if (passes.warm_up) HM_TRY(prepared->Run());  // Touches caches and pages; not counted.
  measurement.before = model->expert_stats();
  const TimeUs first = clock.NowUs();
  for (int i = 0; i < passes.count; ++i) {
    const TimeUs begin = clock.NowUs();
    if (i > 0 && static_cast<double>(begin - first) * 1e-6 > passes.stop_after_s) break;
    HM_TRY(prepared->Run());
    measurement.seconds.push_back(static_cast<double>(clock.NowUs() - begin) * 1e-6);
  }
  measurement.after = model->expert_stats();
  std::ranges::sort(measurement.seconds);
  return measurement;
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
