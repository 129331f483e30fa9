// SPDX-License-Identifier: Apache-2.0
// A cluster in numbers, driven by the conductor that the server runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <queue>
#include <vector>

#include "cluster/conductor.h"
#include "sim/cost_model.h"
#include "sim/metrics.h"
#include "sim/node_blocks.h"
#include "sim/node_steps.h"
#include "sim/trace.h"

namespace halfmoon::sim {

/// SplitMix64: a well mixed function of its argument.
inline uint64_t Mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// A node that is gone for a while, with all it held; or cut off, and then it comes back with the
/// blocks that it has. What it was computing is lost either way.
struct Fault {
  TimeUs at_us = 0;
  TimeUs back_us = 0;  ///< after at_us
  int32_t node = 0;
  TimeUs notice_us = 0;  ///< so much later the conductor knows; until then it counts on the node
  bool keeps_blocks = false;
};

/// Something wrong on purpose, for tests of the checks.
enum class Bug : uint8_t {
  kNone,
  kLoseRequest,  ///< of those that a node had which is gone, one is not placed again
  kLeakPage,     ///< a page of a sequence that has ended stays held (SimOptions::detailed)
  kLoseSlot,     ///< a put into a node's blocks never ends
};

struct SimOptions {
  int32_t prefill_nodes = 0;
  int32_t decode_nodes = 0;
  /// Nodes that do both, as vLLM 0.5.1 does by default: prompts go before decoding, whole, and no
  /// prefix is kept.
  int32_t coupled_nodes = 0;
  bool coupled_cache = false;        ///< they keep prefixes
  int32_t coupled_chunk_tokens = 0;  ///< prompts beside decoding in chunks; 0: before it
  cluster::Policy policy = cluster::Policies().front();
  cluster::RejectPolicy reject = cluster::RejectPolicy::kNone;
  cluster::ServiceLimits limits{.ttft_us = 30'000'000, .tbt_us = 100'000};
  double rate = 1.0;   ///< of the trace's
  int32_t copies = 1;  ///< of the trace, that share no block and start apart within copy_spread_us
  TimeUs jitter_us = 0;             ///< arrivals are later by up to so much, as the seed has it
  int64_t dram_tokens = 3'000'000;  ///< of each node that keeps prefixes
  int64_t ssd_tokens = 0;
  double nic_bytes_per_s = 0.0;  ///< 0: the cost model's
  /// In place of the policy's.
  std::optional<double> balancing_threshold;
  std::optional<cluster::FirstToken> first_token;
  double headroom = 0.9;     ///< ConductorOptions::headroom
  bool output_known = true;  ///< the conductor is told how long answers get
  /// Steps are planned by sched::MakePlan over token ids and pages, as those of a real node, and
  /// checked (NodeSteps::Violation). For thousands of requests, not for thousands of nodes.
  bool detailed = false;
  uint64_t seed = 1;
  std::vector<Fault> faults;
  /// What nodes tell the conductor of blocks, loads and progress comes so much later at most: in
  /// order from each node, in any order from several. The fetches of its decisions may then find
  /// less than it counted on.
  TimeUs report_delay_us = 0;
  Bug bug = Bug::kNone;
};

/// Runs a trace to its end: Run() is called once. Sequences reserve KV for their whole output when
/// they start to decode, so none is preempted. Deterministic; one thread.
class Simulator {
 public:
  Simulator(const SimOptions& options, const CostModel& model, const Trace& trace);
  ~Simulator();

  SimResult Run();

  /// The first thing that did not hold; empty when all did. Checked at the end, and with faults.
  const std::string& violation() const { return violation_; }

 private:
  enum class EventKind : uint8_t {
    kFetched,
    kStepEnd,
    kStreamed,
    kMessage,
    kFail,
    kNotice,
    kReturn
  };
  struct Event {
    TimeUs at_us = 0;
    uint64_t order = 0;  // of equal times: as they were made
    EventKind kind{};
    uint32_t epoch = 0;  // of the request or node: what it was for may be gone
    uint32_t index = 0;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return a.at_us != b.at_us ? a.at_us > b.at_us : a.order > b.order;
    }
  };
  struct Arrival {
    TimeUs at_us = 0;
    uint32_t request = 0;
    int32_t copy = 0;
  };
  /// Of one that is in the system.
  struct Flight {
    const TraceRequest* row = nullptr;
    uint64_t salt = 0;
    RequestRecord record;
    uint32_t epoch = 0;
    std::vector<kv::BlockKey> keys;
    cluster::Placement placement;
    int32_t prefill_node = 0;
    int32_t decode_node = 0;
    std::vector<uint32_t> source_epochs;  // of the fetches
    int32_t usable_blocks = 0;            // that were there, of those that the conductor counted on
    bool fetched = false;
    int32_t prompt_tokens = 0;  // with what it had made before a node failed
    int32_t prefix_tokens = 0;
    int32_t computed_tokens = 0;
    int32_t made_tokens = 0;
    TimeUs prefill_start_us = 0;
    TimeUs last_token_us = 0;
    double prefill_us = 0.0;
    size_t join_step = 0;
    int64_t joined_tokens = 0;    // that it held when it joined
    int64_t reserved_tokens = 0;  // on the decode node
    enum class Stage : uint8_t { kPrefill, kStream, kJoining, kDecode, kEnded };
    Stage stage = Stage::kPrefill;
    std::vector<float> gaps;
  };
  struct Running {
    size_t last_step = 0;  // its last token comes with this step of the node
    uint32_t request = 0;
    bool operator>(const Running& other) const {
      return last_step != other.last_step ? last_step > other.last_step : request > other.request;
    }
  };
  /// What a node tells the conductor.
  struct Message {
    enum class Kind : uint8_t { kBlocks, kLoad, kPrefillStarted, kPrefillEnded, kDecodeJoined };
    Kind kind{};
    std::vector<BlockChange> blocks{};
    cluster::LoadReport load{};
    uint32_t request = 0;
    uint32_t epoch = 0;  // of the request
    double prefill_us = 0.0;
  };
  struct Node {
    cluster::NodeId id{};
    cluster::Role role{};
    bool up = true;
    bool noticed = true;  // that it is up, or is not
    bool lost_blocks = false;
    uint32_t epoch = 0;
    std::deque<Message> outbox;  // on their way to the conductor
    uint32_t connection = 0;
    TimeUs outbox_free_us = 0;
    std::unique_ptr<NodeBlocks> cache;
    std::unique_ptr<NodeSteps> steps;  // detailed only
    TimeUs out_free_us = 0;
    TimeUs in_free_us = 0;
    TimeUs ssd_free_us = 0;
    std::vector<uint32_t> prompts;  // waiting, as they came
    int64_t current = -1;           // the prompt that is being computed
    std::deque<uint32_t> joining;   // wait for room to decode
    std::priority_queue<Running, std::vector<Running>, std::greater<>> running;
    int64_t kv_reserved = 0;
    int64_t kv_tokens = 0;
    std::vector<TimeUs> step_ends;  // of decode steps
    // The step that is going on.
    bool busy = false;
    bool decodes = false;
    int32_t chunk_tokens = 0;
    double decode_us = 0.0;
    TimeUs next_report_us = 0;
  };

  void MakeArrivals();
  void Push(TimeUs at_us, EventKind kind, uint32_t index, uint32_t epoch);
  void Handle(const Event& event);
  void Arrive(const Arrival& arrival);
  void Place(uint32_t index);
  void StartFetches(uint32_t index);
  void Fetched(uint32_t index);
  void EndFlight(uint32_t index, Outcome outcome);
  void Keep(Node* node, std::span<const kv::BlockKey> keys);
  /// The last token of a prompt is computed in any case.
  int32_t PrefixTokens(const Flight& flight, int32_t blocks) const {
    return static_cast<int32_t>(
        std::min(int64_t{flight.prompt_tokens} - 1, int64_t{blocks} * trace_.block_tokens));
  }
  void MakeKeys(Flight* flight) const;
  void Sample();
  double RateOf(double a, double b) const;
  cluster::NodeInfo InfoOf(const Node& node) const;

  // simulator_steps.cc: what nodes compute.
  void StartStep(int32_t index);
  void EndStep(int32_t index);
  int64_t PickPrompt(const Node& node) const;
  int32_t ChunkOf(const Node& node, const Flight& flight, bool decoding) const;
  void StartPrompt(Node* node, uint32_t index);
  void EndPrompt(int32_t node_index, uint32_t index);
  void CountToken(Flight* flight, TimeUs at_us);
  void Stream(uint32_t index);
  void Streamed(uint32_t index);
  void Admit(Node* node);
  void Join(Node* node, uint32_t index);
  void AddRunning(Node* node, uint32_t index);
  void EndDecode(Node* node, uint32_t index);
  void Leave(Node* node, Flight* flight, size_t num_steps);
  bool HasRoom(const Node& node, const Flight& flight) const;
  void Reserve(Node* node, Flight* flight);
  void Report(Node* node);

  // simulator_detailed.cc
  std::unique_ptr<NodeSteps> MakeSteps(const Node& node) const;
  int64_t NumPages() const;
  bool FitsPages(const Flight& flight) const;
  std::vector<int32_t> MakeIds(uint32_t index) const;
  static int32_t MadeToken(uint32_t index, int32_t number);
  void StartDetailedStep(int32_t index);
  void EndDetailedStep(int32_t index);

  // simulator_messages.cc: what nodes tell, and when it comes.
  void Tell(Node* node, Message message);
  void TellOfRequest(Node* node, Message::Kind kind, uint32_t index, double prefill_us = 0.0);
  void TellOfBlocks(Node* node, std::vector<BlockChange> changes);
  void Deliver(const Node& node, const Message& message);
  void DeliverBlocks(const Node& node, std::span<const BlockChange> changes);
  TimeUs DrawDelay();

  // simulator_faults.cc: nodes that fail, and what must hold.
  void Fail(const Fault& fault);
  void Notice(int32_t index);
  void Withdraw(uint32_t index);
  static void RemoveRunning(Node* node, uint32_t index);
  void Return(int32_t index);
  void Require(bool holds, const std::string& what);
  void CheckEnd();

  const SimOptions options_;
  const cluster::FirstToken first_token_;
  const CostModel model_;
  const Trace& trace_;
  cluster::Conductor conductor_;
  std::vector<Node> nodes_;
  std::vector<Flight> flights_;
  std::vector<Arrival> arrivals_;
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  uint64_t order_ = 0;
  uint64_t delay_draw_ = 0;
  TimeUs now_ = 0;
  TimeUs sample_us_ = 0;
  TimeUs next_sample_us_ = 0;
  LoadSample sample_;
  SimResult result_;
  std::string violation_;
};

}  // namespace halfmoon::sim
