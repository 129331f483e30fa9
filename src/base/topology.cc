// SPDX-License-Identifier: Apache-2.0
#include "base/topology.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <numeric>
#include <set>
#include <thread>

#include "base/check.h"

namespace halfmoon {
namespace {

// More than any kernel supports; a list that goes beyond is not one.
constexpr int kMaxCpus = 1 << 16;

std::string FirstLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<std::vector<int>> ListIn(const std::filesystem::path& path) {
  const std::string line = FirstLine(path);
  return line.empty() ? std::nullopt : ParseCpuList(line);
}

bool Contains(const std::vector<int>& list, int value) {
  return std::ranges::find(list, value) != list.end();
}

/// The first cpu of each core among `cpus`: siblings share a line of thread_siblings_list.
std::vector<int> CoresOf(const std::filesystem::path& root, const std::vector<int>& cpus) {
  std::set<std::string> seen;
  std::vector<int> cores;
  for (const int cpu : cpus) {
    const std::string name = "cpu" + std::to_string(cpu);
    const std::string siblings = FirstLine(root / "cpu" / name / "topology/thread_siblings_list");
    if (seen.insert(siblings.empty() ? name : siblings).second) cores.push_back(cpu);
  }
  return cores;
}

/// "Node 0 MemTotal:  1234 kB"
size_t MemoryIn(const std::filesystem::path& meminfo) {
  std::ifstream file(meminfo);
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find("MemTotal:");
    if (at == std::string::npos) continue;
    return static_cast<size_t>(std::strtoull(line.c_str() + at + 9, nullptr, 10)) * 1024;
  }
  return 0;
}

std::vector<int> DistancesIn(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<int> distances;
  for (int distance = 0; file >> distance;) distances.push_back(distance);
  return distances;
}

std::vector<int> AllCpus() {
  std::vector<int> cpus(std::max(1u, std::thread::hardware_concurrency()));
  std::iota(cpus.begin(), cpus.end(), 0);
  return cpus;
}

/// A node that can hold weights and compute with them.
struct Place {
  const NumaNode* node;
  std::vector<int> cores;
  int num_threads = 0;
};

/// Where cores of the node number `from` get their weights from: the nearest node with memory.
size_t NearestWithMemory(const Topology& topology, size_t from) {
  const NumaNode& node = topology.nodes[from];
  size_t best = from;
  int best_distance = 0;
  for (size_t i = 0; i < topology.nodes.size(); ++i) {
    if (topology.nodes[i].memory_bytes == 0) continue;
    const int distance = i < node.distances.size() ? node.distances[i] : 255;
    if (topology.nodes[best].memory_bytes > 0 && distance >= best_distance) continue;
    best = i;
    best_distance = distance;
  }
  return best;
}

std::vector<Place> FindPlaces(const Topology& topology) {
  std::vector<Place> places;
  std::vector<size_t> place_of(topology.nodes.size(), SIZE_MAX);
  for (size_t i = 0; i < topology.nodes.size(); ++i) {
    const NumaNode& node = topology.nodes[i];
    if (node.cores.empty()) continue;
    const size_t home = node.memory_bytes > 0 ? i : NearestWithMemory(topology, i);
    if (place_of[home] == SIZE_MAX) {
      place_of[home] = places.size();
      places.push_back({.node = &topology.nodes[home]});
    }
    std::vector<int>& cores = places[place_of[home]].cores;
    cores.insert(cores.end(), node.cores.begin(), node.cores.end());
  }
  return places;
}

/// Threads for each place in proportion to its cores, at least one each; what rounding leaves goes
/// where the most is missing. Requires places.size() <= num_threads <= cores in all.
void DivideThreads(int num_threads, int num_cores, std::vector<Place>* places) {
  int left = num_threads;
  for (Place& place : *places) {
    place.num_threads = std::max(1, num_threads * static_cast<int>(place.cores.size()) / num_cores);
    left -= place.num_threads;
  }
  const auto lacking = [&](const Place& place) {
    return static_cast<double>(num_threads) * static_cast<double>(place.cores.size()) / num_cores -
           place.num_threads;
  };
  for (; left > 0; --left) {
    ++std::ranges::max_element(*places, {}, lacking)->num_threads;
  }
  for (; left < 0; ++left) {
    // From where one less hurts least; who has one keeps it, however small its part.
    --std::ranges::max_element(*places, {}, [](const Place& place) {
        return static_cast<double>(place.num_threads - 1) / static_cast<double>(place.cores.size());
      })->num_threads;
  }
}

}  // namespace

int Topology::num_cores() const {
  size_t cores = 0;
  for (const NumaNode& node : nodes) cores += node.cores.size();
  return static_cast<int>(cores);
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (!line.starts_with("model name") || colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(' ', colon + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "unknown CPU";
}

std::optional<std::vector<int>> ParseCpuList(std::string_view text) {
  std::set<int> cpus;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    int first = 0;
    auto [after, error] = std::from_chars(at, end, first);
    if (error != std::errc() || first < 0 || first >= kMaxCpus) return std::nullopt;
    int last = first;
    if (after != end && *after == '-') {
      const auto range = std::from_chars(after + 1, end, last);
      if (range.ec != std::errc() || last < first || last >= kMaxCpus) return std::nullopt;
      after = range.ptr;
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
    if (after != end && (*after != ',' || after + 1 == end)) return std::nullopt;
    at = after == end ? end : after + 1;
  }
  return std::vector<int>(cpus.begin(), cpus.end());
}

std::string FormatCpuList(std::span<const int> cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ",";
    text += std::to_string(cpus[i]);
    if (last > i) text += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

Topology ReadTopology(const std::filesystem::path& root, const TopologyLimits& limits) {
  Topology topology;
  const std::vector<int> online = ListIn(root / "cpu/online").value_or(AllCpus());
  std::vector<int> usable;
  for (const int cpu : online) {
    if (!limits.cpus.has_value() || Contains(*limits.cpus, cpu)) usable.push_back(cpu);
  }
  topology.restricted = usable.size() < online.size();
  // An affinity that names none of what is online contradicts what this process does: run.
  if (usable.empty()) usable = online;
  std::set<int> placed;
  for (const int id : ListIn(root / "node/online").value_or(std::vector<int>())) {
    const std::filesystem::path folder = root / "node" / ("node" + std::to_string(id));
    std::vector<int> cpus;
    for (const int cpu : ListIn(folder / "cpulist").value_or(std::vector<int>())) {
      if (Contains(usable, cpu) && placed.insert(cpu).second) cpus.push_back(cpu);
    }
    const bool allowed = !limits.nodes.has_value() || Contains(*limits.nodes, id);
    topology.nodes.push_back({.id = id,
                              .memory_bytes = allowed ? MemoryIn(folder / "meminfo") : 0,
                              .cores = CoresOf(root, cpus),
                              .distances = DistancesIn(folder / "distance")});
  }
  // Nodes that do not have all of the cpus between them are not what they seem.
  if (placed.size() != usable.size()) {
    topology.nodes = {{.cores = CoresOf(root, usable)}};
  }
  return topology;
}

Topology ReadTopology() {
  TopologyLimits limits;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    limits.cpus.emplace();
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) limits.cpus->push_back(cpu);
    }
  }
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    constexpr std::string_view kField = "Mems_allowed_list:";
    if (!line.starts_with(kField)) continue;
    const size_t begin = line.find_first_not_of(" \t", kField.size());
    if (begin != std::string::npos) limits.nodes = ParseCpuList(line.substr(begin));
  }
  return ReadTopology("/sys/devices/system", limits);
}

size_t ThreadLayout::ShardBegin(size_t count, size_t shard) const {
  size_t before = 0;
  for (size_t i = 0; i < shard; ++i) before += static_cast<size_t>(shards[i].num_threads);
  return count * before / seats.size();
}

ThreadLayout ThreadLayout::Anywhere(int num_threads) {
  return {.seats = std::vector<ThreadSeat>(static_cast<size_t>(num_threads)),
          .shards = {{.num_threads = num_threads}}};
}

ThreadLayout PlanThreads(const Topology& topology, int num_threads, Pinning pinning) {
  HM_CHECK(num_threads >= 0);
  const int num_cores = topology.num_cores();
  const int threads = num_threads > 0 ? num_threads : std::max(1, num_cores);
  std::vector<Place> places = FindPlaces(topology);
  if (threads > num_cores) return ThreadLayout::Anywhere(threads);
  const bool sharded = places.size() > 1 && static_cast<size_t>(threads) >= places.size() &&
                       places.size() <= ThreadLayout::kMaxShards;
  if (!sharded) {
    ThreadLayout layout = ThreadLayout::Anywhere(threads);
    if (pinning != Pinning::kOn) return layout;
    layout.pinned = true;
    size_t seat = 0;
    for (const Place& place : places) {
      for (size_t i = 0; i < place.cores.size() && seat < layout.seats.size(); ++i) {
        layout.seats[seat++].cpus = {place.cores[i]};
      }
    }
    return layout;
  }
  DivideThreads(threads, num_cores, &places);
  ThreadLayout layout{.pinned = pinning == Pinning::kOn};
  for (const Place& place : places) {
    for (int i = 0; i < place.num_threads; ++i) {
      ThreadSeat seat{.shard = layout.shards.size()};
      if (pinning == Pinning::kOn) seat.cpus = {place.cores[static_cast<size_t>(i)]};
      if (pinning == Pinning::kAuto) seat.cpus = place.cores;
      layout.seats.push_back(std::move(seat));
    }
    layout.shards.push_back({.node = place.node->id, .num_threads = place.num_threads});
  }
  return layout;
}

}  // namespace halfmoon
