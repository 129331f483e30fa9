// SPDX-License-Identifier: Apache-2.0
#include "cluster/kv_exporter.h"

#include <algorithm>
#include <utility>

#include "base/hash.h"

namespace halfmoon::cluster {

struct KvExporter::Running {
  Ticket ticket;
  std::unique_ptr<ExportSequence> sequence;  // null before the export has come
  std::weak_ptr<net::Channel> owner;
  std::weak_ptr<net::Channel> puller;
  std::vector<KvReady> ready;
  size_t sent = 0;  // of ready, to the puller
  bool told_segment = false;
  int32_t first_block = 0;
  int32_t num_blocks = 0;
  int32_t whole_blocks = 0;  // of these, in order
  TierCounts found;
  int32_t cached_tokens = 0;
  bool ended = false;
  bool told_end = false;
  bool pulled = false;  // the puller needs no more
  std::optional<Error> error;
  TimeUs lease_us = 0;  // end of it
};

namespace {

template <typename Message>
void Send(const std::weak_ptr<net::Channel>& to, MessageType type, const Message& message) {
  // Who has gone is told by OnClosed.
  if (const auto channel = to.lock())
    (void)channel->Send(static_cast<uint16_t>(type), Encode(message));
}

}  // namespace

KvExporter::KvExporter(EngineHandle* engine, const transfer::Segment* segment,
                       net::TimerService* timers, const Clock* clock,
                       const ExporterOptions& options)
    : engine_(engine),
      segment_(segment),
      timers_(timers),
      clock_(clock),
      options_(options),
      pages_(engine->pages()),
      alive_(std::make_shared<KvExporter*>(this)) {}

KvExporter::~KvExporter() { *alive_ = nullptr; }

void KvExporter::Start(const Export& request, std::shared_ptr<store::BlockSource> source,
                       const std::shared_ptr<net::Channel>& owner) {
  const Ticket ticket = request.ticket;
  const auto refuse = [&](Error error) {
    (void)owner->Send(static_cast<uint16_t>(MessageType::kExportEnded),
                      Encode(ExportEnded{.ticket = ticket, .error = std::move(error)}));
  };
  const auto known = exports_.find(ticket);
  if (known != exports_.end() && known->second->sequence != nullptr) {
    return refuse(Error(ErrorCode::kInvalidArgument, "the same export twice"));
  }
  if (known != exports_.end() && known->second->pulled) {
    exports_.erase(known);
    return refuse(Error(ErrorCode::kCancelled, "whoever pulls it has gone"));
  }
  if (known == exports_.end() && exports_.size() >= options_.max_exports) {
    return refuse(Error(ErrorCode::kResourceExhausted, "too many exports"));
  }
  std::unique_ptr<Running>& running = exports_[ticket];
  if (running == nullptr) running = std::make_unique<Running>(Running{.ticket = ticket});
  running->owner = owner;
  running->first_block = request.first_block;
  running->num_blocks = request.num_blocks;
  running->lease_us = clock_->NowUs() + options_.lease_us;
  // Both come from the engine's thread; what they do happens on this one.
  const auto post = [this](auto&& action) {
    timers_->Post([alive = alive_, action = std::forward<decltype(action)>(action)] {
      if (*alive != nullptr) action(*alive);
    });
  };
  Result<std::unique_ptr<ExportSequence>> started =
      engine_->StartExport(request, std::move(source), [post, ticket](const KvPages& pages) {
        KvReady ready{.ticket = ticket,
                      .first_block = pages.first_block,
                      .first_layer = pages.first_layer,
                      .end_layer = pages.end_layer};
        post([ticket, ready = std::move(ready), tier = pages.tier,
              ids = std::vector(pages.pages.begin(), pages.pages.end())](KvExporter* self) {
          self->OnReady(ticket, ready, tier, ids);
        });
      });
  if (!started.ok()) return EndWith(running.get(), started.error());
  running->sequence = std::move(*started);
  running->sequence->SetNotify(
      [post, ticket] { post([ticket](KvExporter* self) { self->OnNotified(ticket); }); });
}

// The pages are held, so their bytes are what the checksum says until the export goes.
void KvExporter::OnReady(const Ticket& ticket, KvReady ready, Tier tier,
                         const std::vector<int32_t>& pages) {
  const auto it = exports_.find(ticket);
  if (it == exports_.end()) return;
  Running& running = *it->second;
  const size_t begin = static_cast<size_t>(ready.first_layer) * pages_.layer_bytes;
  const size_t size = static_cast<size_t>(ready.end_layer - ready.first_layer) * pages_.layer_bytes;
  for (int32_t page : pages) {
    const size_t offset = static_cast<size_t>(page) * pages_.page_bytes + begin;
    ready.offsets.push_back(offset);
    ready.checksums.push_back(Checksum(pages_.bytes.subspan(offset, size)));
  }
  if (ready.end_layer == pages_.num_layers) {
    running.whole_blocks =
        ready.first_block - running.first_block + static_cast<int32_t>(pages.size());
    running.found.Of(tier) += static_cast<int64_t>(pages.size());
  }
  running.ready.push_back(std::move(ready));
  running.lease_us = clock_->NowUs() + options_.lease_us;
  SendAll(&running);
}

void KvExporter::OnNotified(const Ticket& ticket) {
  const auto it = exports_.find(ticket);
  if (it == exports_.end() || it->second->sequence == nullptr) return;
  Running& running = *it->second;
  while (std::optional<Event> event = running.sequence->TryNext()) {
    if (const auto* prompt = std::get_if<PromptEvent>(&*event)) {
      running.cached_tokens = prompt->cached_tokens;
    } else if (const auto* finish = std::get_if<FinishEvent>(&*event)) {
      return EndWith(&running, finish->error);
    }
  }
}

void KvExporter::EndWith(Running* running, std::optional<Error> error) {
  if (std::exchange(running->ended, true)) return;
  running->error = std::move(error);
  running->lease_us = running->pulled ? 0 : clock_->NowUs() + options_.lease_us;
  Send(running->owner, MessageType::kExportEnded,
       ExportEnded{.ticket = running->ticket,
                   .num_blocks = running->whole_blocks,
                   .cached_tokens = running->cached_tokens,
                   .found = running->found,
                   .error = running->error});
  SendAll(running);
}

void KvExporter::OnPull(const Ticket& ticket, const std::shared_ptr<net::Channel>& puller) {
  if (!exports_.contains(ticket) && exports_.size() >= options_.max_exports) {
    return Send(
        std::weak_ptr(puller), MessageType::kKvEnd,
        KvEnd{.ticket = ticket, .error = Error(ErrorCode::kResourceExhausted, "too many exports")});
  }
  std::unique_ptr<Running>& running = exports_[ticket];
  if (running == nullptr) {
    // The conductor tells both nodes at once, so this one may not know of it yet.
    running = std::make_unique<Running>(Running{.ticket = ticket});
    running->lease_us = clock_->NowUs() + options_.lease_us;
  }
  running->puller = puller;
  running->sent = 0;
  running->told_segment = false;
  running->told_end = false;
  SendAll(running.get());
}

void KvExporter::SendAll(Running* running) {
  if (running->puller.expired()) return;
  if (!std::exchange(running->told_segment, true)) {
    Send(running->puller, MessageType::kKvSegment,
         KvSegment{.ticket = running->ticket,
                   .descriptor = segment_->descriptor(),
                   .layer_bytes = pages_.layer_bytes,
                   .num_layers = pages_.num_layers});
  }
  for (; running->sent < running->ready.size(); ++running->sent) {
    Send(running->puller, MessageType::kKvReady, running->ready[running->sent]);
  }
  if (!running->ended || std::exchange(running->told_end, true)) return;
  Send(running->puller, MessageType::kKvEnd,
       KvEnd{.ticket = running->ticket, .error = running->error});
}

void KvExporter::OnPullDone(const Ticket& ticket) {
  const auto it = exports_.find(ticket);
  if (it == exports_.end()) return;
  Release(it->second.get());
  Tick();
}

// Nobody pulls the same twice: one that was cut off computes what it has not got.
void KvExporter::Release(Running* running) {
  running->puller.reset();
  running->pulled = true;
  // One that still computes goes on: what it computes stays in the cache here. One that has not
  // come yet is remembered, so that it does not start for nobody.
  if (running->sequence != nullptr) running->lease_us = 0;
}

void KvExporter::Cancel(const Ticket& ticket) {
  const auto it = exports_.find(ticket);
  if (it == exports_.end()) return;
  EndWith(it->second.get(), Error(ErrorCode::kCancelled, "nobody needs the export any more"));
  exports_.erase(ticket);
}

void KvExporter::OnClosed(const net::Channel* channel) {
  const auto is = [channel](const std::weak_ptr<net::Channel>& weak) {
    return weak.lock().get() == channel;
  };
  for (auto it = exports_.begin(); it != exports_.end();) {
    const auto current = it++;
    Running& running = *current->second;
    if (is(running.owner)) {
      exports_.erase(current);
    } else if (is(running.puller)) {
      Release(&running);
    }
  }
  Tick();
}

int KvExporter::num_exports() const {
  return static_cast<int>(std::ranges::count_if(
      exports_, [](const auto& entry) { return entry.second->sequence != nullptr; }));
}

void KvExporter::Tick() {
  const TimeUs now_us = clock_->NowUs();
  for (auto it = exports_.begin(); it != exports_.end();) {
    const auto current = it++;
    Running& running = *current->second;
    if (now_us < running.lease_us) continue;
    if (running.sequence != nullptr && !running.ended) continue;
    if (!running.ended) {
      EndWith(&running, Error(ErrorCode::kNotFound, "no such export"));
      continue;
    }
    exports_.erase(current);
  }
}

}  // namespace halfmoon::cluster
