// SPDX-License-Identifier: Apache-2.0
#include "cluster/node_server.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "cluster/block_report.h"
#include "cluster/kv_puller.h"
#include "cluster/submit_queue.h"

namespace halfmoon::cluster {
namespace {

constexpr std::chrono::milliseconds kLoadEvery{200};
constexpr std::chrono::milliseconds kJoinAgain{1'000};
// Between two pieces of what conductors are told of blocks: 10 MB/s while there is much to tell.
constexpr std::chrono::milliseconds kBlocksEvery{50};
// Pieces that a prefix comes in.
constexpr size_t kMaxSources = 64;
// So that one slow grammar does not hold up all others.
constexpr int kSubmitThreads = 2;
constexpr size_t kMaxQueuedSubmits = 256;

/// A request of a conductor.
struct Call {
  std::unique_ptr<Sequence> sequence;  // null until the engine has it
  uint32_t credit = 0;
  uint64_t serial = 0;  // of this node
};

/// Names a call, also when it and its channel are there no more.
struct CallRef {
  net::Channel* peer = nullptr;
  CallId id{};
  uint64_t serial = 0;
};

/// A conductor, or another node. IO thread only.
struct Peer {
  std::shared_ptr<net::Channel> channel;
  std::optional<PeerKind> kind;  // none before its hello
  std::map<CallId, Call> calls;
};

template <typename Message>
void Send(const std::shared_ptr<net::Channel>& to, MessageType type, const Message& message) {
  // A channel that is closed says so itself.
  (void)to->Send(static_cast<uint16_t>(type), Encode(message));
}

class NodeServerImpl final : public NodeServer {
 public:
  NodeServerImpl(NodeServerOptions options, EngineHandle* engine,
                 transfer::TransferEngine* transfers, const Clock* clock)
      : options_(std::move(options)),
        engine_(engine),
        transfers_(transfers),
        clock_(clock),
        report_(engine) {}
  NodeServerImpl(const NodeServerImpl&) = delete;
  NodeServerImpl& operator=(const NodeServerImpl&) = delete;
  ~NodeServerImpl() override {
    // The engine's sequences end on the thread that owns them; then nobody is sent from its pages.
    if (channels_ != nullptr) channels_->Shutdown();
    submits_.reset();
    peers_.clear();
    puller_.reset();
    exporter_.reset();
  }

  Status Begin() {
    const PageMemory pages = engine_->pages();
    HM_ASSIGN(segment_, transfers_->Register(pages.bytes, {.memory_file = pages.file}));
    HM_ASSIGN(channels_,
              net::ChannelService::Create(options_.channel,
                                          [this](const std::shared_ptr<net::Channel>& channel) {
                                            return Accept(channel);
                                          }));
    submits_ = std::make_unique<SubmitQueue>(kSubmitThreads, kMaxQueuedSubmits);
    puller_ = std::make_unique<KvPuller>(
        channels_.get(), transfers_, clock_,
        PageShape{.layer_bytes = pages.layer_bytes, .num_layers = pages.num_layers});
    exporter_ = std::make_unique<KvExporter>(engine_, segment_.get(), &channels_->timers(), clock_,
                                             options_.exports);
    HM_ASSIGN(const uint16_t port, channels_->Bind());
    address_ = options_.advertise;
    if (address_.empty()) {
      const std::string& host = options_.channel.host;
      address_ = (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
                 std::to_string(port);
    }
    options_.description.address = address_;
    for (const std::string& conductor : options_.join) {
      HM_ASSIGN(const net::HostPort where, net::ParseHostPort(conductor));
      channels_->timers().Post([this, where] { TellConductor(where); });
    }
    channels_->timers().Every(kLoadEvery, [this] { Tick(); });
    channels_->Listen();
    return {};
  }

  const std::string& address() const override { return address_; }
  void BeginDrain() override { draining_.store(true); }
  int num_active() const override { return num_active_.load(); }

 private:
  // Everything from here on: IO thread.

  net::ChannelHandlers Accept(const std::shared_ptr<net::Channel>& channel) {
    net::Channel* const key = channel.get();
    peers_[key].channel = channel;
    return {
        .on_message = [this, key](uint16_t type,
                                  const std::string& payload) { OnMessage(key, type, payload); },
        .on_closed =
            [this, key](const Error& error) {
              HM_LOG_DEBUG("cluster: {}: {}", key->peer(), error.message());
              if (exporter_ != nullptr) exporter_->OnClosed(key);
              report_.Remove(key);
              num_active_.fetch_sub(static_cast<int>(peers_[key].calls.size()));
              peers_.erase(key);
            }};
  }

  void OnMessage(net::Channel* key, uint16_t type, const std::string& payload) {
    const auto peer = peers_.find(key);
    if (peer == peers_.end()) return;
    const Status status = Take(&peer->second, static_cast<MessageType>(type), payload);
    if (status.ok()) return;
    HM_LOG_WARN("cluster: {}: {}", key->peer(), status.error().message());
    key->Close();
  }

  Status Take(Peer* peer, MessageType type, const std::string& payload) {
    if (!peer->kind.has_value()) return TakeHello(peer, type, payload);
    const bool conductor = peer->kind == PeerKind::kConductor;
    switch (type) {
      case MessageType::kSubmit:
        if (conductor) return TakeSubmit(peer, payload);
        break;
      case MessageType::kCredit:
        if (conductor) return TakeCredit(peer, payload);
        break;
      case MessageType::kCancel:
        if (conductor) return TakeCancel(peer, payload);
        break;
      case MessageType::kExport:
        if (conductor) return TakeExport(peer, payload);
        break;
      case MessageType::kCancelExport: {
        if (!conductor) break;
        CancelExport message;
        HM_TRY(Decode(payload, &message));
        exporter_->Cancel(message.ticket);
        return {};
      }
      case MessageType::kPull: {
        Pull message;
        HM_TRY(Decode(payload, &message));
        exporter_->OnPull(message.ticket, peer->channel);
        return {};
      }
      case MessageType::kPullDone: {
        PullDone message;
        HM_TRY(Decode(payload, &message));
        exporter_->OnPullDone(message.ticket);
        return {};
      }
      default:
        break;
    }
    return Error(
        ErrorCode::kCorrupt,
        "a message of type " + std::to_string(static_cast<int>(type)) + " is not due here");
  }

  Status TakeHello(Peer* peer, MessageType type, const std::string& payload) {
    if (type != MessageType::kHello) return Error(ErrorCode::kCorrupt, "no hello came first");
    Hello hello;
    HM_TRY(Decode(payload, &hello));
    if (hello.version != kProtocolVersion) {
      return Error(ErrorCode::kUnsupported, "it speaks version " + std::to_string(hello.version) +
                                                " of the cluster protocol, this node " +
                                                std::to_string(kProtocolVersion));
    }
    peer->kind = hello.kind;
    if (hello.kind != PeerKind::kConductor) return {};
    NodeDescription description = options_.description;
    description.info.health = draining_ ? Health::kDraining : Health::kServing;
    Send(peer->channel, MessageType::kDescribe, description);
    Send(peer->channel, MessageType::kLoad, DescribeLoad());
    report_.Add(peer->channel);
    TellBlocks();
    return {};
  }

  // Null where there is nothing to get.
  Result<std::shared_ptr<store::BlockSource>> SourceOf(std::span<const SourceSpec> specs,
                                                       std::span<const int32_t> ids,
                                                       const std::string& salt) {
    const auto block = static_cast<size_t>(options_.description.block_size);
    const size_t most = ids.size() / block;
    size_t count = 0;
    if (specs.size() > kMaxSources) {
      return Error(ErrorCode::kCorrupt, "a prefix in " + std::to_string(specs.size()) + " pieces");
    }
    for (const SourceSpec& spec : specs) {
      if (spec.first_block < 0 || spec.num_blocks < 0) {
        return Error(ErrorCode::kCorrupt, "a piece of " + std::to_string(spec.num_blocks) +
                                              " blocks from " + std::to_string(spec.first_block) +
                                              " on");
      }
      count = std::max(
          count, static_cast<size_t>(spec.first_block) + static_cast<size_t>(spec.num_blocks));
    }
    count = std::min(count, most);
    std::vector<kv::BlockKey> keys;
    kv::BlockKey previous = engine_->SeedKey(salt);
    for (size_t i = 0; i < count; ++i) {
      previous = kv::NextKey(previous, ids.subspan(i * block, block));
      keys.push_back(previous);
    }
    return puller_->Pull(specs, keys);
  }

  Status TakeSubmit(Peer* peer, const std::string& payload) {
    Submit message;
    HM_TRY(Decode(payload, &message));
    if (peer->calls.contains(message.call)) {
      return Error(ErrorCode::kCorrupt, "the same call twice");
    }
    const GenerateRequest& request = message.request;
    HM_ASSIGN(std::shared_ptr<store::BlockSource> source,
              SourceOf(message.sources, request.prompt_ids, request.cache_salt));
    Call& call = peer->calls[message.call];
    call.credit = message.credit;
    call.serial = next_serial_++;
    num_active_.fetch_add(1);
    const CallRef ref = {.peer = peer->channel.get(), .id = message.call, .serial = call.serial};
    if (!request.grammar.has_value()) {
      Submitted(ref, engine_->Submit(std::move(message.request), std::move(source)));
      return {};
    }
    // It is compiled first, which may take seconds. std::function wants what it holds to be copied.
    auto work = std::make_shared<GenerateRequest>(std::move(message.request));
    const bool queued = submits_->TryPush([this, ref, work, source = std::move(source)] {
      auto made = std::make_shared<Result<std::unique_ptr<Sequence>>>(
          engine_->Submit(std::move(*work), source));
      channels_->timers().Post([this, ref, made] { Submitted(ref, std::move(*made)); });
    });
    if (!queued) {
      Submitted(ref, Error(ErrorCode::kResourceExhausted,
                           "more than " + std::to_string(kMaxQueuedSubmits) +
                               " requests with a grammar wait to be compiled"));
    }
    return {};
  }

  /// The engine has taken the call's request, or has not. One that has ended meanwhile is dropped.
  void Submitted(const CallRef& ref, Result<std::unique_ptr<Sequence>> sequence) {
    const auto peer = peers_.find(ref.peer);
    if (peer == peers_.end()) return;
    const auto it = peer->second.calls.find(ref.id);
    if (it == peer->second.calls.end() || it->second.serial != ref.serial) return;
    if (!sequence.ok()) {
      SendFailure(peer->second.channel, ref.id, sequence.error());
      return EndCall(&peer->second, ref.id);
    }
    it->second.sequence = std::move(*sequence);
    it->second.sequence->SetNotify([this, key = ref.peer, id = ref.id] {
      channels_->timers().Post([this, key, id] {
        const auto found = peers_.find(key);
        if (found != peers_.end()) SendEvents(&found->second, id);
      });
    });
  }

  Status TakeCredit(Peer* peer, const std::string& payload) {
    Credit message;
    HM_TRY(Decode(payload, &message));
    const auto it = peer->calls.find(message.call);
    if (it == peer->calls.end()) return {};  // has ended meanwhile
    it->second.credit += std::min(message.events, UINT32_MAX - it->second.credit);
    SendEvents(peer, message.call);
    return {};
  }

  Status TakeCancel(Peer* peer, const std::string& payload) {
    Cancel message;
    HM_TRY(Decode(payload, &message));
    EndCall(peer, message.call);
    return {};
  }

  void EndCall(Peer* peer, CallId id) {
    if (peer->calls.erase(id) > 0) num_active_.fetch_sub(1);
  }

  // As many as the other end has room for; the engine's bounded stream holds the rest back.
  void SendEvents(Peer* peer, CallId id) {
    const auto it = peer->calls.find(id);
    if (it == peer->calls.end() || it->second.sequence == nullptr) return;
    Events batch{.call = id};
    bool finished = false;
    while (it->second.credit > 0 && !finished) {
      std::optional<Event> event = it->second.sequence->TryNext();
      if (!event.has_value()) break;
      --it->second.credit;
      finished = std::holds_alternative<FinishEvent>(*event);
      batch.events.push_back(std::move(*event));
    }
    if (!batch.events.empty() && !SendBatch(peer->channel, batch)) finished = true;
    if (finished) EndCall(peer, id);
  }

  // In as many messages as their size asks for. False where one event alone is too long for any:
  // then the request has failed.
  bool SendBatch(const std::shared_ptr<net::Channel>& to, const Events& batch) {
    const size_t limit = options_.channel.max_message_bytes;
    std::string payload = Encode(batch);
    if (payload.size() <= limit) {
      (void)to->Send(static_cast<uint16_t>(MessageType::kEvents), std::move(payload));
      return true;
    }
    for (const Event& event : batch.events) {
      payload = Encode(Events{.call = batch.call, .events = {event}});
      if (payload.size() > limit) {
        SendFailure(to, batch.call,
                    Error(ErrorCode::kInvalidArgument,
                          "the logprobs of the prompt take " + std::to_string(payload.size()) +
                              " bytes, and " + std::to_string(limit) +
                              " go from a node to the conductor: ask for fewer, or for a shorter "
                              "prompt"));
        return false;
      }
      (void)to->Send(static_cast<uint16_t>(MessageType::kEvents), std::move(payload));
    }
    return true;
  }

  static void SendFailure(const std::shared_ptr<net::Channel>& to, CallId call,
                          const Error& error) {
    Send(to, MessageType::kEvents,
         Events{.call = call,
                .events = {FinishEvent{.reason = FinishReason::kError, .error = error}}});
  }

  Status TakeExport(Peer* peer, const std::string& payload) {
    Export message;
    HM_TRY(Decode(payload, &message));
    const auto block = static_cast<size_t>(options_.description.block_size);
    const size_t most = message.prompt_ids.size() / block;
    if (message.num_blocks < 1 || message.first_block < 0 ||
        (message.first_block > 0 && !message.cached_only) ||
        static_cast<size_t>(message.first_block) + static_cast<size_t>(message.num_blocks) > most) {
      return Error(ErrorCode::kCorrupt, "an export of " + std::to_string(message.num_blocks) +
                                            " blocks from " + std::to_string(message.first_block) +
                                            " on of " + std::to_string(message.prompt_ids.size()) +
                                            " tokens");
    }
    HM_ASSIGN(std::shared_ptr<store::BlockSource> source,
              SourceOf(message.sources, message.prompt_ids, message.cache_salt));
    exporter_->Start(message, std::move(source), peer->channel);
    return {};
  }

  Load DescribeLoad() {
    Load load = engine_->MeasureLoad();
    load.health = draining_ ? Health::kDraining : Health::kServing;
    for (const transfer::TransferStats::Path& path : transfers_->Stats().paths) {
      load.sent_bytes += static_cast<int64_t>(path.sent_bytes);
      load.received_bytes += static_cast<int64_t>(path.received_bytes);
    }
    load.exports = exporter_->num_exports();
    load.blocks.pages = static_cast<int64_t>(report_.num_in_pages());
    load.costs.network_bytes_per_s = puller_->bytes_per_s();
    return load;
  }

  void TellBlocks() {
    if (telling_) return;
    telling_ = report_.Tell();
    if (!telling_) return;
    channels_->timers().After(kBlocksEvery, [this] {
      telling_ = false;
      TellBlocks();
    });
  }

  void Tick() {
    if (exporter_ == nullptr) return;
    exporter_->Tick();
    TellBlocks();
    const Load load = DescribeLoad();
    for (const auto& [key, peer] : peers_) {
      if (peer.kind != PeerKind::kConductor) continue;
      Send(peer.channel, MessageType::kLoad, load);
    }
  }

  // Says where this node is, and keeps the channel: when it ends, the conductor may have restarted.
  void TellConductor(const net::HostPort& where) {
    const auto channel = channels_->Dial(
        where.host, where.port, {.on_closed = [this, where](const Error& error) {
          HM_LOG_DEBUG("cluster: conductor {}: {}", where.host, error.message());
          channels_->timers().After(kJoinAgain, [this, where] { TellConductor(where); });
        }});
    Send(channel, MessageType::kHello, Hello{.kind = PeerKind::kNode});
    Send(channel, MessageType::kJoin, Join{.address = address_});
  }

  NodeServerOptions options_;
  EngineHandle* const engine_;
  transfer::TransferEngine* const transfers_;
  const Clock* const clock_;
  std::atomic<bool> draining_{false};
  std::atomic<int> num_active_{0};
  std::string address_;
  std::unique_ptr<transfer::Segment> segment_;  // after what is sent from it
  std::map<net::Channel*, Peer> peers_;
  BlockReport report_;
  bool telling_ = false;  // the next piece is due soon
  uint64_t next_serial_ = 1;
  std::unique_ptr<net::ChannelService> channels_;
  std::unique_ptr<SubmitQueue> submits_;  // posts to the above
  std::unique_ptr<KvPuller> puller_;
  std::unique_ptr<KvExporter> exporter_;
};

}  // namespace

Result<std::unique_ptr<NodeServer>> NodeServer::Start(NodeServerOptions options,
                                                      EngineHandle* engine,
                                                      transfer::TransferEngine* transfers,
                                                      const Clock* clock) {
  auto server = std::make_unique<NodeServerImpl>(std::move(options), engine, transfers, clock);
  HM_TRY(server->Begin());
  return std::unique_ptr<NodeServer>(std::move(server));
}

}  // namespace halfmoon::cluster
