// SPDX-License-Identifier: Apache-2.0
#include "cluster/node_table.h"

#include <chrono>
#include <utility>

#include "base/log.h"

namespace halfmoon::cluster {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kDialAgain{500};
// A node that cannot work with the others is looked at again from time to time: it may have been
// restarted.
constexpr milliseconds kMisfitAgain{5'000};

Error NotDue(MessageType type) {
  return Error(ErrorCode::kCorrupt,
               "a message of type " + std::to_string(static_cast<int>(type)) + " is not due here");
}

}  // namespace

void NodeTable::SetListed(const std::vector<std::string>& addresses) {
  for (auto& [address, link] : links_) link->listed = false;
  for (const std::string& address : addresses) LinkTo(address)->listed = true;
  for (auto& [address, link] : links_) {
    if (!link->wanted() && link->channel != nullptr) link->channel->Close();
  }
}

NodeLink* NodeTable::LinkTo(const std::string& address) {
  std::unique_ptr<NodeLink>& link = links_[address];
  if (link == nullptr) {
    link = std::make_unique<NodeLink>();
    link->address = address;
    Dial(link.get());
  }
  return link.get();
}

NodeLink* NodeTable::Find(const std::string& address) {
  const auto it = links_.find(address);
  return it == links_.end() ? nullptr : it->second.get();
}

NodeLink* NodeTable::Find(NodeId id) {
  for (auto& [address, link] : links_) {
    if (link->description.has_value() && link->id == id) return link.get();
  }
  return nullptr;
}

void NodeTable::Dial(NodeLink* link) {
  const Result<net::HostPort> where = net::ParseHostPort(link->address);
  if (!where.ok()) {
    link->error = where.error().message();
    return;
  }
  const std::string address = link->address;
  link->channel = channels_->Dial(
      where->host, where->port,
      {.on_message = [this, address](
                         uint16_t type,
                         const std::string& payload) { OnMessage(address, type, payload); },
       .on_closed = [this, address](const Error& error) { OnLost(address, error); }});
  link->Send(MessageType::kHello, Hello{.kind = PeerKind::kConductor});
}

void NodeTable::OnLost(const std::string& address, const Error& error) {
  NodeLink* link = Find(address);
  if (link == nullptr) return;
  // What was wrong with it says more than that the channel was closed because of it.
  const bool misfit = !link->error.empty() && !link->description.has_value();
  if (!misfit) link->error = error.message();
  link->channel.reset();
  if (link->description.has_value()) {
    HM_LOG_WARN("cluster: node {} at {} is gone: {}", link->description->name, address,
                link->error);
    callbacks_.on_left(link);
    link->description.reset();
    link->load = {};
    link->prefills.clear();
    link->decodes = 0;
  }
  if (!link->wanted()) {
    links_.erase(address);
    return;
  }
  channels_->timers().After(misfit ? kMisfitAgain : kDialAgain, [this, address] {
    NodeLink* again = Find(address);
    if (again == nullptr || again->channel != nullptr) return;
    again->error.clear();
    Dial(again);
  });
}

void NodeTable::OnMessage(const std::string& address, uint16_t type, const std::string& payload) {
  NodeLink* link = Find(address);
  if (link == nullptr) return;
  const auto message = static_cast<MessageType>(type);
  Status status;
  if (message == MessageType::kDescribe) {
    status = TakeDescription(link, payload);
  } else if (link->description.has_value()) {
    status = callbacks_.on_message(link, message, payload);
  } else {
    status = NotDue(message);
  }
  if (status.ok()) return;
  HM_LOG_WARN("cluster: {}: {}", address, status.error().message());
  link->error = status.error().message();
  link->channel->Close();
}

Status NodeTable::TakeDescription(NodeLink* link, const std::string& payload) {
  NodeDescription description;
  HM_TRY(Decode(payload, &description));
  if (link->description.has_value()) return NotDue(MessageType::kDescribe);
  HM_TRY(CheckFits(description));
  if (!first_.has_value()) first_ = description;
  link->description = std::move(description);
  link->error.clear();
  link->id = NodeId{next_node_++};
  HM_LOG_INFO("cluster: node {} at {} joined", link->description->name, link->address);
  callbacks_.on_joined(link);
  return {};
}

Status NodeTable::CheckFits(const NodeDescription& description) const {
  if (description.block_size < 1 || description.vocab_size < 1 ||
      description.max_request_tokens < 1) {
    return Error(ErrorCode::kCorrupt, "it describes a model without tokens");
  }
  for (const auto& [address, other] : links_) {
    if (!other->description.has_value() || other->description->name != description.name) continue;
    return Error(ErrorCode::kInvalidArgument,
                 "the node at " + address + " has the name " + description.name + " already");
  }
  if (!first_.has_value()) return {};
  const NodeDescription& known = *first_;
  if (known.fingerprint == description.fingerprint &&
      known.kv_format_version == description.kv_format_version &&
      known.block_size == description.block_size && known.vocab_size == description.vocab_size) {
    return {};
  }
  return Error(ErrorCode::kInvalidArgument,
               "node " + description.name + " computes other bits (model " + description.model +
                   ", fingerprint " + description.fingerprint + ") than node " + known.name +
                   " (model " + known.model + ", fingerprint " + known.fingerprint +
                   "), with which this conductor began: model file, -ctk, -ctv, --isa and "
                   "--activation have to agree");
}

net::ChannelHandlers NodeTable::Accept(const std::shared_ptr<net::Channel>& channel) {
  net::Channel* const key = channel.get();
  const auto joined = std::make_shared<std::string>();
  return {.on_message =
              [this, key, joined](uint16_t type, const std::string& payload) {
                const Status status =
                    TakeJoin(key, static_cast<MessageType>(type), payload, joined.get());
                if (status.ok()) return;
                HM_LOG_WARN("cluster: {}: {}", key->peer(), status.error().message());
                key->Close();
              },
          .on_closed =
              [this, key, joined](const Error&) {
                NodeLink* link = Find(*joined);
                if (link == nullptr) return;
                link->joins.erase(key);
                if (link->wanted()) return;
                if (link->channel != nullptr) {
                  link->channel->Close();
                } else {
                  links_.erase(*joined);
                }
              }};
}

Status NodeTable::TakeJoin(net::Channel* channel, MessageType type, const std::string& payload,
                           std::string* joined) {
  if (type == MessageType::kHello) {
    Hello hello;
    HM_TRY(Decode(payload, &hello));
    if (hello.version == kProtocolVersion) return {};
    return Error(ErrorCode::kUnsupported, "it speaks version " + std::to_string(hello.version) +
                                              " of the cluster protocol, this conductor " +
                                              std::to_string(kProtocolVersion));
  }
  if (type != MessageType::kJoin || !joined->empty()) return NotDue(type);
  Join join;
  HM_TRY(Decode(payload, &join));
  HM_TRY(net::ParseHostPort(join.address));
  *joined = join.address;
  LinkTo(join.address)->joins.insert(channel);
  return {};
}

}  // namespace halfmoon::cluster
