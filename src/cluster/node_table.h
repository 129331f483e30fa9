// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: the nodes that a front door knows of, and its channels to them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "cluster/messages.h"
#include "cluster/placement.h"
#include "net/channel.h"

namespace halfmoon::cluster {

/// A prompt in a node's queue, by its turn there.
struct QueuedPrompt {
  RequestId request{};
  int64_t priority = 0;
  TimeUs order_us = 0;
};

/// A node that is, or should be, connected.
struct NodeLink {
  std::string address;
  NodeId id{};  ///< of this connection; another one gets another id
  std::shared_ptr<net::Channel> channel;
  std::optional<NodeDescription> description;  ///< none: not taken in, or gone
  Load load;
  std::string error;                    ///< why it is not there, as far as known
  bool listed = false;                  ///< SetListed named it
  std::set<const net::Channel*> joins;  ///< by which it says that it is there
  std::deque<QueuedPrompt> prefills;    ///< of this front door; the first is being computed
  int decodes = 0;

  bool wanted() const { return listed || !joins.empty(); }

  template <typename Message>
  void Send(MessageType type, const Message& message) const {
    // A channel that is closed says so itself.
    if (channel != nullptr) {
      (void)channel->Send(static_cast<uint16_t>(type), Encode(message));
    }
  }
};

/// Dials every node that a list or the node itself names, again and again, and takes in those that
/// compute the same bits as the first of all. IO thread of the channels only.
class NodeTable {
 public:
  struct Callbacks {
    std::function<void(NodeLink*)> on_joined;
    /// Its description is still there, its channel is not.
    std::function<void(NodeLink*)> on_left;
    /// A message of a node that was taken in. An error ends the connection.
    std::function<Status(NodeLink*, MessageType, const std::string&)> on_message;
  };

  explicit NodeTable(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}

  /// Before anything else; the service outlives it.
  void Begin(net::ChannelService* channels) { channels_ = channels; }
  /// Those named are wanted from now on; others only as long as they say so themselves.
  void SetListed(const std::vector<std::string>& addresses);
  /// Handlers of a channel on which a node says that it joins.
  net::ChannelHandlers Accept(const std::shared_ptr<net::Channel>& channel);

  /// nullptr where there is none.
  NodeLink* Find(const std::string& address);
  NodeLink* Find(NodeId id);
  const std::map<std::string, std::unique_ptr<NodeLink>>& links() const { return links_; }

 private:
  NodeLink* LinkTo(const std::string& address);
  void Dial(NodeLink* link);
  void OnLost(const std::string& address, const Error& error);
  void OnMessage(const std::string& address, uint16_t type, const std::string& payload);
  Status TakeDescription(NodeLink* link, const std::string& payload);
  Status CheckFits(const NodeDescription& description) const;
  Status TakeJoin(net::Channel* channel, MessageType type, const std::string& payload,
                  std::string* joined);

  const Callbacks callbacks_;
  net::ChannelService* channels_ = nullptr;
  std::map<std::string, std::unique_ptr<NodeLink>> links_;
  /// The first that was taken in: requests go on with its bits, also after it has left.
  std::optional<NodeDescription> first_;
  uint32_t next_node_ = 1;
};

}  // namespace halfmoon::cluster
