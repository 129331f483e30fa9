// SPDX-License-Identifier: Apache-2.0
#include "engine/step_loop.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <utility>

#include "base/log.h"
#include "engine/row_scan.h"
#include "kernels/paged_kv.h"

namespace halfmoon::engine {
namespace {

// A row of logits is 600 kB for a vocabulary of 150 k. Prompts that want all of their rows come in
// chunks of this many, which keeps that buffer in tens of megabytes.
constexpr int32_t kLogprobChunkTokens = 64;

// A prefill is called long after a second; from then on four reports a second look alive.
constexpr TimeUs kProgressAfterUs = 1'000'000;
constexpr TimeUs kProgressEveryUs = 250'000;

// Far below the silence of a store that matters.
constexpr TimeUs kLookAtLoadsUs = 200'000;

// Runs what a request brought along. It is foreign code, so whatever it throws ends that request
// and nothing else.
template <typename Function>
Status CallForeign(const char* what, const Function& function) {
  try {
    function();
    return {};
  } catch (const std::exception& e) {
    return Error(ErrorCode::kInternal, std::string(what) + " failed: " + e.what());
  } catch (...) {
    return Error(ErrorCode::kInternal, std::string(what) + " failed");
  }
}

// Tokens of a prompt's beginning that a step has beside sequences that decode; 0: not known.
int32_t ChunkTokens(const sched::PromptLimit& limit, int32_t step_tokens) {
  if (limit.cost.token_us <= 0.0) return 0;
  const int32_t tokens = limit.cost.TokensWithin(limit.most_us - limit.cost.fixed_us, 0);
  return std::clamp(tokens, 1, step_tokens);
}

// Pages that are held until the store has copied them cannot be evicted: a small part of all.
int32_t MaxOffers(int32_t num_pages) { return std::clamp(num_pages / 8, 1, 64); }

sched::TableOptions WithBlocks(const StepLoop::Config& config, sched::BlockLoads* loads) {
  sched::TableOptions options = config.table;
  options.loads = loads;
  options.note_sealed = config.store != nullptr;
  return options;
}

}  // namespace

StepLoop::StepLoop(StepModel* model, const Clock* clock, const Config& config,
                   store::PageMemory memory, std::unique_ptr<Speculator> speculator,
                   Mailbox* mailbox)
    : model_(model),
      clock_(clock),
      mailbox_(mailbox),
      max_request_tokens_(config.max_request_tokens),
      block_size_(config.table.limits.block_size),
      step_tokens_(config.table.limits.step_tokens),
      num_layers_(model->kv_layout().num_layers),
      fingerprint_(model->fingerprint()),
      page_bytes_(model->kv_layout().page_bytes()),
      memory_(std::move(memory)),
      traffic_({.block_size = block_size_,
                .page_bytes = page_bytes_,
                .max_offers = MaxOffers(config.table.num_pages)},
               config.store, &costs_, clock, mailbox->wake),
      table_(WithBlocks(config, &traffic_)),
      lookups_(&table_, &traffic_, memory_.base(), page_bytes_, block_size_, num_layers_),
      sampler_(model->vocab_size()),
      time_share_(config.share),
      speculator_(std::move(speculator)) {
  const auto max_running = static_cast<size_t>(config.table.limits.max_running);
  chunks_.reserve(max_running);
  guesses_.reserve(max_running);
  // Chunks refer to it, so it must not move while a step is built.
  chunk_ids_.reserve(static_cast<size_t>(config.table.limits.step_tokens));
  stats_.pages_total = config.table.num_pages;
  model_->SetLayerDone([this](int layer) { ReportLayer(layer); });
  PublishStats();
}

kv::BlockKey StepLoop::SeedKey(std::string_view cache_salt) const {
  return kv::SeedKey({.model_fingerprint = fingerprint_,
                      .kv_format_version = kernels::kKvFormatVersion,
                      .block_size = static_cast<uint32_t>(block_size_),
                      .tenant_salt = cache_salt});
}

void StepLoop::Run() {
  model_->SeatCaller();
  while (!mailbox_->stop.load(std::memory_order_acquire)) {
    TakeSubmissions();
    DropCancelled();
    DropReleasedExports();
    MoveBlocks();
    lookups_.Drop();
    UpdatePauses();
    const bool worked = RunStep();
    TellBlockChanges();
    PublishStats();
    if (worked) continue;
    // Nothing to do before a request, a cancel, a drained stream, a block that has moved or the
    // stop, each of which raises the signal; one that came meanwhile makes Wait return at once.
    // Only the silence of a store raises nothing.
    if (traffic_.num_loading() == 0) {
      mailbox_->wake->Wait();
    } else {
      mailbox_->wake->WaitFor(kLookAtLoadsUs);
    }
  }
  FinishAll();
  AwaitBlocks();
  lookups_.Drop();
  PublishStats();
}

void StepLoop::TakeSubmissions() {
  while (std::optional<Submission> submission = mailbox_->submissions.TryPop()) {
    const sched::SeqId id{next_id_++};
    if (BeginLookup(id, &*submission)) continue;
    Active& active = active_[id];
    active.request = std::move(submission->request);
    active.stream = std::move(submission->stream);
    Request& request = active.request;
    active.prompt_tokens = static_cast<int32_t>(request.prompt_ids.size());
    active.generated = request.resumed_tokens;
    if (NeedsHistory(request.sampling)) {
      const std::span ids(request.prompt_ids);
      const auto resumed = static_cast<size_t>(request.resumed_tokens);
      active.history.AddPrompt(ids.first(ids.size() - resumed));
      for (int32_t token : ids.last(resumed)) active.history.AddOutput(token);
    }
    BeginExport(id, active);
    sched::NewSequence sequence{.ids = std::move(request.prompt_ids),
                                .seed = SeedKey(request.cache_salt),
                                .priority = request.service.priority,
                                .order_us = clock_->NowUs() + request.service.yield_us,
                                .max_chunk_us = static_cast<double>(request.service.max_chunk_us)};
    if (request.prompt_logprobs) {
      sequence.max_share_tokens = kLogprobChunkTokens;
      sequence.reuse_limit_tokens = 0;
      active.prompt_logprobs.push_back(
          {.id = sequence.ids[0], .logprob = std::numeric_limits<float>::quiet_NaN()});
    }
    if (request.source != nullptr) traffic_.AddSource(id, std::move(request.source));
    table_.Add(id, std::move(sequence));
  }
}

void StepLoop::DropCancelled() {
  for (auto it = active_.begin(); it != active_.end();) {
    const auto current = it++;
    if (current->second.stream->cancelled()) Finish(current->first, FinishReason::kCancelled);
  }
}

void StepLoop::UpdatePauses() {
  for (auto& [id, active] : active_) table_.At(id).paused = active.stream->full();
}

// False where there is nothing to do until something changes from outside.
bool StepLoop::RunStep() {
  sched::Plan plan = table_.BeginStep();
  stats_.preemptions += plan.preempt.size();
  NoteAdmitted(plan.admit);
  BeginLoads(plan.loads);
  const bool has_shares = !plan.shares.empty();
  ServeExports(&plan.shares);
  if (plan.shares.empty()) return has_shares || !plan.preempt.empty() || !plan.admit.empty();
  ProposeGuesses(plan.shares);
  BuildChunks(plan.shares);
  ++stats_.steps;
  if (Forward(plan)) AfterForward(plan.shares);
  return true;
}

void StepLoop::NoteAdmitted(const std::vector<sched::SeqId>& ids) {
  for (sched::SeqId id : ids) {
    Active& active = active_.at(id);
    stats_.page_hit_blocks += static_cast<uint64_t>(table_.At(id).computed_tokens / block_size_);
    if (std::exchange(active.admitted, true)) continue;
    active.started_us = clock_->NowUs();
    mailbox_->queued.fetch_sub(1);
  }
}

void StepLoop::BuildChunks(const std::vector<sched::Share>& shares) {
  chunks_.clear();
  chunk_ids_.clear();
  for (size_t i = 0; i < shares.size(); ++i) {
    const sched::Share& share = shares[i];
    const sched::Sequence& sequence = table_.At(share.id);
    std::span<const int32_t> ids = std::span(sequence.ids)
                                       .subspan(static_cast<size_t>(sequence.computed_tokens),
                                                static_cast<size_t>(share.tokens));
    const std::vector<int32_t>& guesses = guesses_[i];
    if (!guesses.empty()) {
      const size_t first = chunk_ids_.size();
      chunk_ids_.insert(chunk_ids_.end(), ids.begin(), ids.end());
      chunk_ids_.insert(chunk_ids_.end(), guesses.begin(), guesses.end());
      ids = std::span(chunk_ids_).subspan(first);
    }
    chunks_.push_back(
        {.ids = ids,
         .start = sequence.computed_tokens,
         .kv = {.base = memory_.base(), .page_table = sequence.page_table},
         .logits = LogitsFor(active_.at(share.id), sequence, share.tokens, !guesses.empty())});
  }
}

model::LogitsMode StepLoop::LogitsFor(const Active& active, const sched::Sequence& sequence,
                                      int32_t tokens, bool has_guesses) const {
  if (has_guesses) return model::LogitsMode::kAll;
  // A row says how likely the token after it is, so the row of the last prompt token belongs to the
  // first one generated.
  const auto known = static_cast<int32_t>(active.prompt_logprobs.size());
  if (!active.prompt_done && active.request.prompt_logprobs && known < active.prompt_tokens) {
    return model::LogitsMode::kAll;
  }
  const bool reaches_end =
      sequence.computed_tokens + tokens == static_cast<int32_t>(sequence.ids.size());
  return reaches_end && active.request.max_tokens > 0 ? model::LogitsMode::kLast
                                                      : model::LogitsMode::kNone;
}

bool StepLoop::Forward(const sched::Plan& plan) {
  const std::vector<sched::Share>& shares = plan.shares;
  if (speculator_ != nullptr) {
    size_t tokens = 0;
    bool prefill = false;
    for (size_t i = 0; i < shares.size(); ++i) {
      tokens += chunks_[i].ids.size();
      prefill = prefill || shares[i].tokens > 1;
    }
    speculator_->BeginForward(static_cast<int32_t>(tokens), prefill);
  }
  Status step;
  computing_ = &shares;
  const TimeUs begin_us = clock_->NowUs();
  Status status = CallForeign("the model's step", [&] { step = model_->Forward(chunks_); });
  if (status.ok()) status = std::move(step);
  if (status.ok()) {
    CountTime(plan, clock_->NowUs() - begin_us);
    if (speculator_ != nullptr) speculator_->EndForward();
    return true;
  }
  for (const sched::Share& share : shares) Finish(share.id, FinishReason::kError, status.error());
  return false;
}

// Of the step that chunks_ describe: learns what it cost, and says what prompts may take of the
// next.
void StepLoop::CountTime(const sched::Plan& plan, TimeUs step_us) {
  StepSample sample{.prompt_tokens = plan.prompt_tokens, .us = static_cast<double>(step_us)};
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const auto tokens = static_cast<int32_t>(chunks_[i].ids.size());
    const sched::Sequence& sequence = table_.At(plan.shares[i].id);
    if (static_cast<int32_t>(sequence.ids.size()) - sequence.computed_tokens == 1) {
      sample.decode_rows += tokens;
    } else {
      sample.attended += tokens * (chunks_[i].start + (tokens + 1) / 2.0);
    }
  }
  costs_.Observe(sample);
  const double decode_us = costs_.DecodeUs(sample.decode_rows);
  time_share_.Count({.decoding = plan.decoding,
                     .prompts = plan.prompts,
                     .prompt_tokens = plan.prompt_tokens,
                     .decode_us = decode_us,
                     .step_us = sample.us});
  const sched::PromptLimit limit =
      time_share_.Limit(costs_.prompt(), costs_.DecodeUs(std::max(1, sample.decode_rows)));
  table_.SetPromptLimit(limit);
  if (plan.decoding == 0) return;
  stats_.decode_step_us = decode_us;
  stats_.prompt_chunk_tokens = ChunkTokens(limit, step_tokens_);
  if (plan.prompts == 0) return;
  if (plan.prompt_tokens == 0) ++stats_.prompt_wait_steps;
  if (limit.cost.token_us > 0.0 && decode_us > 0.0 && !std::exchange(told_sharing_, true)) {
    HM_LOG_INFO(
        "a step that decodes takes {:.1f} ms; beside it a prompt is read {} tokens at a time, as "
        "often as --decode-share allows",
        decode_us * 1e-3, stats_.prompt_chunk_tokens);
  }
}

void StepLoop::AfterForward(const std::vector<sched::Share>& shares) {
  table_.CountComputed(shares);
  endings_.clear();
  const auto vocab = static_cast<size_t>(model_->vocab_size());
  std::span<const float> logits = model_->logits();
  for (size_t i = 0; i < shares.size(); ++i) {
    const model::LogitsMode mode = chunks_[i].logits;
    const size_t num_rows = mode == model::LogitsMode::kAll
                                ? chunks_[i].ids.size()
                                : (mode == model::LogitsMode::kLast ? 1 : 0);
    TakeRows(i, shares[i], logits.first(num_rows * vocab));
    logits = logits.subspan(num_rows * vocab);
  }
  if (speculator_ != nullptr) {
    AskForGuesses();
    LearnFromStep(shares);
  }
  ReportComputed(shares);
  table_.EndStep(shares);
  // Only now: what a request leaves behind in pages is complete.
  for (Ending& ending : endings_) Finish(ending.id, ending.reason, std::move(ending.error));
}

// rows: the logits that chunk number `chunk` asked for.
void StepLoop::TakeRows(size_t chunk, const sched::Share& share, std::span<const float> rows) {
  Active& active = active_.at(share.id);
  const sched::Sequence& sequence = table_.At(share.id);
  if (!active.prompt_done) {
    if (chunks_[chunk].logits == model::LogitsMode::kAll) {
      const std::span prompt =
          std::span(sequence.ids).first(static_cast<size_t>(active.prompt_tokens));
      const Status status = CollectPromptLogprobs(&active, prompt, chunks_[chunk].start, rows);
      if (!status.ok()) {
        End(share.id, &active, FinishReason::kError, status.error());
        return;
      }
    }
    if (sequence.computed_tokens < active.prompt_tokens) {
      ReportProgress(&active, sequence.computed_tokens);
      return;
    }
    FinishPrompt(&active, sequence.reused_tokens);
    if (active.request.max_tokens == 0) {
      End(share.id, &active, FinishReason::kLength);
      return;
    }
  }
  // Else a preempted sequence that is still catching up.
  if (sequence.computed_tokens == static_cast<int32_t>(sequence.ids.size())) {
    const std::vector<int32_t>& guesses = guesses_[chunk];
    const auto vocab = static_cast<size_t>(model_->vocab_size());
    Generate(share.id, &active, guesses, rows.last((1 + guesses.size()) * vocab));
  }
}

// rows: [tokens of the chunk, V], the first at position `start`. A preemption may bring a position
// a second time.
Status StepLoop::CollectPromptLogprobs(Active* active, std::span<const int32_t> prompt,
                                       int32_t start, std::span<const float> rows) {
  const auto vocab = static_cast<size_t>(model_->vocab_size());
  std::vector<TokenEvent>& collected = active->prompt_logprobs;
  while (collected.size() < prompt.size()) {
    const size_t row = collected.size() - 1 - static_cast<size_t>(start);
    if (row >= rows.size() / vocab) break;
    collected.push_back(DescribeToken(rows.subspan(row * vocab, vocab), prompt[collected.size()],
                                      active->request.num_logprobs));
    if (std::isnan(collected.back().logprob)) {
      return Error(ErrorCode::kInternal, "the model computed NaN as logit after prompt token " +
                                             std::to_string(collected.size() - 2));
    }
  }
  return {};
}

void StepLoop::ReportProgress(Active* active, int32_t computed_tokens) {
  const TimeUs now_us = clock_->NowUs();
  if (now_us - active->started_us < kProgressAfterUs) return;
  if (now_us - active->progress_us < kProgressEveryUs) return;
  active->progress_us = now_us;
  active->stream->Push(
      ProgressEvent{.computed_tokens = computed_tokens, .prompt_tokens = active->prompt_tokens});
}

void StepLoop::FinishPrompt(Active* active, int32_t reused_tokens) {
  active->prompt_done = true;
  stats_.prompt_tokens += static_cast<uint64_t>(active->prompt_tokens);
  stats_.cached_prompt_tokens += static_cast<uint64_t>(reused_tokens);
  active->stream->Push(PromptEvent{.cached_tokens = reused_tokens,
                                   .prompt_logprobs = std::move(active->prompt_logprobs)});
}

Result<int32_t> StepLoop::ChooseToken(Active* active, std::span<const float> logits,
                                      int64_t position) {
  const Request& request = active->request;
  mask_.clear();
  if (request.mask) {
    mask_.assign((logits.size() + 31) / 32, ~uint32_t{0});
    HM_TRY(CallForeign("the request's mask", [&] { request.mask(mask_); }));
  }
  HM_ASSIGN(const int32_t token,
            sampler_.Choose(logits, request.sampling, active->history, mask_, position));
  if (NeedsHistory(request.sampling)) active->history.AddOutput(token);
  if (request.on_token) {
    HM_TRY(CallForeign("the request's on_token", [&] { request.on_token(token); }));
  }
  return token;
}

// rows: [1 + guesses, V]. Row i says what comes after the i-th guess, and counts as long as those
// before it are what has been chosen.
void StepLoop::Generate(sched::SeqId id, Active* active, std::span<const int32_t> guesses,
                        std::span<const float> rows) {
  const auto vocab = static_cast<size_t>(model_->vocab_size());
  GuessCounts counts{.made = static_cast<int32_t>(guesses.size())};
  for (size_t row = 0;; ++row) {
    const std::span<const float> logits = rows.subspan(row * vocab, vocab);
    const Result<int32_t> token =
        ChooseToken(active, logits, static_cast<int64_t>(table_.At(id).ids.size()));
    if (!token.ok()) {
      End(id, active, FinishReason::kError, token.error());
      break;
    }
    const std::optional<FinishReason> reason = TakeToken(id, active, *token, logits);
    if (row < guesses.size()) ++counts.checked;
    const bool came_true = row < guesses.size() && guesses[row] == *token;
    if (came_true) ++counts.accepted;
    if (reason.has_value()) End(id, active, *reason);
    // A stream that is full now would have stopped plain decoding here as well.
    if (reason.has_value() || !came_true || active->stream->full()) break;
    table_.AcceptDraft(id);
  }
  if (counts.made > 0) CountGuesses(id, counts);
}

void StepLoop::End(sched::SeqId id, Active* active, FinishReason reason,
                   std::optional<Error> error) {
  active->ended = true;
  endings_.push_back({.id = id, .reason = reason, .error = std::move(error)});
}

// The reason to end with this token, if it is the last.
std::optional<FinishReason> StepLoop::TakeToken(sched::SeqId id, Active* active, int32_t token,
                                                std::span<const float> logits) {
  const Request& request = active->request;
  active->stream->Push(request.num_logprobs < 0
                           ? TokenEvent{.id = token}
                           : DescribeToken(logits, token, request.num_logprobs));
  ++active->generated;
  ++stats_.generated_tokens;
  table_.Append(id, token);
  if (std::ranges::find(request.stop_ids, token) != request.stop_ids.end()) {
    return FinishReason::kStop;
  }
  const auto known = static_cast<int32_t>(table_.At(id).ids.size());
  if (active->generated == request.max_tokens || known == max_request_tokens_) {
    return FinishReason::kLength;
  }
  return std::nullopt;
}

void StepLoop::Finish(sched::SeqId id, FinishReason reason, std::optional<Error> error) {
  const auto it = active_.find(id);
  table_.Remove(id);
  traffic_.Forget(id);
  if (speculator_ != nullptr) speculator_->Forget(id);
  if (!it->second.admitted) mailbox_->queued.fetch_sub(1);
  const std::shared_ptr<EventStream> stream = std::move(it->second.stream);
  active_.erase(it);
  ++stats_.finished[static_cast<size_t>(reason)];
  // Before the event, so that who has seen the end also sees it counted.
  PublishStats();
  stream->Push(FinishEvent{.reason = reason, .error = std::move(error)});
}

void StepLoop::FinishAll() {
  TakeSubmissions();
  for (auto& [id, exported] : exports_) kv::ReleaseFromBack(&exported.pages);
  exports_.clear();
  const Error ending(ErrorCode::kUnavailable, "the engine is shutting down");
  lookups_.EndAll(ending);
  while (!active_.empty()) Finish(active_.begin()->first, FinishReason::kError, ending);
  PublishStats();
}

void StepLoop::TellBlockChanges() {
  const std::vector<kv::PrefixIndex::Change>& changes = table_.index_changes();
  if (changes.empty()) return;
  {
    std::lock_guard lock(mailbox_->blocks_mutex);
    for (const kv::PrefixIndex::Change& change : changes) {
      mailbox_->blocks[change.key] = change.added;
    }
  }
  table_.ForgetIndexChanges();
}

void StepLoop::PublishStats() {
  stats_.running = table_.num_running();
  stats_.pages_in_use = table_.pool().num_in_use();
  stats_.pages_cached = table_.pool().num_cached();
  stats_.experts = model_->expert_stats();
  stats_.prompt_cost = costs_.prompt();
  stats_.decoding = 0;
  stats_.decoding_kv_tokens = 0;
  stats_.waiting_prompt_tokens = 0;
  for (const auto& [id, active] : active_) {
    const sched::Sequence& sequence = table_.At(id);
    const auto known = static_cast<int64_t>(sequence.ids.size());
    if (sequence.running && active.prompt_done) {
      ++stats_.decoding;
      stats_.decoding_kv_tokens += known;
    } else {
      stats_.waiting_prompt_tokens += known - sequence.computed_tokens;
    }
  }
  stats_.waiting_offers = traffic_.num_waiting_offers() + static_cast<int>(table_.num_sealed());
  stats_.loading = traffic_.num_loading();
  stats_.loaded_blocks = traffic_.counters().loaded_blocks;
  stats_.failed_blocks = traffic_.counters().failed_blocks;
  stats_.load_wait_us = traffic_.counters().load_wait_us;
  stats_.unoffered_blocks = traffic_.counters().unoffered_blocks;
  stats_.looked_up_page_blocks = lookups_.num_page_hits();
  std::lock_guard lock(mailbox_->stats_mutex);
  mailbox_->stats = stats_;
}

}  // namespace halfmoon::engine
