// SPDX-License-Identifier: Apache-2.0
#include "base/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "base/temporary_folder_for_test.h"

namespace halfmoon {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct FakeNode {
  std::string cpus;
  size_t memory_kb = 0;
  std::string distances = "";
};

// A machine's files as the kernel has them.
class FakeMachine {
 public:
  FakeMachine(const std::string& online, int cpus_per_core, const std::vector<FakeNode>& nodes) {
    const std::vector<int> cpus = ParseCpuList(online).value();
    Write("cpu/online", online + "\n");
    for (const int cpu : cpus) {
      // Siblings are numbered the way x86 servers do it: cpu and cpu + cores.
      const int cores = static_cast<int>(cpus.size()) / cpus_per_core;
      std::vector<int> siblings;
      for (int i = 0; i < cpus_per_core; ++i) siblings.push_back(cpu % cores + i * cores);
      Write("cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
            FormatCpuList(siblings) + "\n");
    }
    std::vector<int> ids(nodes.size());
    std::iota(ids.begin(), ids.end(), 0);
    if (!nodes.empty()) Write("node/online", FormatCpuList(ids) + "\n");
    for (size_t i = 0; i < nodes.size(); ++i) {
      const std::string folder = "node/node" + std::to_string(i);
      Write(folder + "/cpulist", nodes[i].cpus + "\n");
      Write(folder + "/meminfo", "Node " + std::to_string(i) + " MemTotal:       " +
                                     std::to_string(nodes[i].memory_kb) + " kB\n");
      Write(folder + "/distance", nodes[i].distances + "\n");
    }
  }
  Topology Read(const TopologyLimits& limits = {}) const {
    return ReadTopology(folder_.path(), limits);
  }

 private:
  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  TemporaryFolder folder_;
};

/// "node:cpus node:cpus ..." of the seats, "*" where a thread may run anywhere.
std::string Seats(const ThreadLayout& layout) {
  std::string text;
  for (const ThreadSeat& seat : layout.seats) {
    if (!text.empty()) text += " ";
    text += std::to_string(layout.shards.at(seat.shard).node) + ":" +
            (seat.cpus.empty() ? "*" : FormatCpuList(seat.cpus));
  }
  return text;
}

TEST(CpuList, Forms_ReadAndWritten) {
  EXPECT_THAT(*ParseCpuList("0-3,8,10-11\n"), ElementsAre(0, 1, 2, 3, 8, 10, 11));
  EXPECT_THAT(*ParseCpuList(""), IsEmpty());
  for (const char* bad : {"a", "3-1", "1,", ",1", "1-", "-1", "0-99999999", "1 2", "1;2"}) {
    EXPECT_FALSE(ParseCpuList(bad).has_value()) << bad;
  }
  EXPECT_EQ(FormatCpuList(std::vector<int>{0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
}

TEST(Topology, OneNodeWithSmt_SiblingsAreOneCore) {
  const FakeMachine machine("0-7", 2, {{"0-7", 1000}});
  const Topology topology = machine.Read();
  ASSERT_EQ(topology.nodes.size(), 1u);
  EXPECT_THAT(topology.nodes[0].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(topology.nodes[0].memory_bytes, 1000u * 1024);
  EXPECT_FALSE(topology.restricted);
}

TEST(Topology, OfflineCpus_AreNotThere) {
  const FakeMachine machine("0-2,5", 1, {{"0-2", 10}, {"5", 10}});
  const Topology topology = machine.Read();
  EXPECT_THAT(topology.nodes[0].cores, ElementsAre(0, 1, 2));
  EXPECT_THAT(topology.nodes[1].cores, ElementsAre(5));
  EXPECT_FALSE(topology.restricted);
}

TEST(Topology, Cpuset_OnlyItsCpusAndMemory) {
  const FakeMachine machine("0-7", 1, {{"0-3", 10}, {"4-7", 10}});
  const Topology topology = machine.Read({.cpus = std::vector<int>{2, 3, 4}, .nodes = {{0}}});
  EXPECT_TRUE(topology.restricted);
  EXPECT_THAT(topology.nodes[0].cores, ElementsAre(2, 3));
  EXPECT_THAT(topology.nodes[1].cores, ElementsAre(4));
  EXPECT_EQ(topology.nodes[1].memory_bytes, 0u);
}

TEST(Topology, FilesMissingOrNonsense_OneNodeWithWhatIsThere) {
  const FakeMachine no_nodes("0-3", 1, {});
  EXPECT_THAT(no_nodes.Read().nodes, ::testing::SizeIs(1));
  EXPECT_EQ(no_nodes.Read().num_cores(), 4);
  // A node list that leaves cpus out.
  const FakeMachine half("0-3", 1, {{"0-1", 10}, {"x", 10}});
  EXPECT_THAT(half.Read().nodes, ::testing::SizeIs(1));
  EXPECT_EQ(half.Read().num_cores(), 4);
  const TemporaryFolder empty;
  EXPECT_GE(ReadTopology(empty.path(), {}).num_cores(), 1);
  // An affinity that has nothing in common with what is online.
  EXPECT_EQ(no_nodes.Read({.cpus = std::vector<int>{77}}).num_cores(), 4);
}

TEST(Topology, ThisMachine_HasCores) {
  EXPECT_GE(ReadTopology().num_cores(), 1);
  EXPECT_FALSE(ReadTopology().nodes.empty());
}

TEST(PlanThreads, OneNode_OneThreadACoreAnywhere) {
  const FakeMachine machine("0-7", 2, {{"0-7", 10}});
  EXPECT_EQ(Seats(PlanThreads(machine.Read(), 0, Pinning::kAuto)), "-1:* -1:* -1:* -1:*");
  const ThreadLayout pinned = PlanThreads(machine.Read(), 3, Pinning::kOn);
  EXPECT_EQ(Seats(pinned), "-1:0 -1:1 -1:2");
  EXPECT_TRUE(pinned.pinned);
  // More threads than cores cannot have one each.
  const ThreadLayout many = PlanThreads(machine.Read(), 6, Pinning::kOn);
  EXPECT_EQ(Seats(many), "-1:* -1:* -1:* -1:* -1:* -1:*");
  EXPECT_FALSE(many.pinned);
}

TEST(PlanThreads, TwoNodes_AShardEachThatKeepsToItsCores) {
  const FakeMachine machine("0-7", 2, {{"0-1,4-5", 10}, {"2-3,6-7", 10}});
  const ThreadLayout layout = PlanThreads(machine.Read(), 0, Pinning::kAuto);
  EXPECT_EQ(Seats(layout), "0:0-1 0:0-1 1:2-3 1:2-3");
  EXPECT_FALSE(layout.pinned);
  EXPECT_EQ(Seats(PlanThreads(machine.Read(), 0, Pinning::kOn)), "0:0 0:1 1:2 1:3");
  EXPECT_EQ(Seats(PlanThreads(machine.Read(), 0, Pinning::kOff)), "0:* 0:* 1:* 1:*");
  EXPECT_EQ(Seats(PlanThreads(machine.Read(), 2, Pinning::kOn)), "0:0 1:2");
  EXPECT_EQ(PlanThreads(machine.Read(), 1, Pinning::kAuto).shards.size(), 1u);
}

TEST(PlanThreads, FourUnevenNodes_ThreadsInProportionAndAtLeastOne) {
  const FakeMachine machine("0-15", 1, {{"0", 10}, {"1", 10}, {"2-5", 10}, {"6-15", 10}});
  const auto threads = [&](int count) {
    std::vector<int> counts;
    for (const ThreadShard& shard : PlanThreads(machine.Read(), count, Pinning::kAuto).shards) {
      counts.push_back(shard.num_threads);
    }
    return counts;
  };
  EXPECT_THAT(threads(0), ElementsAre(1, 1, 4, 10));
  EXPECT_THAT(threads(8), ElementsAre(1, 1, 2, 4));
  EXPECT_THAT(threads(5), ElementsAre(1, 1, 1, 2));
  EXPECT_THAT(threads(4), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(threads(3), ElementsAre(3)) << "fewer threads than nodes";
}

TEST(PlanThreads, NodeWithoutMemory_ComputesWithTheNearest) {
  const FakeMachine machine(
      "0-5", 1, {{"0-1", 10, "10 20 30"}, {"2-3", 0, "20 10 12"}, {"4-5", 10, "30 12 10"}});
  EXPECT_EQ(Seats(PlanThreads(machine.Read(), 0, Pinning::kOn)), "0:0 0:1 2:2 2:3 2:4 2:5");
  // Memory without cores (CXL, a cpuset) is nobody's shard.
  const FakeMachine far("0-1", 1, {{"0-1", 10}, {"", 10}});
  EXPECT_EQ(PlanThreads(far.Read(), 0, Pinning::kAuto).shards.size(), 1u);
}

}  // namespace
}  // namespace halfmoon
