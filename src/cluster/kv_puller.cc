// SPDX-License-Identifier: Apache-2.0
#include "cluster/kv_puller.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "cluster/pull_state.h"

namespace halfmoon::cluster {
namespace {

constexpr std::chrono::milliseconds kStallCheck{100};

// What the engine holds; when it lets go, the other nodes' pages may go too. The pulls have
// different blocks.
class PulledBlocks final : public store::BlockSource {
 public:
  using OnGone = std::function<void(const std::shared_ptr<PullState>&)>;

  PulledBlocks(std::vector<std::shared_ptr<PullState>> pulls, OnGone on_gone)
      : pulls_(std::move(pulls)), on_gone_(std::move(on_gone)) {}
  PulledBlocks(const PulledBlocks&) = delete;
  PulledBlocks& operator=(const PulledBlocks&) = delete;
  ~PulledBlocks() override {
    for (const auto& pull : pulls_) {
      pull->SetWake(nullptr);
      pull->Fail(Error(ErrorCode::kCancelled, "no longer wanted"));
      on_gone_(pull);
    }
  }

  int32_t Probe(std::span<const kv::BlockKey> keys) override {
    size_t found = 0;
    for (bool more = true; more && found < keys.size();) {
      more = false;
      for (const auto& pull : pulls_) {
        const auto blocks = static_cast<size_t>(pull->Probe(keys.subspan(found)));
        found += blocks;
        more = more || blocks > 0;
      }
    }
    return static_cast<int32_t>(found);
  }
  void Fetch(std::span<const store::BlockFetch> blocks) override {
    std::vector<store::BlockFetch> some;
    for (size_t begin = 0; begin < blocks.size();) {
      const size_t pull = PullOf(blocks[begin].key);
      some.clear();
      size_t end = begin;
      for (; end < blocks.size() && PullOf(blocks[end].key) == pull; ++end) {
        some.push_back(blocks[end]);
        pull_of_tag_[static_cast<uint64_t>(blocks[end].tag)] = pull;
      }
      // One whose block is not its own says so.
      pulls_[pull]->Fetch(some);
      begin = end;
    }
  }
  void Cancel(std::span<const store::BlockTag> tags) override {
    std::map<size_t, std::vector<store::BlockTag>> by_pull;
    for (const store::BlockTag tag : tags) {
      const auto it = pull_of_tag_.find(static_cast<uint64_t>(tag));
      if (it != pull_of_tag_.end()) by_pull[it->second].push_back(tag);
    }
    for (const auto& [pull, of_pull] : by_pull) pulls_[pull]->Cancel(of_pull);
  }
  void Poll(std::vector<store::BlockEvent>* events) override {
    for (const auto& pull : pulls_) pull->Poll(events);
  }
  void SetWake(std::function<void()> wake) override {
    for (const auto& pull : pulls_) pull->SetWake(wake);
  }

 private:
  size_t PullOf(const kv::BlockKey& key) const {
    for (size_t i = 0; i < pulls_.size(); ++i) {
      if (pulls_[i]->Has(key)) return i;
    }
    return 0;
  }

  const std::vector<std::shared_ptr<PullState>> pulls_;  // at least one
  const OnGone on_gone_;
  std::unordered_map<uint64_t, size_t> pull_of_tag_;  // engine thread
};

}  // namespace

// Links to other nodes and the pulls that use them. IO thread only, but for `closed`.
struct KvPuller::Shared : std::enable_shared_from_this<Shared> {
  struct Link {
    std::shared_ptr<net::Channel> channel;
    std::map<Ticket, std::shared_ptr<PullState>> pulls;
  };

  Shared(net::ChannelService* channel_service, transfer::TransferEngine* transfer_engine,
         const Clock* the_clock, const PageShape& page_shape)
      : channels(channel_service),
        transfers(transfer_engine),
        clock(the_clock),
        shape(page_shape) {}

  void Begin(const std::shared_ptr<PullState>& pull) {
    const SourceSpec& spec = pull->spec();
    const Result<net::HostPort> where = net::ParseHostPort(spec.address);
    if (!where.ok()) {
      pull->Fail(where.error());
      return Report(*pull);
    }
    Link& link = links[spec.address];
    link.pulls[spec.ticket] = pull;
    if (link.channel == nullptr) Dial(spec.address, *where, &link);
    Send(link, MessageType::kPull, Encode(cluster::Pull{.ticket = spec.ticket}));
  }

  void Dial(const std::string& address, const net::HostPort& where, Link* link) {
    const std::weak_ptr<Shared> weak = weak_from_this();
    link->channel = channels->Dial(where.host, where.port,
                                   {.on_message =
                                        [weak, address](uint16_t type, const std::string& payload) {
                                          if (const auto self = weak.lock())
                                            self->OnMessage(address, type, payload);
                                        },
                                    .on_closed =
                                        [weak, address](const Error& error) {
                                          if (const auto self = weak.lock())
                                            self->FailAll(address, error);
                                        }});
    Send(*link, MessageType::kHello, Encode(Hello{.kind = PeerKind::kNode}));
  }

  static void Send(const Link& link, MessageType type, std::string payload) {
    // A channel that is closed says so itself.
    (void)link.channel->Send(static_cast<uint16_t>(type), std::move(payload));
  }

  void FailAll(const std::string& address, const Error& error) {
    const auto it = links.find(address);
    if (it == links.end()) return;
    const Link link = std::move(it->second);
    links.erase(it);
    for (const auto& [ticket, pull] : link.pulls) {
      pull->Fail(Error(ErrorCode::kUnavailable, error.message()));
      Report(*pull);
    }
  }

  static void Report(PullState& pull) {
    const std::optional<Error> error = pull.error();
    if (!error.has_value() || error->code() == ErrorCode::kCancelled) return;
    HM_LOG_WARN("cluster: KV of {} did not come and is computed here: {}", pull.spec().address,
                error->message());
  }

  template <typename Message, typename Take>
  void Dispatch(const std::string& address, const std::string& payload, const Take& take) {
    const auto link = links.find(address);
    if (link == links.end()) return;
    Message message;
    if (const Status status = Decode(payload, &message); !status.ok()) {
      HM_LOG_WARN("cluster: {}: {}", address, status.error().message());
      return link->second.channel->Close();
    }
    const auto pull = link->second.pulls.find(message.ticket);
    if (pull == link->second.pulls.end()) return;  // given up meanwhile
    const std::shared_ptr<PullState> state = pull->second;
    take(state.get(), message);
    EndIfDone(address, state);
  }

  void OnMessage(const std::string& address, uint16_t type, const std::string& payload) {
    switch (static_cast<MessageType>(type)) {
      case MessageType::kKvSegment:
        return Dispatch<KvSegment>(address, payload, [](auto* p, auto& m) { p->OnSegment(m); });
      case MessageType::kKvReady:
        return Dispatch<KvReady>(address, payload, [](auto* p, auto& m) { p->OnReady(m); });
      case MessageType::kKvEnd:
        return Dispatch<KvEnd>(address, payload, [](auto* p, auto& m) { p->OnEnd(m); });
      default:
        HM_LOG_WARN("cluster: {} sent a message of type {} where none is due", address, type);
        if (const auto link = links.find(address); link != links.end())
          link->second.channel->Close();
    }
  }

  // Lets the other node's pages go as soon as they are not needed.
  void EndIfDone(const std::string& address, const std::shared_ptr<PullState>& pull) {
    if (!pull->done()) return;
    const auto link = links.find(address);
    if (link == links.end() || link->second.pulls.erase(pull->spec().ticket) == 0) return;
    Report(*pull);
    Send(link->second, MessageType::kPullDone, Encode(PullDone{.ticket = pull->spec().ticket}));
  }

  void CheckAll() {
    const TimeUs now_us = clock->NowUs();
    std::vector<std::pair<std::string, std::shared_ptr<PullState>>> all;
    for (const auto& [address, link] : links) {
      for (const auto& [ticket, pull] : link.pulls) all.emplace_back(address, pull);
    }
    for (const auto& [address, pull] : all) {
      pull->FailIfStalled(now_us);
      EndIfDone(address, pull);
    }
  }

  net::ChannelService* const channels;
  transfer::TransferEngine* const transfers;
  const Clock* const clock;
  const PageShape shape;
  // Of a read alone: small ones are mostly waiting and say nothing of the path.
  void Measure(size_t bytes, TimeUs us) {
    constexpr size_t kLeastBytes = 256 << 10;
    constexpr double kNewest = 0.2;
    if (bytes < kLeastBytes) return;
    const double now = static_cast<double>(bytes) * 1e6 / static_cast<double>(us);
    const double before = rate.load();
    rate.store(before == 0.0 ? now : before + kNewest * (now - before));
  }

  net::TimerId timer = net::TimerId::kNone;
  std::atomic<double> rate{0.0};  // bytes per second
  std::map<std::string, Link> links;
};

KvPuller::KvPuller(net::ChannelService* channels, transfer::TransferEngine* transfers,
                   const Clock* clock, const PageShape& shape)
    : shared_(std::make_shared<Shared>(channels, transfers, clock, shape)) {
  shared_->timer = channels->timers().Every(kStallCheck, [weak = std::weak_ptr(shared_)] {
    if (const auto shared = weak.lock()) shared->CheckAll();
  });
}

KvPuller::~KvPuller() {
  shared_->channels->timers().Cancel(shared_->timer);
  shared_->channels->timers().Post([shared = shared_] {
    while (!shared->links.empty()) {
      const auto [address, link] = *shared->links.begin();
      if (link.channel != nullptr) link.channel->Close();
      shared->FailAll(address, Error(ErrorCode::kUnavailable, "this node is shutting down"));
    }
  });
}

double KvPuller::bytes_per_s() const { return shared_->rate.load(); }

std::shared_ptr<store::BlockSource> KvPuller::Pull(std::span<const SourceSpec> specs,
                                                   std::span<const kv::BlockKey> keys) {
  const std::weak_ptr<Shared> weak = shared_;
  std::vector<std::shared_ptr<PullState>> pulls;
  for (const SourceSpec& spec : specs) {
    const auto first = std::min(static_cast<size_t>(std::max(0, spec.first_block)), keys.size());
    pulls.push_back(std::make_shared<PullState>(spec, keys.subspan(first), shared_->shape,
                                                shared_->transfers, shared_->clock,
                                                [weak](size_t bytes, TimeUs us) {
                                                  if (const auto shared = weak.lock())
                                                    shared->Measure(bytes, us);
                                                }));
    const bool posted = shared_->channels->timers().Post(
        [shared = shared_, pull = pulls.back()] { shared->Begin(pull); });
    if (!posted) pulls.back()->Fail(Error(ErrorCode::kUnavailable, "this node is shutting down"));
  }
  if (pulls.empty()) return nullptr;
  return std::make_shared<PulledBlocks>(
      std::move(pulls), [weak](const std::shared_ptr<PullState>& pull) {
        const auto shared = weak.lock();
        if (shared == nullptr) return;
        shared->channels->timers().Post(
            [shared, pull] { shared->EndIfDone(pull->spec().address, pull); });
      });
}

}  // namespace halfmoon::cluster
