// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/node_engine.h"

#include <mutex>
#include <optional>
#include <utility>

#include "apps/halfmoon/cluster_events.h"
#include "engine/kv_export.h"
#include "engine/local_pages.h"
#include "serve/grammar_state.h"
#include "text/grammar.h"

namespace halfmoon::app {
namespace {

cluster::Tier TierOf(std::optional<kv::Tier> tier) {
  if (!tier.has_value()) return cluster::Tier::kPages;
  return *tier == kv::Tier::kDram ? cluster::Tier::kDram : cluster::Tier::kSsd;
}

/// Of a tier below that of pages.
kv::Tier TierOf(cluster::Tier tier) {
  return tier == cluster::Tier::kDram ? kv::Tier::kDram : kv::Tier::kDisk;
}

class NodeSequence final : public cluster::Sequence {
 public:
  NodeSequence(std::unique_ptr<engine::RequestHandle> handle,
               std::shared_ptr<serve::GrammarState> grammar)
      : grammar_(std::move(grammar)), handle_(std::move(handle)) {}

  std::optional<cluster::Event> TryNext() override {
    std::optional<engine::Event> event = handle_->TryNext();
    if (!event.has_value()) return std::nullopt;
    if (auto* finish = std::get_if<engine::FinishEvent>(&*event);
        finish != nullptr && grammar_ != nullptr) {
      // Where the grammar gave up, the output merely looks complete.
      if (std::optional<std::string> failure = grammar_->failure()) {
        *finish = {.reason = engine::FinishReason::kError,
                   .error = Error(ErrorCode::kInvalidArgument, "grammar: " + *failure)};
      }
    }
    return ToCluster(std::move(*event));
  }
  void SetNotify(std::function<void()> notify) override { handle_->SetNotify(std::move(notify)); }

 private:
  const std::shared_ptr<serve::GrammarState> grammar_;  // null: none
  const std::unique_ptr<engine::RequestHandle> handle_;
};

class NodeExport final : public cluster::ExportSequence {
 public:
  NodeExport(std::unique_ptr<engine::RequestHandle> handle,
             std::shared_ptr<engine::KvExport> kv_export)
      : kv_export_(std::move(kv_export)), handle_(std::move(handle)) {}
  NodeExport(const NodeExport&) = delete;
  NodeExport& operator=(const NodeExport&) = delete;
  ~NodeExport() override { kv_export_->Release(); }

  std::optional<cluster::Event> TryNext() override {
    std::optional<engine::Event> event = handle_->TryNext();
    if (!event.has_value()) return std::nullopt;
    return ToCluster(std::move(*event));
  }
  void SetNotify(std::function<void()> notify) override { handle_->SetNotify(std::move(notify)); }

 private:
  const std::shared_ptr<engine::KvExport> kv_export_;
  const std::unique_ptr<engine::RequestHandle> handle_;
};

class NodeEngine final : public cluster::EngineHandle {
 public:
  NodeEngine(engine::Engine* engine, const serve::Backend* backend, store::BlockStore* store)
      : engine_(engine), backend_(backend), store_(store) {}

  Result<std::unique_ptr<cluster::Sequence>> Submit(
      cluster::GenerateRequest request, std::shared_ptr<store::BlockSource> source) override {
    engine::Request made = ToEngine(request);
    std::shared_ptr<serve::GrammarState> grammar;
    if (request.grammar.has_value()) {
      HM_ASSIGN(grammar, CompileGrammar(*request.grammar));
      serve::GrammarState::Attach(grammar, made);
      // What was generated elsewhere is behind the grammar already.
      const auto resumed = static_cast<size_t>(std::max(0, request.resumed_tokens));
      if (resumed > request.prompt_ids.size()) {
        return Error(ErrorCode::kInvalidArgument, "more resumed tokens than the prompt has");
      }
      for (int32_t id : std::span(request.prompt_ids).last(resumed)) made.on_token(id);
    }
    made.source = std::move(source);
    HM_ASSIGN(std::unique_ptr<engine::RequestHandle> handle, engine_->Submit(std::move(made)));
    return std::unique_ptr<cluster::Sequence>(
        std::make_unique<NodeSequence>(std::move(handle), std::move(grammar)));
  }

  Result<std::unique_ptr<cluster::ExportSequence>> StartExport(
      const cluster::Export& request, std::shared_ptr<store::BlockSource> source,
      std::function<void(const cluster::KvPages&)> on_ready) override {
    engine::Request made;
    made.prompt_ids = request.prompt_ids;
    made.cache_salt = request.cache_salt;
    made.max_tokens = 0;
    made.service = ServiceOf(request.turn);
    // Nothing is computed for it, so it need not wait for those that compute.
    if (request.cached_only) made.service.priority = INT64_MIN;
    made.source = std::move(source);
    made.kv_export = std::make_shared<engine::KvExport>(engine::KvExport::Options{
        .num_blocks = request.num_blocks,
        .first_block = request.first_block,
        .cached_only = request.cached_only,
        .on_ready = [on_ready = std::move(on_ready)](const engine::KvReady& ready) {
          on_ready({.first_block = ready.first_block,
                    .pages = ready.pages,
                    .first_layer = ready.first_layer,
                    .end_layer = ready.end_layer,
                    .tier = TierOf(ready.tier)});
        }});
    const std::shared_ptr<engine::KvExport> kv_export = made.kv_export;
    HM_ASSIGN(std::unique_ptr<engine::RequestHandle> handle, engine_->Submit(std::move(made)));
    return std::unique_ptr<cluster::ExportSequence>(
        std::make_unique<NodeExport>(std::move(handle), kv_export));
  }

  cluster::PageMemory pages() override {
    const engine::PageMemoryView view = engine_->local_pages()->page_memory();
    return {.bytes = view.bytes,
            .file = view.file,
            .page_bytes = view.page_bytes,
            .layer_bytes = view.layer_bytes,
            .num_layers = view.num_layers};
  }
  kv::BlockKey SeedKey(std::string_view cache_salt) const override {
    return engine_->local_pages()->SeedKey(cache_salt);
  }
  bool TakeBlockChanges(cluster::Tier tier, int32_t most, std::vector<kv::BlockKey>* added,
                        std::vector<kv::BlockKey>* removed) override {
    if (tier == cluster::Tier::kPages) {
      engine::BlockChanges changes = engine_->local_pages()->TakeBlockChanges();
      *added = std::move(changes.added);
      *removed = std::move(changes.removed);
      return false;
    }
    if (store_ == nullptr) return false;
    kv::CatalogChanges changes;
    const bool more = store_->TakeChanges(TierOf(tier), most, &changes);
    *added = std::move(changes.added);
    *removed = std::move(changes.removed);
    return more;
  }
  bool ListToldBlocks(cluster::Tier tier, int32_t most, int32_t* next,
                      std::vector<kv::BlockKey>* keys) override {
    return store_ != nullptr && store_->ListTold(TierOf(tier), most, next, keys);
  }

  cluster::Load MeasureLoad() override {
    const engine::EngineStats stats = engine_->Stats();
    cluster::Load load;
    load.report = {.decoding = stats.decoding,
                   .decoding_kv_tokens = stats.decoding_kv_tokens,
                   .waiting_prompt_tokens = stats.waiting_prompt_tokens,
                   .step_us = stats.decode_step_us};
    load.costs.prefill = stats.prompt_cost;
    load.running = stats.running;
    load.queued = stats.queued;
    load.pages_total = stats.pages_total;
    load.pages_in_use = stats.pages_in_use;
    load.pages_cached = stats.pages_cached;
    load.hits.pages = static_cast<int64_t>(stats.page_hit_blocks + stats.looked_up_page_blocks);
    if (!stats.store.has_value()) return load;
    load.blocks.dram = static_cast<int64_t>(stats.store->dram.blocks);
    load.blocks.ssd = static_cast<int64_t>(stats.store->disk.blocks);
    load.hits.dram = static_cast<int64_t>(stats.store->dram.hits);
    load.hits.ssd = static_cast<int64_t>(stats.store->disk.hits);
    load.costs.ssd_bytes_per_s = MeasureDisk(stats.store->disk);
    return load;
  }

 private:
  Result<std::shared_ptr<serve::GrammarState>> CompileGrammar(
      const cluster::GrammarSpec& spec) const {
    if (spec.kind > static_cast<uint8_t>(text::GrammarKind::kLark)) {
      return Error(ErrorCode::kInvalidArgument, "an unknown kind of grammar");
    }
    return backend_->CompileGrammar(static_cast<text::GrammarKind>(spec.kind), spec.source,
                                    spec.eos_ids);
  }

  // By its reads of late; 0: none yet.
  double MeasureDisk(const store::TierStats& now) {
    constexpr double kNewest = 0.2;
    constexpr uint64_t kLeastBytes = 256 << 10;  // less is mostly waiting
    std::lock_guard lock(mutex_);
    const uint64_t bytes = now.read_bytes - measured_.read_bytes;
    const uint64_t us = now.read_us - measured_.read_us;
    if (bytes < kLeastBytes || us == 0) return disk_bytes_per_s_;
    measured_ = now;
    const double rate = static_cast<double>(bytes) * 1e6 / static_cast<double>(us);
    disk_bytes_per_s_ =
        disk_bytes_per_s_ == 0.0 ? rate : disk_bytes_per_s_ + kNewest * (rate - disk_bytes_per_s_);
    return disk_bytes_per_s_;
  }

  engine::Engine* const engine_;
  const serve::Backend* const backend_;
  store::BlockStore* const store_;  // may be null
  std::mutex mutex_;
  store::TierStats measured_;      // GUARDED_BY(mutex_): up to where
  double disk_bytes_per_s_ = 0.0;  // GUARDED_BY(mutex_)
};

}  // namespace

std::unique_ptr<cluster::EngineHandle> MakeNodeEngine(engine::Engine* engine,
                                                      const serve::Backend* backend,
                                                      store::BlockStore* store) {
  return std::make_unique<NodeEngine>(engine, backend, store);
}

}  // namespace halfmoon::app
