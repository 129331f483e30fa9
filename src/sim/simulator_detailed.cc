// SPDX-License-Identifier: Apache-2.0
// Steps that sched::MakePlan makes (SimOptions::detailed). A prompt is given to the node's table
// when its turn has come by the conductor's order, a sequence when its KV has come.
#include <algorithm>
#include <limits>
#include <utility>

#include "sim/simulator.h"

namespace halfmoon::sim {
namespace {

constexpr int32_t kPageTokens = 16;
constexpr int32_t kStepTokens = 2048;

}  // namespace

std::unique_ptr<NodeSteps> Simulator::MakeSteps(const Node& node) const {
  if (!options_.detailed) return nullptr;
  const bool chunked = node.role == cluster::Role::kBoth && options_.coupled_chunk_tokens > 0;
  const int32_t max_running = std::max(1, model_.max_running);
  return std::make_unique<NodeSteps>(NodeSteps::Options{
      .limits = {.step_tokens =
                     std::max(max_running, chunked ? options_.coupled_chunk_tokens : kStepTokens),
                 .max_running = max_running,
                 .block_size = kPageTokens},
      .num_pages = static_cast<int32_t>(NumPages()),
      .costs = model_.costs,
      .leak_page = options_.bug == Bug::kLeakPage});
}

int64_t Simulator::NumPages() const {
  return std::min<int64_t>((model_.kv_tokens + kPageTokens - 1) / kPageTokens,
                           std::numeric_limits<int32_t>::max() / kPageTokens);
}

// Whether a node can ever hold it; a real one refuses it otherwise.
bool Simulator::FitsPages(const Flight& flight) const {
  return int64_t{flight.row->prompt_tokens} + flight.row->output_tokens <= NumPages() * kPageTokens;
}

// Equal blocks give equal tokens; what lies in no block gives tokens of its own.
std::vector<int32_t> Simulator::MakeIds(uint32_t index) const {
  const Flight& flight = flights_[index];
  const auto token = [](uint64_t of, uint64_t position) {
    return static_cast<int32_t>(Mix(of ^ Mix(position)) >> 33);
  };
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < flight.row->prompt_tokens; ++i) {
    const int32_t block = i / trace_.block_tokens;
    ids.push_back(
        block < flight.row->num_blocks
            ? token(trace_.blocks[flight.row->first_block + static_cast<uint64_t>(block)] ^
                        flight.salt,
                    static_cast<uint64_t>(i % trace_.block_tokens))
            : token(~uint64_t{index}, static_cast<uint64_t>(i)));
  }
  for (int32_t i = 0; i < flight.made_tokens; ++i) ids.push_back(MadeToken(index, i));
  return ids;
}

int32_t Simulator::MadeToken(uint32_t index, int32_t number) {
  return static_cast<int32_t>(Mix((uint64_t{index} << 32) + static_cast<uint64_t>(number)) >> 33);
}

void Simulator::StartDetailedStep(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  while (!node.joining.empty()) {
    const uint32_t request = node.joining.front();
    node.joining.pop_front();
    // Its KV has come, but for that of a first token from elsewhere.
    node.steps->Add(request, MakeIds(request), flights_[request].prompt_tokens);
  }
  if (node.current < 0) {
    node.current = PickPrompt(node);
    if (node.current >= 0) {
      const auto request = static_cast<uint32_t>(node.current);
      StartPrompt(&node, request);
      node.steps->Add(request, MakeIds(request), flights_[request].prefix_tokens);
    }
  }
  double most_us = 0.0;
  if (node.current >= 0) {
    most_us = static_cast<double>(flights_[static_cast<size_t>(node.current)].placement.chunk_us);
  }
  const std::optional<NodeSteps::Step> step = node.steps->Begin(most_us);
  const std::string violation = node.steps->Violation();
  Require(violation.empty(), violation);
  if (!step.has_value()) return;
  for (const uint32_t request : step->computes) {
    Flight& flight = flights_[request];
    if (flight.stage != Flight::Stage::kJoining) continue;
    flight.stage = Flight::Stage::kDecode;
    TellOfRequest(&node, Message::Kind::kDecodeJoined, request);
  }
  if (node.current >= 0) {
    flights_[static_cast<size_t>(node.current)].prefill_us += step->prompt_us;
  }
  node.busy = true;
  Push(now_ + std::max<TimeUs>(1, static_cast<TimeUs>(step->us + 0.5)), EventKind::kStepEnd,
       static_cast<uint32_t>(index), node.epoch);
}

void Simulator::EndDetailedStep(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  node.busy = false;
  std::vector<uint32_t> ended;
  for (const uint32_t request : node.steps->Count()) {
    Flight& flight = flights_[request];
    if (node.current == static_cast<int64_t>(request)) {
      node.current = -1;
      EndPrompt(index, request);
      if (flight.stage != Flight::Stage::kDecode) {
        ended.push_back(request);
        continue;
      }
    } else {
      CountToken(&flight, now_);
      if (flight.made_tokens == flight.row->output_tokens) {
        if (!flight.gaps.empty()) flight.record.tbt_us = MeanOfLongestTenth(flight.gaps);
        EndFlight(request, Outcome::kDone);
        ended.push_back(request);
        continue;
      }
    }
    node.steps->Append(request, MadeToken(request, flight.made_tokens - 1));
  }
  node.steps->End();
  for (const uint32_t request : ended) node.steps->Remove(request);
}

}  // namespace halfmoon::sim
