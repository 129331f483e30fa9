// SPDX-License-Identifier: Apache-2.0
#include "model/prepare_weights.h"

#include <unordered_set>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "model/weight_cache.h"
#include "model/weight_loader.h"

namespace halfmoon::model {
namespace {

constexpr size_t kMaxDescriptionBytes = size_t{1} << 20;

Result<WeightKey> KeyOf(const checkpoint::Checkpoint& checkpoint, const std::string& content,
                        const ModelDescription& description, const LoadOptions& options) {
  WeightKey key{.content = content,
                .sources = checkpoint.sources(),
                .layout = std::string(kernels::PackedLayoutName(options.isa)),
                .experts = description.has_moe() && options.expert_memory_bytes == 0,
                .mtp = description.num_mtp_layers > 0,
                .expanded = options.mla_prefill == MlaPrefill::kExpanded};
  if (options.description_file.empty()) return key;
  HM_ASSIGN(const std::string text, ReadTextFile(options.description_file, kMaxDescriptionBytes));
  key.description = HashBytes(std::as_bytes(std::span(text))).ToHex();
  return key;
}

/// Stored bytes of all tensors but those named.
size_t BytesBeside(const checkpoint::Checkpoint& checkpoint,
                   const std::unordered_set<std::string>& names) {
  size_t total = 0;
  for (const std::string& name : checkpoint.Names()) {
    if (!names.contains(name)) total += checkpoint.Find(name)->view.bytes.size();
  }
  return total;
}

/// The weights as `cached` holds them.
Result<PreparedWeights> FromCache(const checkpoint::Checkpoint& checkpoint,
                                  const ModelDescription& description, ThreadPool* pool,
                                  const LoadOptions& options,
                                  std::shared_ptr<CachedWeights> cached) {
  PreparedWeights prepared;
  ExpertCatalog* on_disk = options.expert_memory_bytes > 0 ? &prepared.catalog : nullptr;
  HM_ASSIGN(prepared.weights,
            LoadWeights(checkpoint, description, pool, options, {.cached = cached.get()}, on_disk));
  prepared.file = {.state = WeightFile::State::kMapped, .size_bytes = cached->size_bytes()};
  // With experts on disk, those in the file are not wanted.
  if (on_disk == nullptr) cached->ReadAhead();
  prepared.memory = std::move(cached);
  return prepared;
}

/// The weights packed, into a new file of `cache` where there is one and it takes them.
Result<PreparedWeights> Packed(const checkpoint::Checkpoint& checkpoint,
                               const ModelDescription& description, ThreadPool* pool,
                               const LoadOptions& options, WeightCache* cache,
                               const WeightKey& key) {
  const bool from_disk = options.expert_memory_bytes > 0;
  const std::unordered_set<std::string> left =
      from_disk ? ExpertTensorNames(description) : std::unordered_set<std::string>();
  if (from_disk) {
    checkpoint.PrefetchOnly(
        [&](std::string_view name) { return !left.contains(std::string(name)); });
  } else {
    checkpoint.Prefetch();
  }
  std::unique_ptr<WeightBuilder> builder;
  if (cache != nullptr) builder = cache->Begin(key, BytesBeside(checkpoint, left));
  PreparedWeights prepared;
  const auto load = [&] {
    prepared.catalog = {};
    return LoadWeights(checkpoint, description, pool, options, {.builder = builder.get()},
                       from_disk ? &prepared.catalog : nullptr);
  };
  Result<ModelWeights> weights = load();
  if (!weights.ok() && builder != nullptr && builder->full()) {
    HM_LOG_WARN("weights are packed in memory and not cached: {} (--no-cache asks for that)",
                weights.error().message());
    builder.reset();
    weights = load();
  }
  if (!weights.ok()) return weights.error();
  prepared.weights = std::move(weights).value();
  if (builder != nullptr) {
    const std::shared_ptr<const FileArena> arena = cache->Save(std::move(builder));
    prepared.file = {.state = WeightFile::State::kSaving, .size_bytes = arena->bytes().size()};
    prepared.memory = arena;
  }
  return prepared;
}

}  // namespace

Result<PreparedWeights> PrepareWeights(const checkpoint::Checkpoint& checkpoint,
                                       const std::string& content,
                                       const ModelDescription& description, ThreadPool* pool,
                                       const LoadOptions& options) {
  HM_ASSIGN(const WeightKey key, KeyOf(checkpoint, content, description, options));
  // What lies in no file has nothing to be known by.
  WeightCache* cache = key.sources.empty() ? nullptr : options.weight_cache;
  std::shared_ptr<CachedWeights> cached = cache != nullptr ? cache->Find(key, pool) : nullptr;
  if (cached != nullptr) {
    Result<PreparedWeights> prepared =
        FromCache(checkpoint, description, pool, options, std::move(cached));
    if (prepared.ok()) return prepared;
    // If the checkpoint is to blame, packing says so.
    HM_LOG_WARN("cached weights: {}; the weights are packed again", prepared.error().message());
  }
  return Packed(checkpoint, description, pool, options, cache, key);
}

}  // namespace halfmoon::model
