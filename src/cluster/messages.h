// SPDX-License-Identifier: Apache-2.0
// What nodes and conductors say to each other over a net::Channel. docs/formats/cluster.md has the
// bytes. Decoders take anything and answer kCorrupt where it is not a message of the type.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cluster/node.h"
#include "kv/block_key.h"

namespace halfmoon::cluster {

/// Version of everything below; ends of different versions refuse each other.
inline constexpr uint32_t kProtocolVersion = 2;

enum class MessageType : uint16_t {
  kHello = 1,     ///< conductor or node > node, first of all
  kDescribe,      ///< node > conductor: what it is, in answer
  kJoin,          ///< node > conductor that it was told of: where it can be reached
  kSubmit,        ///< conductor > node: a request to generate
  kCredit,        ///< conductor > node: so many more events may come
  kCancel,        ///< conductor > node: the request is no longer wanted
  kEvents,        ///< node > conductor: what a request brought
  kExport,        ///< conductor > node: compute a prompt for somebody to pull
  kCancelExport,  ///< conductor > node
  kExportEnded,   ///< node > conductor
  kLoad,          ///< node > conductor, now and then
  kBlocks,        ///< node > conductor: which blocks come and go in one of its tiers
  kPull,          ///< node > node: tell me what becomes of this export
  kKvSegment,     ///< node > node, in answer: how to read its pages
  kKvReady,       ///< node > node: ranges of pages that can be read
  kKvEnd,         ///< node > node: nothing more will be ready
  kPullDone,      ///< node > node: pages may go
};

/// Names one sequence between a conductor and a node. Never used twice on a channel.
enum class CallId : uint64_t {};

/// Names an export among all nodes; unpredictable.
struct Ticket {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const Ticket&) const = default;
};

enum class PeerKind : uint8_t { kConductor, kNode };

struct Hello {
  uint32_t version = kProtocolVersion;
  PeerKind kind = PeerKind::kConductor;
};

/// What a node is. Nodes work together where fingerprint, kv_format_version and block_size agree.
struct NodeDescription {
  std::string name;          ///< unique; a node that comes back under its name is the same
  uint64_t incarnation = 0;  ///< of this process; another one has lost what the one before held
  std::string address;       ///< "host:port" where other nodes reach it
  std::string http_url;      ///< for people and health checks
  std::string version;       ///< of the program
  std::string model;
  std::string fingerprint;
  uint32_t kv_format_version = 0;
  int32_t block_size = 0;
  int32_t max_request_tokens = 0;
  int32_t vocab_size = 0;
  NodeInfo info;
};

struct Join {
  std::string address;  ///< "host:port"; an empty host is where the message comes from
};

/// Where consecutive blocks of a sequence are, or will be.
struct SourceSpec {
  std::string address;  ///< of the node that has the export
  Ticket ticket;
  int32_t first_block = 0;
  int32_t num_blocks = 0;  ///< that it will have
  /// Silence after which they are computed instead.
  TimeUs patience_us = 0;
};

/// As engine::SamplingParams.
struct Sampling {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
};

/// A constraint of the output, which the node compiles. `kind` is text::GrammarKind.
struct GrammarSpec {
  uint8_t kind = 0;
  std::string source;
  std::vector<int32_t> eos_ids;
};

/// Whose turn a sequence is at a node; as engine::Service.
struct Turn {
  int64_t priority = 0;     ///< smaller ones go first
  TimeUs yield_us = 0;      ///< it lets pass what comes up to so much later
  TimeUs max_chunk_us = 0;  ///< of its prompt in a step in which others decode; 0: the node's rule
};

/// One sequence to generate: as engine::Request.
struct GenerateRequest {
  std::vector<int32_t> prompt_ids;
  Sampling sampling;
  int32_t max_tokens = 0;
  std::vector<int32_t> stop_ids;
  int32_t num_logprobs = -1;
  bool prompt_logprobs = false;
  std::string cache_salt;
  int32_t resumed_tokens = 0;
  std::optional<GrammarSpec> grammar;
  Turn turn;
};

struct Submit {
  CallId call{};
  GenerateRequest request;
  std::vector<SourceSpec> sources;  ///< in the order of their blocks
  uint32_t credit = 0;              ///< events that may come
};

struct Credit {
  CallId call{};
  uint32_t events = 0;
};

struct Cancel {
  CallId call{};
};

struct Logprob {
  int32_t id = 0;
  float logprob = 0.0f;
};
struct TokenEvent {
  int32_t id = 0;
  float logprob = 0.0f;
  std::vector<Logprob> top;
};
struct PromptEvent {
  int32_t cached_tokens = 0;
  std::vector<TokenEvent> prompt_logprobs;
};
struct ProgressEvent {
  int32_t computed_tokens = 0;
  int32_t prompt_tokens = 0;
};
/// As engine::FinishReason, in its order.
enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kError };
struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  std::optional<Error> error;
};
/// As engine::Event. A sequence's events end with a FinishEvent.
using Event = std::variant<ProgressEvent, PromptEvent, TokenEvent, FinishEvent>;

struct Events {
  CallId call{};
  std::vector<Event> events;
};

/// Numbers of blocks by the tier that they lie in.
struct TierCounts {
  int64_t pages = 0;
  int64_t dram = 0;
  int64_t ssd = 0;

  int64_t& Of(Tier tier) { return tier == Tier::kPages ? pages : tier == Tier::kDram ? dram : ssd; }
};

/// Consecutive blocks of a prompt, to be computed or only looked up, and kept for a puller.
struct Export {
  Ticket ticket;
  std::vector<int32_t> prompt_ids;
  std::string cache_salt;
  int32_t first_block = 0;  ///< above 0 with cached_only alone
  int32_t num_blocks = 0;
  bool cached_only = false;         ///< in any tier; nothing is computed
  std::vector<SourceSpec> sources;  ///< where it gets blocks from itself
  Turn turn;
};
struct CancelExport {
  Ticket ticket;
};
struct ExportEnded {
  Ticket ticket;
  int32_t num_blocks = 0;      ///< that were there in the end
  int32_t cached_tokens = 0;   ///< of these, tokens that were not computed
  TierCounts found;            ///< cached_only: of these, where they were
  std::optional<Error> error;  ///< none: all there, or all that was cached
};

/// A node's state, several times a second.
struct Load {
  Health health = Health::kServing;
  LoadReport report;
  NodeCosts costs;  ///< as measured so far; zeros: not measured
  int32_t running = 0;
  int32_t queued = 0;
  int64_t pages_total = 0;
  int64_t pages_in_use = 0;
  int64_t pages_cached = 0;
  int64_t sent_bytes = 0;      ///< KV copied from it by peers
  int64_t received_bytes = 0;  ///< KV copied by it
  int32_t exports = 0;         ///< that hold pages now
  TierCounts blocks;           ///< that it has
  TierCounts hits;             ///< since its start: those that were found there and used
};

/// On a new channel a node has none.
struct Blocks {
  Tier tier = Tier::kPages;
  std::vector<kv::BlockKey> added;    ///< some may have been told before
  std::vector<kv::BlockKey> removed;  ///< none of them is in the tier now
};

struct Pull {
  Ticket ticket;
};
struct KvSegment {
  Ticket ticket;
  std::string descriptor;  ///< of transfer::Segment
  uint64_t layer_bytes = 0;
  int32_t num_layers = 0;
};
struct KvReady {
  Ticket ticket;
  int32_t first_block = 0;
  int32_t first_layer = 0;
  int32_t end_layer = 0;
  std::vector<uint64_t> offsets;    ///< of first_layer of each block, in the segment
  std::vector<uint64_t> checksums;  ///< of the layers of each block together
};
struct KvEnd {
  Ticket ticket;
  std::optional<Error> error;  ///< none: everything that was promised has been ready
};
struct PullDone {
  Ticket ticket;
};

/// One overload for each of them.
std::string Encode(const Hello& message);
std::string Encode(const NodeDescription& message);
std::string Encode(const Join& message);
std::string Encode(const Submit& message);
std::string Encode(const Credit& message);
std::string Encode(const Cancel& message);
std::string Encode(const Events& message);
std::string Encode(const Export& message);
std::string Encode(const CancelExport& message);
std::string Encode(const ExportEnded& message);
std::string Encode(const Load& message);
std::string Encode(const Blocks& message);
std::string Encode(const Pull& message);
std::string Encode(const KvSegment& message);
std::string Encode(const KvReady& message);
std::string Encode(const KvEnd& message);
std::string Encode(const PullDone& message);

/// Errors: kCorrupt naming the message.
Status Decode(std::string_view bytes, Hello* message);
Status Decode(std::string_view bytes, NodeDescription* message);
Status Decode(std::string_view bytes, Join* message);
Status Decode(std::string_view bytes, Submit* message);
Status Decode(std::string_view bytes, Credit* message);
Status Decode(std::string_view bytes, Cancel* message);
Status Decode(std::string_view bytes, Events* message);
Status Decode(std::string_view bytes, Export* message);
Status Decode(std::string_view bytes, CancelExport* message);
Status Decode(std::string_view bytes, ExportEnded* message);
Status Decode(std::string_view bytes, Load* message);
Status Decode(std::string_view bytes, Blocks* message);
Status Decode(std::string_view bytes, Pull* message);
Status Decode(std::string_view bytes, KvSegment* message);
Status Decode(std::string_view bytes, KvReady* message);
Status Decode(std::string_view bytes, KvEnd* message);
Status Decode(std::string_view bytes, PullDone* message);

}  // namespace halfmoon::cluster
