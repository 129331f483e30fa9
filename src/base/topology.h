// SPDX-License-Identifier: Apache-2.0
// Where this machine's cores and memory are, and which threads compute where. Reading it is apart
// from deciding, so that decisions are functions of data and machines of any shape can be tested.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace halfmoon {

/// Cores and memory that are near each other.
struct NumaNode {
  int id = 0;               ///< the system's number
  size_t memory_bytes = 0;  ///< of which this process may take; 0: none
  std::vector<int> cores;   ///< cpu number of each physical core that this process may run on: the
                            ///< first of its SMT siblings; ascending
  std::vector<int> distances;  ///< to all nodes, as the system gives them; may be empty
};

struct Topology {
  std::vector<NumaNode> nodes;  ///< at least one, ascending by id
  bool restricted = false;      ///< the process may not use all cpus that are online

  int num_cores() const;
};

/// What limits a process; nullopt: nothing.
struct TopologyLimits {
  std::optional<std::vector<int>> cpus;   ///< affinity
  std::optional<std::vector<int>> nodes;  ///< whose memory it may take
};

/// The topology below `root`, /sys/devices/system or the like of it. Where files are missing or
/// make no sense (containers, other systems), one node has all cpus.
Topology ReadTopology(const std::filesystem::path& root, const TopologyLimits& limits);
/// Of this machine, for this process.
Topology ReadTopology();

/// Model name of this machine's CPU as the system gives it.
std::string CpuName();

/// "0-3,8" as numbers, ascending; nullopt where it is something else.
std::optional<std::vector<int>> ParseCpuList(std::string_view text);
/// The other way.
std::string FormatCpuList(std::span<const int> cpus);

enum class Pinning {
  kAuto,  ///< as PlanThreads says
  kOn,    ///< each thread to a core of its own
  kOff,   ///< wherever the system puts them
};

/// Where one thread runs.
struct ThreadSeat {
  size_t shard = 0;       ///< whose pieces it takes first
  std::vector<int> cpus;  ///< it may run on; empty: any
};

/// The part of the threads that share a node, and of the weights that lie there.
struct ThreadShard {
  int node = -1;        ///< whose memory its weights are put into; -1: left to the system
  int num_threads = 0;  ///< at least 1
};

/// Threads of a pool and their shards.
struct ThreadLayout {
  static constexpr size_t kMaxShards = 16;

  std::vector<ThreadSeat> seats;    ///< one a thread, those of a shard side by side
  std::vector<ThreadShard> shards;  ///< at least one, at most kMaxShards
  bool pinned = false;              ///< each to a core of its own

  /// Of `count` things divided among the shards in proportion to their threads: where the part of
  /// shard number `shard` begins; `count` for the one after the last.
  size_t ShardBegin(size_t count, size_t shard) const;

  /// `num_threads` of one shard, anywhere.
  static ThreadLayout Anywhere(int num_threads);
};

/// - num_threads 0: one a physical core.
/// - Nodes with memory and cores get threads in proportion to their cores, one shard each. Cores of
///   a node without memory count with the nearest node that has some. Fewer threads than nodes,
///   more than cores, or more than kMaxShards nodes: one shard.
/// - kAuto: with several shards threads keep to the cores of their node, else they run anywhere:
///   pinned to single cores they could not step aside for other programs, and no gain showed
///   (docs/performance.md).
/// - kOn with more threads than cores is kOff.
ThreadLayout PlanThreads(const Topology& topology, int num_threads, Pinning pinning);

}  // namespace halfmoon
