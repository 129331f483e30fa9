// SPDX-License-Identifier: Apache-2.0
// What fakes of an engine are built on: one that computes nothing and keeps no blocks.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "cluster/engine_handle.h"

namespace halfmoon::cluster {

/// Refuses every request and has no pages; a test overrides what it is about.
class IdleEngine : public EngineHandle {
 public:
  Result<std::unique_ptr<Sequence>> Submit(GenerateRequest,
                                           std::shared_ptr<store::BlockSource>) override {
    return Error(ErrorCode::kUnsupported, "not in this test");
  }
  Result<std::unique_ptr<ExportSequence>> StartExport(
      const Export&, std::shared_ptr<store::BlockSource>,
      std::function<void(const KvPages&)>) override {
    return Error(ErrorCode::kUnsupported, "not in this test");
  }
  PageMemory pages() override { return {}; }
  kv::BlockKey SeedKey(std::string_view) const override { return {}; }
  bool TakeBlockChanges(Tier, int32_t, std::vector<kv::BlockKey>*,
                        std::vector<kv::BlockKey>*) override {
    return false;
  }
  bool ListToldBlocks(Tier, int32_t, int32_t*, std::vector<kv::BlockKey>*) override {
    return false;
  }
  Load MeasureLoad() override { return {}; }
};

}  // namespace halfmoon::cluster
