// SPDX-License-Identifier: Apache-2.0
#include "model/expert_policy.h"

#include <algorithm>

#include "base/check.h"

namespace halfmoon::model {

ExpertPolicy::ExpertPolicy(size_t num_experts, size_t num_places)
    : nodes_(num_experts), num_places_(num_places), kept_places_(num_places * 3 / 4) {
  HM_CHECK(num_places > 0);
}

uint32_t ExpertPolicy::Heat(const Node& node) const {
  const uint64_t epoch = uses_ / (kAgingUses * num_places_);
  const uint64_t age = epoch - node.epoch;
  return age >= 32 ? 0 : node.uses >> age;
}

void ExpertPolicy::Link(size_t expert, Segment segment) {
  Node& node = nodes_[expert];
  List& list = ListOf(segment);
  node.segment = segment;
  node.newer = kEnd;
  node.older = list.newest;
  const auto at = static_cast<int32_t>(expert);
  if (list.newest != kEnd) nodes_[static_cast<size_t>(list.newest)].newer = at;
  list.newest = at;
  if (list.oldest == kEnd) list.oldest = at;
  ++list.size;
}

void ExpertPolicy::Unlink(size_t expert) {
  Node& node = nodes_[expert];
  List& list = ListOf(node.segment);
  (node.newer == kEnd ? list.newest : nodes_[static_cast<size_t>(node.newer)].older) = node.older;
  (node.older == kEnd ? list.oldest : nodes_[static_cast<size_t>(node.older)].newer) = node.newer;
  node.segment = Segment::kNone;
  --list.size;
}

int32_t ExpertPolicy::Coldest(Segment segment, const std::function<bool(size_t)>& pinned) const {
  int32_t coldest = kEnd;
  int compared = 0;
  for (int32_t at = lists_[static_cast<size_t>(segment)].oldest;
       at != kEnd && compared < kCandidates; at = nodes_[static_cast<size_t>(at)].newer) {
    const auto expert = static_cast<size_t>(at);
    if (pinned(expert)) continue;
    ++compared;
    // Strictly: of equally hot ones the longest unused.
    if (coldest == kEnd || Heat(nodes_[expert]) < Heat(nodes_[static_cast<size_t>(coldest)])) {
      coldest = at;
    }
  }
  return coldest;
}

void ExpertPolicy::Use(size_t expert) {
  Node& node = nodes_[expert];
  const uint32_t heat = Heat(node);
  ++uses_;
  node.uses = heat + 1;
  node.epoch = static_cast<uint32_t>(uses_ / (kAgingUses * num_places_));
  if (node.segment == Segment::kNone) return;
  const Segment to = kept_places_ == 0 ? Segment::kPassing : Segment::kKept;
  Unlink(expert);
  if (to == Segment::kKept && ListOf(to).size == kept_places_) {
    const auto down = static_cast<size_t>(Coldest(to, [](size_t) { return false; }));
    Unlink(down);
    Link(down, Segment::kPassing);
  }
  Link(expert, to);
}

void ExpertPolicy::Insert(size_t expert) {
  HM_DCHECK(!Holds(expert));
  HM_DCHECK(size() < num_places_);
  const bool room = ListOf(Segment::kKept).size < kept_places_;
  Link(expert, room ? Segment::kKept : Segment::kPassing);
}

void ExpertPolicy::Remove(size_t expert) {
  HM_DCHECK(Holds(expert));
  Unlink(expert);
}

size_t ExpertPolicy::Victim(const std::function<bool(size_t expert)>& pinned) const {
  int32_t victim = Coldest(Segment::kPassing, pinned);
  if (victim == kEnd) victim = Coldest(Segment::kKept, pinned);
  HM_CHECK(victim != kEnd, "every place is pinned");
  return static_cast<size_t>(victim);
}

}  // namespace halfmoon::model
