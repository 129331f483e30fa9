// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <thread>
#include <utility>

#include "base/topology.h"
#include "kernels/isa.h"

namespace halfmoon::app {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
// Loads below this show nothing: a bar that flashes by tells nobody anything.
constexpr TimeUs kQuietUs = 1'000'000;

/// Value of "name: value" in a /proc file; empty where it is absent.
std::string ProcField(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

/// A field in kB; 0 where it is absent.
size_t ProcBytes(const std::string& path, std::string_view name) {
  const std::string kib = ProcField(path, name);
  return kib.empty() ? 0 : static_cast<size_t>(std::strtoull(kib.c_str(), nullptr, 10)) * 1024;
}

Result<std::unique_ptr<text::Tokenizer>> LoadTokenizer(const checkpoint::Checkpoint& checkpoint) {
  if (const checkpoint::GgufVocabulary* v = checkpoint.gguf_vocabulary(); v != nullptr) {
    return text::Tokenizer::FromGguf({.model = v->model,
                                      .pre = v->pre,
                                      .tokens = v->tokens,
                                      .scores = v->scores,
                                      .token_types = v->token_types,
                                      .merges = v->merges,
                                      .bos_id = v->bos_id,
                                      .eos_id = v->eos_id,
                                      .unknown_id = v->unknown_id,
                                      .padding_id = v->padding_id,
                                      .add_bos = v->add_bos,
                                      .add_eos = v->add_eos,
                                      .add_space_prefix = v->add_space_prefix});
  }
  return text::Tokenizer::LoadFromFolder(checkpoint.path());
}

/// The tokenizer of a checkpoint; null where it has none.
Result<std::unique_ptr<text::Tokenizer>> FindTokenizer(const checkpoint::Checkpoint& checkpoint) {
  Result<std::unique_ptr<text::Tokenizer>> tokenizer = LoadTokenizer(checkpoint);
  if (!tokenizer.ok() && tokenizer.error().code() == ErrorCode::kNotFound) {
    return std::unique_ptr<text::Tokenizer>();
  }
  return tokenizer;
}

/// The smaller model that guesses, if one was asked for.
Status LoadDraft(const ModelOptions& options, const model::LoadOptions& target, Runtime* runtime) {
  const SpeculationFlags& flags = options.speculation;
  if (!flags.wants_draft_model()) return {};
  HM_ASSIGN(const ModelSource source, FindModelSource(flags.draft_model));
  HM_ASSIGN(std::unique_ptr<checkpoint::Checkpoint> opened, checkpoint::Open(source.path));
  runtime->draft_checkpoint = std::move(opened);
  model::LoadOptions load = target;
  // What was asked for of the model itself, and a small one may not have.
  load.load_mtp = false;
  load.mla_prefill = model::MlaPrefill::kAbsorbed;
  load.expert_memory_bytes = 0;
  load.description_file.clear();
  load.progress = nullptr;
  HM_ASSIGN(const auto limit,
            json::FindInt(runtime->draft_checkpoint->config(), "max_position_embeddings"));
  load.max_context =
      static_cast<int>(std::min<int64_t>(limit.value_or(0), runtime->model->max_context()));
  HM_ASSIGN(runtime->draft,
            model::Model::Load(runtime->draft_checkpoint, runtime->pool.get(), load));
  HM_ASSIGN(const std::unique_ptr<text::Tokenizer> tokenizer,
            FindTokenizer(*runtime->draft_checkpoint));
  return CheckSameVocabulary({.name = options.model,
                              .rows = runtime->model->vocab_size(),
                              .tokenizer = runtime->tokenizer.get()},
                             {.name = flags.draft_model,
                              .rows = runtime->draft->vocab_size(),
                              .tokenizer = tokenizer.get()});
}

Status LoadText(bool tokenizer_required, Runtime* runtime) {
  const checkpoint::Checkpoint& checkpoint = *runtime->checkpoint;
  Result<std::unique_ptr<text::Tokenizer>> tokenizer = LoadTokenizer(checkpoint);
  if (tokenizer.ok()) {
    runtime->tokenizer = std::move(tokenizer).value();
  } else if (tokenizer_required || tokenizer.error().code() != ErrorCode::kNotFound) {
    return tokenizer.error();
  }
  std::string source(checkpoint.chat_template());
  if (source.empty() && checkpoint.format() == "safetensors") {
    HM_ASSIGN(std::optional<std::string> found, text::FindChatTemplate(checkpoint.path()));
    source = found.value_or("");
  }
  if (source.empty()) return {};
  HM_ASSIGN(text::ChatTemplate compiled, text::ChatTemplate::Compile(source));
  runtime->chat_template.emplace(std::move(compiled));
  return {};
}

size_t PageBytesFor(const model::Model& model, int64_t tokens) {
  const kernels::KvLayout& layout = model.kv_layout();
  const int64_t pages = (tokens + layout.block_size - 1) / layout.block_size;
  return static_cast<size_t>(pages) * layout.page_bytes();
}

/// Context for the load: what was asked for, or as much of the model's limit as half of the free
/// memory holds.
Result<int> ChooseContext(const ModelOptions& options, const json::object& config) {
  if (options.context > 0) return options.context;
  HM_ASSIGN(const auto limit, json::FindInt(config, "max_position_embeddings"));
  // Nobody who did not ask for it wants the scratch of a million positions.
  constexpr int64_t kDefaultContext = 32768;
  return static_cast<int>(std::min<int64_t>(limit.value_or(0), kDefaultContext));
}

/// A budget that only swap could hold is refused: it would be slower than a small one.
Status CheckExpertMemory(size_t bytes) {
  const size_t available = AvailableMemoryBytes();
  if (available == 0 || bytes <= available) return {};
  return Error(ErrorCode::kResourceExhausted,
               "--expert-memory: " + std::to_string(bytes >> 20) + " MiB were asked for and " +
                   std::to_string(available >> 20) + " MiB are free");
}

void PrintExpertPlan(const model::ExpertMemory& memory) {
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / kGiB; };
  std::fprintf(
      stderr,
      "experts  on disk, %zu of %zu (%.0f %%) in memory at once: %.2f GiB "
      "(--expert-memory) of the %.2f GiB that all take; %s%s\n",
      memory.num_slots, memory.num_experts,
      100.0 * static_cast<double>(memory.num_slots) / static_cast<double>(memory.num_experts),
      gib(memory.budget_bytes), gib(memory.packed_bytes), memory.method.c_str(),
      memory.locked ? ", locked in memory" : "");
}

/// Budget of the draft model's KV: for as many sequences as run, or a quarter of what the model's
/// own takes, with room for one conversation in any case.
size_t DraftKvBytes(const ModelOptions& options, size_t kv_bytes, const Runtime& runtime) {
  if (runtime.draft == nullptr) return 0;
  const size_t one = PageBytesFor(*runtime.draft, runtime.draft->max_context() + 1);
  return std::min(one * static_cast<size_t>(options.max_sequences), std::max(one, kv_bytes / 4));
}

/// Where the prepared weights are, in the end of a sentence; empty where they are in memory.
std::string DescribeWeightFile(const model::WeightFile& file) {
  switch (file.state) {
    case model::WeightFile::State::kNone:
      return "";
    case model::WeightFile::State::kSaving:
      return ", being written to the cache (--no-cache)";
    case model::WeightFile::State::kMapped:
      return ", mapped from the cache (--no-cache)";
  }
  return "";
}

/// "; on cores of their own (--pin)" and the like; empty where threads run anywhere as one shard.
std::string DescribeSeats(const ThreadLayout& layout) {
  std::string text;
  if (layout.shards.size() > 1) {
    text = "; weights split between " + std::to_string(layout.shards.size()) + " NUMA nodes";
  }
  if (layout.pinned) text += "; on cores of their own, --pin";
  return text;
}

const char* DescribeDraft(engine::DraftSource source) {
  switch (source) {
    case engine::DraftSource::kNone:
      return "nothing";
    case engine::DraftSource::kNgram:
      return "n-grams of the text so far";
    case engine::DraftSource::kMtp:
      return "the model's draft layer";
    case engine::DraftSource::kModel:
      return "the draft model";
  }
  return "";
}

}  // namespace

Result<std::unique_ptr<Runtime>> LoadRuntime(const ModelOptions& options, bool tokenizer_required,
                                             const LoadProgress& progress) {
  auto runtime = std::make_unique<Runtime>();
  HM_TRY(CheckSpeculation(options.speculation));
  model::LoadOptions load;
  HM_ASSIGN(load.isa, kernels::ParseIsa(options.isa));
  load.activation =
      options.activation == "f32" ? model::Activation::kF32 : model::Activation::kInt8;
  load.mla_prefill = options.mla_prefill == "expanded" ? model::MlaPrefill::kExpanded
                                                       : model::MlaPrefill::kAbsorbed;
  load.k_type = ParseCacheType(options.cache_type_k);
  load.v_type = ParseCacheType(options.cache_type_v);
  load.max_step_tokens = options.batch_tokens;
  load.max_sequences = options.max_sequences;
  load.progress = progress;
  load.description_file = options.description_file;
  load.expert_memory_bytes = options.expert_memory_bytes;
  HM_TRY(CheckExpertMemory(load.expert_memory_bytes));
  load.load_mtp = options.speculation.wants_draft_layer();
  runtime->weight_cache = WeightCacheOwner(options.weight_cache);
  load.weight_cache = runtime->weight_cache.get();

  HM_ASSIGN(const ModelSource source, FindModelSource(options.model));
  HM_ASSIGN(std::unique_ptr<checkpoint::Checkpoint> opened, checkpoint::Open(source.path));
  runtime->checkpoint = std::move(opened);
  HM_ASSIGN(load.max_context, ChooseContext(options, runtime->checkpoint->config()));
  runtime->name = source.name;
  runtime->license = LicenseOf(*runtime->checkpoint, source);
  // Vocabulary and weights are made ready side by side: each takes tens of milliseconds of a start.
  std::future<Status> text =
      std::async(std::launch::async, [&] { return LoadText(tokenizer_required, runtime.get()); });
  runtime->pool = std::make_unique<ThreadPool>(ChooseThreads(options.threads, options.pin));
  auto model = model::Model::Load(runtime->checkpoint, runtime->pool.get(), load);
  HM_TRY(text.get());
  if (!model.ok()) return model.error();
  runtime->model = std::move(model).value();
  if (load.mla_prefill == model::MlaPrefill::kExpanded) {
    std::fprintf(
        stderr,
        "attention expanded (--mla-prefill) in chunks long enough for it: the last bits of "
        "a token may change with the chunks of a prompt, and between prompted and "
        "generated tokens\n");
  }
  HM_TRY(LoadDraft(options, load, runtime.get()));
  HM_ASSIGN(runtime->draft_source,
            ChooseDraftSource(options.speculation, *runtime->model, runtime->draft.get()));
  return runtime;
}

Result<std::unique_ptr<Runtime>> LoadVocabulary(const std::string& model) {
  auto runtime = std::make_unique<Runtime>();
  HM_ASSIGN(const ModelSource source, FindModelSource(model));
  HM_ASSIGN(std::unique_ptr<checkpoint::Checkpoint> opened, checkpoint::Open(source.path));
  runtime->checkpoint = std::move(opened);
  runtime->name = source.name;
  runtime->license = LicenseOf(*runtime->checkpoint, source);
  HM_TRY(LoadText(/*tokenizer_required=*/true, runtime.get()));
  return runtime;
}

Status StartEngine(const ModelOptions& options, int max_queued, Runtime* runtime) {
  const model::Model& model = *runtime->model;
  const size_t one = PageBytesFor(model, model.max_context() + 1);
  const size_t all = one * static_cast<size_t>(options.max_sequences);
  size_t budget = static_cast<size_t>(options.kv_gib * kGiB);
  if (budget == 0) {
    // A quarter of what is free serves the batch and keeps prefixes for later; one whole
    // conversation has to fit.
    const size_t available = FreeBesideWeights(*runtime);
    budget = std::min(all, std::max(one, available / 4));
    if (available > 0 && budget > available) {
      return Error(ErrorCode::kResourceExhausted,
                   "a context of " + std::to_string(model.max_context()) + " tokens takes " +
                       std::to_string(one >> 20) + " MiB of KV cache, more than the " +
                       std::to_string(available >> 20) +
                       " MiB that are free; choose a smaller one with -c");
    }
  }
  runtime->kv_bytes = budget;
  HM_ASSIGN(runtime->kv_store,
            OpenKvStore(options.kv_store, options.cluster_node, model, &runtime->clock));
  HM_ASSIGN(runtime->engine,
            engine::Engine::Start(
                runtime->model.get(), &runtime->clock,
                {.kv_bytes = budget,
                 .max_running = options.max_sequences,
                 .max_queued = max_queued,
                 .step_tokens = options.batch_tokens,
                 .prefix_cache = options.prefix_cache,
                 .shared_pages = options.cluster_node,
                 .track_blocks = options.cluster_node,
                 .decode_share = options.decode_share,
                 .max_stall_us = static_cast<TimeUs>(options.max_stall_ms * 1e3),
                 .speculation = {.source = runtime->draft_source,
                                 .max_tokens = options.speculation.max_tokens,
                                 .adaptive = options.speculation.adaptive,
                                 .draft_model = runtime->draft.get(),
                                 .draft_kv_bytes = DraftKvBytes(options, budget, *runtime)},
                 .store = runtime->kv_store.get()}));
  return {};
}

void FinishEngine(TimeUs timeout_us, Runtime* runtime) {
  if (runtime->engine == nullptr) return;
  if (runtime->kv_store != nullptr) {
    // Blocks of the last requests first have to leave the engine's pages.
    const TimeUs deadline_us = runtime->clock.NowUs() + timeout_us;
    while (runtime->engine->Stats().waiting_offers > 0 && runtime->clock.NowUs() < deadline_us) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (!runtime->kv_store->Flush(std::max<TimeUs>(0, deadline_us - runtime->clock.NowUs()))) {
      std::fprintf(stderr, "halfmoon: not all KV blocks could be written in time\n");
    }
  }
  runtime->engine->Shutdown();
}

Runtime::~Runtime() {
  constexpr TimeUs kFlushUs = 10'000'000;
  FinishEngine(kFlushUs, this);
  engine.reset();
}

void PrintPlan(const ModelOptions& options, const Runtime& runtime) {
  const model::Model& model = *runtime.model;
  const kernels::KvLayout& kv = model.kv_layout();
  std::fprintf(stderr, "machine  %s, %.1f GiB free\n", CpuName().c_str(),
               static_cast<double>(AvailableMemoryBytes()) / kGiB);
  std::fprintf(stderr, "model    %s (%s, %d layers, %.2f GiB of weights in memory%s)\n",
               runtime.name.c_str(), model.description().family.c_str(),
               model.description().num_layers(), static_cast<double>(model.weight_bytes()) / kGiB,
               DescribeWeightFile(model.weight_file()).c_str());
  if (model.expert_memory() != nullptr) PrintExpertPlan(*model.expert_memory());
  PrintLicense(runtime);
  std::fprintf(stderr,
               "compute  %d threads (-t%s), %s kernels (--isa), %s activations "
               "(--activation)\n",
               runtime.pool->num_threads(), DescribeSeats(runtime.pool->layout()).c_str(),
               std::string(kernels::IsaName(model.options().isa)).c_str(),
               options.activation.c_str());
  std::fprintf(stderr,
               "context  %d tokens (-c), %zu bytes of KV a token (keys %s, values %s: -ctk, -ctv), "
               "%.2f GiB of KV cache (--kv-memory), %d sequences at once (-np)\n",
               model.max_context(), kv.bytes_per_token(),
               std::string(kernels::KvTypeName(kv.k_type)).c_str(),
               std::string(kernels::KvTypeName(kv.v_type)).c_str(),
               static_cast<double>(runtime.kv_bytes) / kGiB, options.max_sequences);
  if (runtime.kv_store != nullptr) PrintKvStore(options.kv_store, *runtime.kv_store);
  if (options.decode_share > 0.0) {
    std::fprintf(stderr,
                 "sharing  running answers keep %.0f %% of their speed beside a prompt "
                 "(--decode-share), which adds at most %.0f ms to a step (--max-stall): as many "
                 "tokens as measured costs allow, up to %d (-b)\n",
                 100.0 * options.decode_share, options.max_stall_ms, options.batch_tokens);
  } else {
    std::fprintf(stderr, "sharing  prompts take whole steps (--decode-share 0)\n");
  }
  if (runtime.draft_source == engine::DraftSource::kNone) return;
  std::fprintf(stderr, "guesses  up to %d tokens (--draft-max) from %s (--speculative)\n",
               options.speculation.max_tokens, DescribeDraft(runtime.draft_source));
}

void PrintLicense(const Runtime& runtime) {
  std::fprintf(stderr, "licence  %s\n", hub::LicenseLine(runtime.license).c_str());
}

hub::License LicenseOf(const checkpoint::Checkpoint& checkpoint, const ModelSource& source) {
  checkpoint::StatedLicense stated = checkpoint.license();
  if (stated.name.empty()) return source.license;
  return {.name = std::move(stated.name), .link = std::move(stated.link)};
}

LoadProgress TerminalProgress() {
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  TimeUs shown = begin;
  bool drawn = false;
  return [=](size_t done, size_t total) mutable {
    const TimeUs now = MonotonicClock().NowUs();
    const bool finished = done >= total;
    // On a terminal a line that is redrawn; in a log one line every five seconds.
    const TimeUs interval = terminal ? 100'000 : 5'000'000;
    if (now - begin < kQuietUs || (!finished && now - shown < interval)) return;
    if (finished && !drawn) return;
    shown = now;
    drawn = true;
    const double percent =
        total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total);
    std::fprintf(stderr, "%sloading  %3.0f %% of %.2f GiB%s", terminal ? "\r" : "", percent,
                 static_cast<double>(total) / kGiB, terminal && !finished ? "" : "\n");
  };
}

int Fail(const Error& error) {
  std::fprintf(stderr, "halfmoon: %s\n", error.message().c_str());
  return 1;
}

size_t AvailableMemoryBytes() { return ProcBytes("/proc/meminfo", "MemAvailable"); }

size_t ResidentBytes(int pid) {
  return ProcBytes("/proc/" + std::to_string(pid) + "/status", "VmRSS");
}

size_t FreeBesideWeights(const Runtime& runtime) {
  size_t mapped = runtime.model->weight_file().size_bytes;
  if (runtime.draft != nullptr) mapped += runtime.draft->weight_file().size_bytes;
  const size_t available = AvailableMemoryBytes();
  // At least a byte, since 0 says that nothing is known.
  return available > mapped ? available - mapped : std::min<size_t>(available, 1);
}

}  // namespace halfmoon::app
