// SPDX-License-Identifier: Apache-2.0
#include "cluster/front_door.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "cluster/node_table.h"
#include "cluster/running_request.h"
#include "net/digest.h"

namespace halfmoon::cluster {
namespace {

constexpr std::chrono::milliseconds kTick{100};
// Silence of a source of KV after which a node computes itself, beyond what was predicted.
constexpr TimeUs kLeastPatienceUs = 5'000'000;
constexpr double kPatienceFactor = 4.0;

/// An export whose end is awaited.
struct Ordered {
  RequestId request{};
  std::string address;
  bool is_fetch = false;  // of blocks that the node keeps; else it computes a prompt
};

/// What all threads share.
struct Published {
  std::mutex mutex;
  std::optional<ServedModel> model;  // GUARDED_BY(mutex)
  ClusterStatus status;              // GUARDED_BY(mutex)
};

class FrontDoorImpl final : public FrontDoor {
 public:
  FrontDoorImpl(FrontDoorOptions options, const Clock* clock)
      : options_(std::move(options)),
        clock_(clock),
        conductor_(options_.conductor),
        nodes_({.on_joined = [this](NodeLink* link) { OnJoined(link); },
                .on_left = [this](NodeLink* link) { OnLeft(*link); },
                .on_message =
                    [this](NodeLink* link, MessageType type, const std::string& payload) {
                      return Take(link, type, payload);
                    }}) {}
  FrontDoorImpl(const FrontDoorImpl&) = delete;
  FrontDoorImpl& operator=(const FrontDoorImpl&) = delete;
  ~FrontDoorImpl() override {
    // Whoever asks for a decision from now on gets an error, since nothing is posted any more.
    if (channels_ != nullptr) channels_->Shutdown();
    for (auto& [id, running] : requests_) {
      running.stream->Push(
          FinishEvent{.reason = FinishReason::kError,
                      .error = Error(ErrorCode::kUnavailable, "the conductor is shutting down")});
    }
  }

  Status Begin() {
    HM_ASSIGN(channels_,
              net::ChannelService::Create(options_.channel,
                                          [this](const std::shared_ptr<net::Channel>& channel) {
                                            return nodes_.Accept(channel);
                                          }));
    nodes_.Begin(channels_.get());
    HM_ASSIGN(const std::string secret, net::RandomBytes(sizeof(ticket_secret_)));
    std::memcpy(&ticket_secret_, secret.data(), secret.size());
    channels_->timers().Every(kTick, [this] { Tick(); });
    HM_TRY(channels_->Bind());
    channels_->Listen();
    return {};
  }

  uint16_t port() const override { return channels_->port(); }

  void SetNodes(std::vector<std::string> addresses) override {
    channels_->timers().Post(
        [this, addresses = std::move(addresses)] { nodes_.SetListed(addresses); });
  }

  Result<std::unique_ptr<Sequence>> Submit(GenerateRequest request,
                                           const ServiceLimits& limits) override;

  std::optional<ServedModel> model() const override {
    std::lock_guard lock(published_.mutex);
    return published_.model;
  }
  ClusterStatus Describe() const override {
    std::lock_guard lock(published_.mutex);
    return published_.status;
  }

  /// The consumer has gone, or has taken events.
  void PostCancel(RequestId id) {
    channels_->timers().Post([this, id] {
      const auto it = requests_.find(id);
      if (it != requests_.end()) End(&it->second, 0);
    });
  }
  void PostCredit(RequestId id) {
    channels_->timers().Post([this, id] {
      const auto it = requests_.find(id);
      if (it != requests_.end()) GiveCredit(it->second);
    });
  }

 private:
  // Everything from here on: IO thread.

  Status Take(NodeLink* link, MessageType type, const std::string& payload) {
    switch (type) {
      case MessageType::kEvents: {
        Events message;
        HM_TRY(Decode(payload, &message));
        return TakeEvents(link, std::move(message));
      }
      case MessageType::kExportEnded: {
        ExportEnded message;
        HM_TRY(Decode(payload, &message));
        return TakeExportEnded(link, message);
      }
      case MessageType::kLoad: {
        Load message;
        HM_TRY(Decode(payload, &message));
        return TakeLoad(link, message);
      }
      case MessageType::kBlocks: {
        Blocks message;
        HM_TRY(Decode(payload, &message));
        conductor_.BlocksStored(link->id, message.tier, message.added);
        conductor_.BlocksRemoved(link->id, message.tier, message.removed);
        return {};
      }
      default:
        return Error(
            ErrorCode::kCorrupt,
            "a message of type " + std::to_string(static_cast<int>(type)) + " is not due here");
    }
  }

  void OnJoined(NodeLink* link) {
    conductor_.NodeJoined(link->id, link->description->info);
    PublishModel();
    RetryWaiting();
  }

  void OnLeft(const NodeLink& link) {
    (void)conductor_.NodeLeft(link.id);
    std::erase_if(tickets_,
                  [&](const auto& entry) { return entry.second.address == link.address; });
    MoveRequestsFrom(link.address);
  }

  void PublishModel() {
    ServedModel model;
    for (const auto& [address, link] : nodes_.links()) {
      if (!link->description.has_value()) continue;
      const NodeDescription& node = *link->description;
      model = {.name = node.model,
               .fingerprint = node.fingerprint,
               .kv_format_version = node.kv_format_version,
               .block_size = node.block_size,
               .vocab_size = node.vocab_size,
               .max_request_tokens = std::max(model.max_request_tokens, node.max_request_tokens)};
    }
    std::lock_guard lock(published_.mutex);
    published_.model = model;
  }

  Status TakeLoad(NodeLink* link, const Load& load) {
    NodeInfo info = link->description->info;
    info.health = load.health;
    if (load.costs.prefill.token_us > 0.0) info.costs.prefill = load.costs.prefill;
    if (load.costs.decode.fixed_us > 0.0) info.costs.decode = load.costs.decode;
    if (load.costs.network_bytes_per_s > 0.0) {
      info.costs.network_bytes_per_s = load.costs.network_bytes_per_s;
    }
    if (load.costs.ssd_bytes_per_s > 0.0) info.costs.ssd_bytes_per_s = load.costs.ssd_bytes_per_s;
    conductor_.NodeUpdated(link->id, info);
    conductor_.ReportLoad(link->id, load.report, clock_->NowUs());
    link->load = load;
    return {};
  }

  // conductor: where; then the attempt.

  /// Errors: why it is placed nowhere.
  Status Start(Running* running) {
    GenerateRequest request = RestOf(*running);
    const std::optional<ServedModel> served = model();
    if (!served.has_value()) return RefusalOf({.reason = RejectReason::kNoNode});
    const std::vector<kv::BlockKey> keys = KeysOf(request, *served);
    const PlacementRequest asked{
        .id = running->id,
        .prompt_tokens = static_cast<int32_t>(request.prompt_ids.size()),
        .keys = keys,
        .block_tokens = served->block_size,
        // Half of what it may have; the conductor learns what is usual where there is no bound.
        .expected_output_tokens = 0,
        .priority = request.turn.priority,
        // What was computed is never thrown away: limits hold at arrival only.
        .limits = running->attempts == 0 ? running->limits : ServiceLimits{}};
    const TimeUs now_us = clock_->NowUs();
    const Decision decision = conductor_.Place(asked, now_us);
    if (const auto* rejection = std::get_if<Rejection>(&decision)) {
      counters_.retry_after_us = rejection->retry_after_us;
      std::lock_guard lock(published_.mutex);
      published_.status.retry_after_us = rejection->retry_after_us;
      return RefusalOf(*rejection);
    }
    const auto& placement = std::get<Placement>(decision);
    NodeLink* decode = nodes_.Find(placement.decode);
    NodeLink* prefill = nodes_.Find(placement.prefill);
    if (decode == nullptr || prefill == nullptr) {
      return RefusalOf({.reason = RejectReason::kNoNode});
    }
    // Nodes have clocks of their own.
    request.turn.yield_us = std::max<TimeUs>(0, placement.order_us - now_us);
    request.turn.max_chunk_us = placement.chunk_us;
    Dispatch(running, std::move(request), keys.size(), placement, prefill, decode);
    return {};
  }

  void Dispatch(Running* running, GenerateRequest request, size_t num_blocks,
                const Placement& placement, NodeLink* prefill, NodeLink* decode) {
    ++running->attempts;
    running->waits_since_us = 0;
    running->call = CallId{next_call_++};
    running->decode = decode->address;
    running->prefill.clear();
    running->orders.clear();
    calls_[running->call] = running->id;
    ++decode->decodes;
    ++counters_.placed;
    const TimeUs patience_us = std::max<TimeUs>(
        kLeastPatienceUs,
        static_cast<TimeUs>(kPatienceFactor * static_cast<double>(placement.ttft_us)));
    std::vector<SourceSpec> sources =
        FetchPrefix(running, request, placement, prefill, patience_us);
    if (prefill != decode && num_blocks > 0) {
      ++counters_.disaggregated;
      Export order{.ticket = NewTicket(),
                   .cache_salt = request.cache_salt,
                   .num_blocks = static_cast<int32_t>(num_blocks),
                   .sources = std::move(sources),
                   .turn = request.turn};
      // One token more than the blocks have: the last one of a sequence is always computed.
      const size_t tokens = num_blocks * static_cast<size_t>(decode->description->block_size) + 1;
      order.prompt_ids.assign(request.prompt_ids.begin(),
                              request.prompt_ids.begin() + static_cast<ptrdiff_t>(tokens));
      running->prefill = prefill->address;
      tickets_[order.ticket] = {.request = running->id, .address = prefill->address};
      SendOrder(running, prefill, order);
      sources = {{.address = prefill->address,
                  .ticket = order.ticket,
                  .num_blocks = order.num_blocks,
                  .patience_us = patience_us}};
    }
    QueuePrefill(running->prefill.empty() ? decode : prefill, {.request = running->id,
                                                               .priority = request.turn.priority,
                                                               .order_us = placement.order_us});
    running->stream->ResetCredit();
    decode->Send(MessageType::kSubmit,
                 cluster::Submit{.call = running->call,
                                 .request = std::move(request),
                                 .sources = std::move(sources),
                                 .credit = running->stream->TakeCredit(true)});
  }

  // Asks nodes for blocks that they keep, for the node that prefills. What that one keeps itself
  // among them it finds without being told.
  std::vector<SourceSpec> FetchPrefix(Running* running, const GenerateRequest& request,
                                      const Placement& placement, const NodeLink* prefill,
                                      TimeUs patience_us) {
    std::vector<SourceSpec> sources;
    for (const PrefixFetch& fetch : placement.fetches) {
      const NodeLink* from = nodes_.Find(fetch.source);
      if (from == prefill) continue;
      // Without these the blocks behind them are of no use.
      if (from == nullptr) break;
      Export order{.ticket = NewTicket(),
                   .cache_salt = request.cache_salt,
                   .first_block = fetch.first_block,
                   .num_blocks = fetch.num_blocks,
                   .cached_only = true};
      const size_t tokens = static_cast<size_t>(fetch.first_block + fetch.num_blocks) *
                            static_cast<size_t>(prefill->description->block_size);
      order.prompt_ids.assign(request.prompt_ids.begin(),
                              request.prompt_ids.begin() + static_cast<ptrdiff_t>(tokens));
      tickets_[order.ticket] = {.request = running->id, .address = from->address, .is_fetch = true};
      SendOrder(running, from, order);
      sources.push_back({.address = from->address,
                         .ticket = order.ticket,
                         .first_block = order.first_block,
                         .num_blocks = order.num_blocks,
                         .patience_us = patience_us});
    }
    if (!sources.empty()) ++counters_.fetched;
    return sources;
  }

  static void SendOrder(Running* running, const NodeLink* to, const Export& order) {
    running->orders.push_back({.ticket = order.ticket, .address = to->address});
    to->Send(MessageType::kExport, order);
  }

  // Whoever would have pulled them has what it needs, has gone or has been told not to: perhaps
  // before it came to ask, so that the other node cannot know. What a fetch found is still counted
  // when its end is told, which may be later than what was made of it.
  void CancelOrders(Running* running) {
    for (const Order& order : running->orders) {
      const auto ticket = tickets_.find(order.ticket);
      if (ticket != tickets_.end() && !ticket->second.is_fetch) tickets_.erase(ticket);
      const NodeLink* link = nodes_.Find(order.address);
      if (link != nullptr) {
        link->Send(MessageType::kCancelExport, CancelExport{.ticket = order.ticket});
      }
    }
    running->orders.clear();
  }

  // Unpredictable to whoever does not know the secret, so that nobody pulls what is not theirs.
  Ticket NewTicket() {
    const std::array<uint64_t, 3> text = {ticket_secret_[0], ticket_secret_[1], next_ticket_++};
    const Hash128 hash = HashBytes(std::as_bytes(std::span(text)));
    return {.high = hash.high, .low = hash.low};
  }

  // A node computes its prompts more or less one after the other, by their turns.
  void QueuePrefill(NodeLink* link, const QueuedPrompt& prompt) {
    std::deque<QueuedPrompt>& queue = link->prefills;
    if (queue.empty()) {
      queue.push_back(prompt);
      return conductor_.PrefillStarted(prompt.request, clock_->NowUs());
    }
    const auto turn = [](const QueuedPrompt& queued) {
      return std::tuple(queued.priority, queued.order_us);
    };
    queue.insert(std::ranges::upper_bound(queue.begin() + 1, queue.end(), turn(prompt), {}, turn),
                 prompt);
  }
  void EndPrefill(const std::string& address, RequestId id) {
    NodeLink* link = nodes_.Find(address);
    if (link == nullptr) return;
    const auto it = std::ranges::find(link->prefills, id, &QueuedPrompt::request);
    if (it == link->prefills.end()) return;
    const bool was_first = it == link->prefills.begin();
    link->prefills.erase(it);
    conductor_.PrefillEnded(id, 0.0, clock_->NowUs());
    if (was_first && !link->prefills.empty()) {
      conductor_.PrefillStarted(link->prefills.front().request, clock_->NowUs());
    }
  }

  Status TakeExportEnded(NodeLink* link, const ExportEnded& message) {
    const auto ticket = tickets_.find(message.ticket);
    if (ticket == tickets_.end()) return {};
    if (ticket->second.is_fetch) {
      for (const Tier tier : {Tier::kPages, Tier::kDram, Tier::kSsd}) {
        TierCounts found = message.found;
        counters_.fetched_blocks.Of(tier) += std::clamp<int64_t>(found.Of(tier), 0, INT32_MAX);
      }
    } else {
      EndPrefill(link->address, ticket->second.request);
    }
    tickets_.erase(ticket);
    return {};
  }

  Status TakeEvents(NodeLink* link, Events message) {
    const auto call = calls_.find(message.call);
    if (call == calls_.end()) return {};  // cancelled or moved meanwhile
    const auto it = requests_.find(call->second);
    if (it == requests_.end() || it->second.decode != link->address) return {};
    Running* running = &it->second;
    for (Event& event : message.events) {
      if (!TakeEvent(running, std::move(event))) return {};
    }
    GiveCredit(*running);
    return {};
  }

  // False where the request has ended or moved.
  bool TakeEvent(Running* running, Event event) {
    if (const auto* token = std::get_if<TokenEvent>(&event)) {
      running->generated.push_back(token->id);
    } else if (std::holds_alternative<PromptEvent>(event)) {
      PromptIsThere(running);
      // A request that went on elsewhere has told of its prompt before.
      if (std::exchange(running->prompt_told, true)) {
        running->stream->Skip();
        return true;
      }
    } else if (std::holds_alternative<ProgressEvent>(event)) {
      if (running->prompt_told) {
        running->stream->Skip();
        return true;
      }
    } else {
      const auto& finish = std::get<FinishEvent>(event);
      if (finish.reason == FinishReason::kError && finish.error.has_value() &&
          CanMove(finish.error->code())) {
        HM_LOG_WARN("cluster: {}: {}", running->decode, finish.error->message());
        Move(running);
        return false;
      }
      // Counted before it is told, so that who has seen the end also sees it counted.
      const std::shared_ptr<RemoteStream> stream = running->stream;
      End(running, static_cast<int32_t>(running->generated.size()));
      stream->Push(std::move(event));
      return false;
    }
    running->stream->Push(std::move(event));
    return true;
  }

  // Errors of a node rather than of a request.
  static bool CanMove(ErrorCode code) {
    return code == ErrorCode::kUnavailable || code == ErrorCode::kResourceExhausted ||
           code == ErrorCode::kIo || code == ErrorCode::kDeadlineExceeded;
  }

  void PromptIsThere(Running* running) {
    EndPrefill(running->prefill.empty() ? running->decode : running->prefill, running->id);
    conductor_.DecodeJoined(running->id, clock_->NowUs());
    CancelOrders(running);
  }

  void GiveCredit(const Running& running) {
    const NodeLink* link = nodes_.Find(running.decode);
    if (link == nullptr || running.waits_since_us > 0) return;
    const uint32_t credit = running.stream->TakeCredit(false);
    if (credit > 0)
      link->Send(MessageType::kCredit, Credit{.call = running.call, .events = credit});
  }

  // Takes back what runs for it; the request itself stays.
  void Withdraw(Running* running) {
    NodeLink* decode = nodes_.Find(running->decode);
    if (decode != nullptr && calls_.erase(running->call) > 0) {
      decode->decodes = std::max(0, decode->decodes - 1);
      decode->Send(MessageType::kCancel, Cancel{.call = running->call});
    }
    CancelOrders(running);
    EndPrefill(running->prefill.empty() ? running->decode : running->prefill, running->id);
  }

  void End(Running* running, int32_t output_tokens) {
    Withdraw(running);
    conductor_.RequestEnded(running->id, output_tokens, clock_->NowUs());
    requests_.erase(running->id);
  }

  void FailRequest(Running* running, Error error) {
    const std::shared_ptr<RemoteStream> stream = running->stream;
    ++counters_.failed;
    End(running, 0);
    stream->Push(FinishEvent{.reason = FinishReason::kError, .error = std::move(error)});
  }

  // Goes on elsewhere, from where it was.
  void Move(Running* running) {
    Withdraw(running);
    conductor_.RequestEnded(running->id, 0, clock_->NowUs());
    ++counters_.moved;
    if (running->attempts >= options_.max_attempts) {
      return FailRequest(running, Error(ErrorCode::kUnavailable,
                                        "the request lost its node " +
                                            std::to_string(running->attempts) + " times"));
    }
    running->waits_since_us = clock_->NowUs();
    Retry(running);
  }

  void Retry(Running* running) {
    if (const std::optional<FinishReason> reason = EndOf(*running, model())) {
      const std::shared_ptr<RemoteStream> stream = running->stream;
      End(running, static_cast<int32_t>(running->generated.size()));
      return stream->Push(FinishEvent{.reason = *reason});
    }
    const Status started = Start(running);
    if (started.ok()) return;
    const TimeUs waited_us = clock_->NowUs() - running->waits_since_us;
    const bool hopeless = started.error().code() == ErrorCode::kInvalidArgument;
    if (hopeless || waited_us >= options_.wait_for_nodes_us) FailRequest(running, started.error());
  }

  void MoveRequestsFrom(const std::string& address) {
    std::vector<RequestId> lost;
    for (auto& [id, running] : requests_) {
      if (running.waits_since_us > 0) continue;
      if (running.decode == address) {
        lost.push_back(id);
      } else if (running.prefill == address) {
        // Its decode node notices itself, and computes what has not come.
        CancelOrders(&running);
        running.prefill.clear();
      }
    }
    for (const RequestId id : lost) {
      const auto it = requests_.find(id);
      if (it != requests_.end()) Move(&it->second);
    }
  }

  int RetryWaiting() {
    std::vector<RequestId> waiting;
    for (const auto& [id, running] : requests_) {
      if (running.waits_since_us > 0) waiting.push_back(id);
    }
    for (const RequestId id : waiting) {
      const auto it = requests_.find(id);
      if (it != requests_.end()) Retry(&it->second);
    }
    return static_cast<int>(waiting.size());
  }

  void Tick() {
    const int waiting = RetryWaiting();
    ClusterStatus status = counters_;
    status.requests = static_cast<int>(requests_.size());
    status.waiting = waiting;
    for (const auto& [address, link] : nodes_.links()) {
      NodeStatus& node = status.nodes.emplace_back();
      node.address = address;
      node.connected = link->description.has_value();
      node.error = link->error;
      if (link->description.has_value()) node.description = *link->description;
      node.load = link->load;
      node.prefills = static_cast<int>(link->prefills.size());
      node.decodes = link->decodes;
    }
    std::lock_guard lock(published_.mutex);
    published_.status = std::move(status);
  }

  const FrontDoorOptions options_;
  const Clock* const clock_;
  Conductor conductor_;
  ClusterStatus counters_;  // the counters of it
  NodeTable nodes_;
  std::map<RequestId, Running> requests_;
  std::map<CallId, RequestId> calls_;
  std::map<Ticket, Ordered> tickets_;
  uint64_t next_request_ = 1;
  uint64_t next_call_ = 1;
  uint64_t next_ticket_ = 1;
  std::array<uint64_t, 2> ticket_secret_{};
  mutable Published published_;
  std::unique_ptr<net::ChannelService> channels_;
};

Result<std::unique_ptr<Sequence>> FrontDoorImpl::Submit(GenerateRequest request,
                                                        const ServiceLimits& limits) {
  const auto stream = std::make_shared<RemoteStream>(options_.stream_events);
  const auto decided = std::make_shared<std::promise<Result<RequestId>>>();
  std::future<Result<RequestId>> decision = decided->get_future();
  const bool posted = channels_->timers().Post(
      [this, request = std::move(request), limits, stream, decided]() mutable {
        const RequestId id{next_request_++};
        Running& running = requests_[id];
        running.id = id;
        running.request = std::move(request);
        running.limits = limits;
        running.stream = stream;
        const Status started = Start(&running);
        if (started.ok()) return decided->set_value(id);
        requests_.erase(id);
        ++counters_.rejected;
        decided->set_value(started.error());
      });
  const Error closing(ErrorCode::kUnavailable, "the conductor is shutting down");
  if (!posted) return closing;
  HM_ASSIGN(const RequestId id, decision.get());
  return std::unique_ptr<Sequence>(std::make_unique<RemoteSequence>(
      stream, RemoteSequence::Callbacks{.on_taken = [this, id] { PostCredit(id); },
                                        .on_dropped = [this, id] { PostCancel(id); }}));
}

}  // namespace

Result<std::unique_ptr<FrontDoor>> FrontDoor::Start(FrontDoorOptions options, const Clock* clock) {
  auto door = std::make_unique<FrontDoorImpl>(std::move(options), clock);
  HM_TRY(door->Begin());
  return std::unique_ptr<FrontDoor>(std::move(door));
}

}  // namespace halfmoon::cluster
