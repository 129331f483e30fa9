// SPDX-License-Identifier: Apache-2.0
// Transfers between processes: peers that are killed or halted, and real links between network
// namespaces that are slow, cut in half, or down for a while.
#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>

#include "base/child_process.h"
#include "transfer/descriptor.h"
#include "transfer/engine_for_test.h"

namespace halfmoon::transfer {
namespace {

using ::testing::HasSubstr;

constexpr size_t kMiB = 1 << 20;
constexpr TimeUs kPatienceUs = 60'000'000;

// The owner's process: registers memory as SharedMemory makes it, says the descriptor, and ends
// with its input.
int OwnerMain(size_t bytes, const TransferOptions& options) {
  const SharedMemory memory(bytes);
  const std::unique_ptr<TransferEngine> engine = StartEngine(options);
  const std::unique_ptr<Segment> segment = RegisterMemory(*engine, memory);
  std::printf("%s\n", segment->descriptor().c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

Result<ChildProcess> StartOwner(size_t bytes, const TransferOptions& options) {
  return ChildProcess::Fork({.name = "owner"}, [=] { return OwnerMain(bytes, options); });
}

class TwoProcesses : public ::testing::TestWithParam<PathKind> {
 protected:
  void StartWith(size_t bytes) {
    TransferOptions options = {.allow_shared_memory = GetParam() == PathKind::kSharedMemory,
                               .allow_tcp = GetParam() == PathKind::kTcp,
                               .allow_ucx = GetParam() == PathKind::kUcx};
    options.slice_bytes = options.shared_memory_slice_bytes = 64 << 10;
    // Threads only after the fork.
    Result<ChildProcess> owner = StartOwner(bytes, options);
    ASSERT_TRUE(owner.ok()) << owner.error().message();
    owner_ = std::make_unique<ChildProcess>(std::move(owner).value());
    const Result<std::string> line = owner_->ReadLine(kPatienceUs);
    ASSERT_TRUE(line.ok()) << line.error().message();
    descriptor_ = *line;
    copy_.resize(bytes);
    range_ = {.offset = 0, .target = copy_};
    reader_ = StartEngine(options);
  }
  // Once some of a read that goes on has arrived.
  void AwaitBytes(uint64_t more) {
    const uint64_t before = StatsOf(*reader_, GetParam()).received_bytes;
    while (StatsOf(*reader_, GetParam()).received_bytes < before + more &&
           reader_->Stats().active > 0) {
      std::this_thread::yield();
    }
  }

  std::unique_ptr<ChildProcess> owner_;
  std::string descriptor_;
  std::vector<std::byte> copy_;
  ReadRange range_;
  std::unique_ptr<TransferEngine> reader_;
};

std::vector<PathKind> Paths() {
  std::vector<PathKind> paths = {PathKind::kSharedMemory, PathKind::kTcp};
  if (HasUcx()) paths.push_back(PathKind::kUcx);
  return paths;
}

INSTANTIATE_TEST_SUITE_P(Transfer, TwoProcesses, ::testing::ValuesIn(Paths()),
                         [](const auto& path) { return std::string(PathName(path.param)); });

TEST_P(TwoProcesses, Segment_ArrivesBitForBit) {
  StartWith(16 * kMiB);
  EXPECT_TRUE(ReadAndWait(*reader_, descriptor_, {&range_, 1}).ok());
  EXPECT_TRUE(std::ranges::equal(copy_, SharedMemory(16 * kMiB).bytes()));
}

TEST_P(TwoProcesses, KilledOwner_EndsTheReadLongBeforeItsDeadline) {
  StartWith(64 * kMiB);
  PendingRead read(*reader_, descriptor_, {&range_, 1}, 600'000'000);
  AwaitBytes(kMiB);
  ASSERT_EQ(::kill(owner_->pid(), SIGKILL), 0);
  const Status status = read.Wait();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr(std::string(PathName(GetParam()))));
  EXPECT_EQ(reader_->Stats().active, 0);
}

TEST_P(TwoProcesses, HaltedOwner_EndsByTheDeadlineAndServesLater) {
  StartWith(64 * kMiB);
  PendingRead read(*reader_, descriptor_, {&range_, 1}, 400'000);
  AwaitBytes(kMiB);
  owner_->Pause();
  const Status status = read.Wait();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kDeadlineExceeded);
  owner_->Resume();
  EXPECT_TRUE(ReadAndWait(*reader_, descriptor_, {&range_, 1}).ok());
  EXPECT_TRUE(std::ranges::equal(copy_, SharedMemory(64 * kMiB).bytes()));
}

class KilledReader : public ::testing::TestWithParam<PathKind> {};
INSTANTIATE_TEST_SUITE_P(Transfer, KilledReader, ::testing::ValuesIn(Paths()),
                         [](const auto& path) { return std::string(PathName(path.param)); });

TEST_P(KilledReader, LetsGoOfTheSegment) {
  TransferOptions options = {.allow_shared_memory = GetParam() == PathKind::kSharedMemory,
                             .allow_tcp = GetParam() == PathKind::kTcp,
                             .allow_ucx = GetParam() == PathKind::kUcx};
  // The reader is the child here, which never stops reading.
  Result<ChildProcess> child = ChildProcess::Fork({.name = "reader"}, [=] {
    std::string descriptor;
    std::getline(std::cin, descriptor);
    const std::unique_ptr<TransferEngine> reader = StartEngine(options);
    std::vector<std::byte> copy(16 * kMiB);
    const ReadRange range = {.offset = 0, .target = copy};
    for (int i = 0; i < 10'000; ++i) {
      const Status status = ReadAndWait(*reader, descriptor, {&range, 1});
      if (!status.ok()) {
        std::puts(status.error().message().c_str());
        std::fflush(stdout);
        return 1;
      }
      std::puts("read");
      std::fflush(stdout);
    }
    return 0;
  });
  ASSERT_TRUE(child.ok());
  const SharedMemory memory(16 * kMiB);
  options.release_us = 3'600'000'000;
  const std::unique_ptr<TransferEngine> owner = StartEngine(options);
  std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  ASSERT_TRUE(child->WriteLine(segment->descriptor()).ok());
  const Result<std::string> line = child->ReadLine(kPatienceUs);
  ASSERT_TRUE(line.ok()) << line.error().message();
  ASSERT_EQ(*line, "read");
  ASSERT_EQ(::kill(child->pid(), SIGKILL), 0);
  segment.reset();  // does not wait for an hour
}

// Two ends of a link: the owner in a namespace of its own, which ends with it.
class OverLink : public ::testing::Test {
 protected:
  static constexpr const char* kOwnerAddress = "10.98.77.1";

  static bool Shell(const std::string& command) {
    return std::system((command + " 2>/dev/null").c_str()) == 0;
  }

  // Why there can be no such link here; empty: there can.
  static std::string WhyNot() {
    if (geteuid() != 0) return "needs root, for network namespaces";
    if (!Shell("ip -V >/dev/null")) return "needs the ip program (iproute2)";
    if (!Shell("unshare -n true")) return "no network namespace may be made here";
    if (!Shell("ip link add hmprobe0 type veth peer name hmprobe1"))
      return "no veth interfaces here";
    const bool shaped =
        Shell("tc qdisc add dev hmprobe0 root tbf rate 1mbit burst 64k latency 50ms");
    Shell("ip link del hmprobe0");
    return shaped ? "" : "no token bucket (tc tbf) here";
  }

  void StartWith(size_t bytes) {
    Result<ChildProcess> owner = ChildProcess::Fork({.name = "owner"}, [=] {
      if (unshare(CLONE_NEWNET) != 0) return 1;
      std::puts("ready");
      std::fflush(stdout);
      while (std::getchar() != '\n') {
      }
      if (!Shell(std::string("ip addr add ") + kOwnerAddress +
                 "/24 dev hmtest1 && ip link set hmtest1 up")) {
        return 1;
      }
      return OwnerMain(bytes, {.host = kOwnerAddress, .allow_ucx = false});
    });
    ASSERT_TRUE(owner.ok()) << owner.error().message();
    owner_ = std::make_unique<ChildProcess>(std::move(owner).value());
    ASSERT_TRUE(owner_->ReadLine(kPatienceUs).ok());
    ASSERT_TRUE(Shell("ip link add hmtest0 type veth peer name hmtest1 netns " +
                      std::to_string(owner_->pid())));
    ASSERT_TRUE(Shell("ip addr add 10.98.77.2/24 dev hmtest0 && ip link set hmtest0 up"));
    ASSERT_TRUE(owner_->WriteLine("up").ok());
    const Result<std::string> line = owner_->ReadLine(kPatienceUs);
    ASSERT_TRUE(line.ok()) << line.error().message();
    descriptor_ = *line;
    copy_.resize(bytes);
    range_ = {.offset = 0, .target = copy_};
    reader_ = StartEngine({.silence_us = 300'000, .connect_timeout_us = 300'000});
  }
  void TearDown() override { Shell("ip link del hmtest0"); }

  // In the owner's namespace, where most bytes come from.
  bool AtOwner(const std::string& command) {
    return Shell("nsenter -t " + std::to_string(owner_->pid()) + " -n " + command);
  }
  void ExpectArrived(size_t bytes) {
    const bool equal = std::ranges::equal(copy_, SharedMemory(bytes).bytes());
    EXPECT_TRUE(equal);
  }

  std::unique_ptr<ChildProcess> owner_;
  std::string descriptor_;
  std::vector<std::byte> copy_;
  ReadRange range_;
  std::unique_ptr<TransferEngine> reader_;
};

#define HM_NEEDS_LINK() \
  if (const std::string why = WhyNot(); !why.empty()) GTEST_SKIP() << why

TEST_F(OverLink, OtherNamespace_GoesOverTcpAlthoughThereIsSharedMemory) {
  HM_NEEDS_LINK();
  StartWith(32 * kMiB);
  const Status status = ReadAndWait(*reader_, descriptor_, {&range_, 1});
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(32 * kMiB);
  EXPECT_EQ(StatsOf(*reader_, PathKind::kTcp).received_bytes, 32 * kMiB);
  EXPECT_EQ(reader_->Stats().failovers, 1u);
}

TEST_F(OverLink, LinkCutToAFraction_StillBringsEverything) {
  HM_NEEDS_LINK();
  StartWith(8 * kMiB);
  ASSERT_TRUE(AtOwner("tc qdisc add dev hmtest1 root tbf rate 400mbit burst 256k latency 50ms"));
  PendingRead read(*reader_, descriptor_, {&range_, 1});
  while (StatsOf(*reader_, PathKind::kTcp).received_bytes == 0) std::this_thread::yield();
  ASSERT_TRUE(AtOwner("tc qdisc change dev hmtest1 root tbf rate 100mbit burst 256k latency 50ms"));
  const Status status = read.Wait();
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(8 * kMiB);
}

TEST_F(OverLink, QueueThatDropsMost_StillBringsEverything) {
  HM_NEEDS_LINK();
  // Room for a few packets at a time: many are lost and sent again.
  StartWith(4 * kMiB);
  ASSERT_TRUE(AtOwner("tc qdisc add dev hmtest1 root tbf rate 100mbit burst 8k limit 12k"));
  const Status status = ReadAndWait(*reader_, descriptor_, {&range_, 1});
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(4 * kMiB);
}

TEST_F(OverLink, SlowAndLossyLink_StillBringsEverything) {
  HM_NEEDS_LINK();
  StartWith(4 * kMiB);
  if (!AtOwner("tc qdisc add dev hmtest1 root netem delay 20ms loss 2%")) {
    GTEST_SKIP() << "this kernel has no netem, for delay and loss";
  }
  const Status status = ReadAndWait(*reader_, descriptor_, {&range_, 1});
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(4 * kMiB);
}

TEST_F(OverLink, LinkThatIsDown_EndsByTheDeadlineAndWorksOnceItIsUp) {
  HM_NEEDS_LINK();
  StartWith(32 * kMiB);
  ASSERT_TRUE(AtOwner("tc qdisc add dev hmtest1 root tbf rate 200mbit burst 256k latency 50ms"));
  PendingRead read(*reader_, descriptor_, {&range_, 1}, 1'500'000);
  while (StatsOf(*reader_, PathKind::kTcp).received_bytes == 0) std::this_thread::yield();
  ASSERT_TRUE(AtOwner("ip link set hmtest1 down"));
  const Status status = read.Wait();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kDeadlineExceeded) << status.error().message();
  ASSERT_TRUE(AtOwner("ip link set hmtest1 up"));
  const Status later = ReadAndWait(*reader_, descriptor_, {&range_, 1});
  ASSERT_TRUE(later.ok()) << later.error().message();
  ExpectArrived(32 * kMiB);
}

TEST_F(OverLink, LinkThatIsDownForAWhile_GoesOnWhereItWas) {
  HM_NEEDS_LINK();
  StartWith(32 * kMiB);
  ASSERT_TRUE(AtOwner("tc qdisc add dev hmtest1 root tbf rate 200mbit burst 256k latency 50ms"));
  PendingRead read(*reader_, descriptor_, {&range_, 1});
  while (StatsOf(*reader_, PathKind::kTcp).received_bytes == 0) std::this_thread::yield();
  ASSERT_TRUE(AtOwner("ip link set hmtest1 down"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  ASSERT_TRUE(AtOwner("ip link set hmtest1 up"));
  const Status status = read.Wait();
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(32 * kMiB);
  EXPECT_EQ(StatsOf(*reader_, PathKind::kTcp).failures, 0u);
}

TEST_F(OverLink, IdleConnectionsThatAMiddleboxForgot_AreOpenedAnewUnnoticed) {
  HM_NEEDS_LINK();
  StartWith(8 * kMiB);
  EXPECT_TRUE(ReadAndWait(*reader_, descriptor_, {&range_, 1}).ok());
  // Long enough for the probes of both ends to go unanswered.
  ASSERT_TRUE(AtOwner("ip link set hmtest1 down"));
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  ASSERT_TRUE(AtOwner("ip link set hmtest1 up"));
  const Status status = ReadAndWait(*reader_, descriptor_, {&range_, 1});
  ASSERT_TRUE(status.ok()) << status.error().message();
  ExpectArrived(8 * kMiB);
}

}  // namespace
}  // namespace halfmoon::transfer
