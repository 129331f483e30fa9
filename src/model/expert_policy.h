// SPDX-License-Identifier: Apache-2.0
// Which expert leaves memory when another has to come in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace halfmoon::model {

/// Least recently used first, with hot experts kept. Two segments in order of use: *kept* takes up
/// to three quarters of the places, *passing* the rest. What comes in while there is room in kept
/// stays there, later ones pass; a use while passing moves an expert up, and the coldest of the
/// longest unused kept ones moves down for it. The victim is the coldest of the longest unused
/// passing ones. So one long prompt that runs through all experts leaves most hot ones in place.
///
/// How hot an expert is, is the number of its uses, in memory or not, halved every kAgingUses uses
/// a place. Pure bookkeeping; engine thread only. Cost: constant a call.
class ExpertPolicy {
 public:
  static constexpr int kCandidates = 8;      ///< longest unused that are compared by heat
  static constexpr uint64_t kAgingUses = 8;  ///< uses a place after which old ones count half

  /// Experts 0 .. num_experts - 1 over num_places >= 1 places.
  ExpertPolicy(size_t num_experts, size_t num_places);

  /// A step uses the expert, wherever it is.
  void Use(size_t expert);
  /// It is in memory now. Requires that it was not, and a free place.
  void Insert(size_t expert);
  /// It is no longer in memory. Requires that it was.
  void Remove(size_t expert);
  /// The one to give up, which stays until Remove. Never one that `pinned` names; requires one in
  /// memory that it does not.
  size_t Victim(const std::function<bool(size_t expert)>& pinned) const;

  bool Holds(size_t expert) const { return nodes_[expert].segment != Segment::kNone; }
  size_t size() const { return lists_[0].size + lists_[1].size; }

 private:
  enum class Segment : uint8_t { kPassing = 0, kKept = 1, kNone = 2 };
  static constexpr int32_t kEnd = -1;

  struct Node {
    int32_t newer = kEnd;
    int32_t older = kEnd;
    uint32_t uses = 0;   // as of `epoch`
    uint32_t epoch = 0;  // of the last use
    Segment segment = Segment::kNone;
  };
  struct List {
    int32_t newest = kEnd;
    int32_t oldest = kEnd;
    size_t size = 0;
  };

  List& ListOf(Segment segment) { return lists_[static_cast<size_t>(segment)]; }
  uint32_t Heat(const Node& node) const;
  void Link(size_t expert, Segment segment);
  void Unlink(size_t expert);
  /// The coldest of the kCandidates longest unused of a list that are not pinned; kEnd where none
  /// is left.
  int32_t Coldest(Segment segment, const std::function<bool(size_t)>& pinned) const;

  std::vector<Node> nodes_;
  std::array<List, 2> lists_;
  size_t num_places_;
  size_t kept_places_;
  uint64_t uses_ = 0;
};

}  // namespace halfmoon::model
