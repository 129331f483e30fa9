// SPDX-License-Identifier: Apache-2.0
// What a node of the cluster needs of the engine behind it. This area knows no engine: whoever
// builds a node gives it one of these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cluster/messages.h"
#include "kv/block_key.h"
#include "store/block_store.h"

namespace halfmoon::cluster {

/// One sequence that the engine computes; as engine::RequestHandle. Dropping it cancels.
class Sequence {
 public:
  virtual ~Sequence() = default;
  virtual std::optional<Event> TryNext() = 0;
  /// `notify` runs on any thread whenever there is something to take. Once the destructor has
  /// returned it neither runs nor will.
  virtual void SetNotify(std::function<void()> notify) = 0;
};

/// Layers of blocks that will not change until the export is released; as engine::KvReady.
struct KvPages {
  int32_t first_block = 0;
  std::span<const int32_t> pages;
  int first_layer = 0;
  int end_layer = 0;
  Tier tier = Tier::kPages;  ///< where they were
};

/// A prompt being computed or looked up for somebody to copy. Its pages stay until it goes, also
/// after its events have ended.
class ExportSequence : public Sequence {};

/// Page memory: page i starts at i * page_bytes, a layer of it at layer * layer_bytes from there.
struct PageMemory {
  std::span<std::byte> bytes;
  int file = -1;  ///< memory file for processes of this host; -1: none
  size_t page_bytes = 0;
  size_t layer_bytes = 0;
  int num_layers = 0;
};

/// Thread-safe.
class EngineHandle {
 public:
  virtual ~EngineHandle() = default;

  /// source: where blocks come from; may be null. May take long where the request has a
  /// grammar, and is quick where it has none. Errors: as engine::Engine::Submit.
  virtual Result<std::unique_ptr<Sequence>> Submit(GenerateRequest request,
                                                   std::shared_ptr<store::BlockSource> source) = 0;
  /// on_ready runs on the engine thread, must be quick, and may run until the export has gone.
  virtual Result<std::unique_ptr<ExportSequence>> StartExport(
      const Export& request, std::shared_ptr<store::BlockSource> source,
      std::function<void(const KvPages&)> on_ready) = 0;

  virtual PageMemory pages() = 0;
  /// Key in front of the first block of sequences with this salt.
  virtual kv::BlockKey SeedKey(std::string_view cache_salt) const = 0;
  /// Blocks that came to the tier or left it since they were told, of `most` changed places where
  /// it is not that of pages; true where more have changed. As kv::BlockCatalog::TakeChanges.
  virtual bool TakeBlockChanges(Tier tier, int32_t most, std::vector<kv::BlockKey>* added,
                                std::vector<kv::BlockKey>* removed) = 0;
  /// Blocks that have been told of in the tier, which is not that of pages; as
  /// kv::BlockCatalog::ListTold.
  virtual bool ListToldBlocks(Tier tier, int32_t most, int32_t* next,
                              std::vector<kv::BlockKey>* keys) = 0;
  /// All of it but health, bytes, exports and the number of blocks in pages.
  virtual Load MeasureLoad() = 0;
};

}  // namespace halfmoon::cluster
