// SPDX-License-Identifier: Apache-2.0
// The sending end of KV between nodes: computes or looks up prompts for others, and tells whoever
// pulls them which ranges of the pages here are complete.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "cluster/engine_handle.h"
#include "cluster/messages.h"
#include "net/channel.h"
#include "transfer/transfer.h"

namespace halfmoon::cluster {

struct ExporterOptions {
  /// How long pages are kept for a puller that has not come, or that has not said it is done since
  /// the last of them was ready.
  TimeUs lease_us = 30'000'000;
  size_t max_exports = 1024;  ///< at once
};

/// IO thread of the channel service only.
class KvExporter {
 public:
  /// All outlive it. segment: of the engine's pages.
  KvExporter(EngineHandle* engine, const transfer::Segment* segment, net::TimerService* timers,
             const Clock* clock, const ExporterOptions& options);
  ~KvExporter();
  KvExporter(const KvExporter&) = delete;
  KvExporter& operator=(const KvExporter&) = delete;

  /// owner: is told the end (kExportEnded) once, however it comes, and takes the export with it
  /// when it closes. One of which the puller has come and gone is refused.
  void Start(const Export& request, std::shared_ptr<store::BlockSource> source,
             const std::shared_ptr<net::Channel>& owner);
  void Cancel(const Ticket& ticket);
  /// May come before the export does.
  void OnPull(const Ticket& ticket, const std::shared_ptr<net::Channel>& puller);
  void OnPullDone(const Ticket& ticket);
  void OnClosed(const net::Channel* channel);
  /// To be called several times a second: ends what has outlived its lease.
  void Tick();

  /// That hold pages.
  int num_exports() const;

 private:
  struct Running;
  void OnReady(const Ticket& ticket, KvReady ready, Tier tier, const std::vector<int32_t>& pages);
  void OnNotified(const Ticket& ticket);
  void SendAll(Running* running);
  void Release(Running* running);
  void EndWith(Running* running, std::optional<Error> error);

  EngineHandle* const engine_;
  const transfer::Segment* const segment_;
  net::TimerService* const timers_;
  const Clock* const clock_;
  const ExporterOptions options_;
  const PageMemory pages_;
  const std::shared_ptr<KvExporter*> alive_;  // null once this is gone
  std::map<Ticket, std::unique_ptr<Running>> exports_;
};

}  // namespace halfmoon::cluster
