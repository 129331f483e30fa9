// SPDX-License-Identifier: Apache-2.0
// Reads between two engines of this process, over every path.
#include "transfer/transfer.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <thread>

#include "transfer/descriptor.h"
#include "transfer/engine_for_test.h"

namespace halfmoon::transfer {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Way {
  const char* name;
  PathKind kind;
  ZeroCopy zero_copy;
};

class EveryPath : public ::testing::TestWithParam<Way> {
 protected:
  static TransferOptions Options() {
    return {.allow_shared_memory = GetParam().kind == PathKind::kSharedMemory,
            .allow_tcp = GetParam().kind == PathKind::kTcp,
            .allow_ucx = GetParam().kind == PathKind::kUcx,
            .zero_copy = GetParam().zero_copy};
  }
  std::unique_ptr<TransferEngine> owner_ = StartEngine(Options());
  std::unique_ptr<TransferEngine> reader_ = StartEngine(Options());
};

std::vector<Way> Ways() {
  std::vector<Way> ways = {{"Shm", PathKind::kSharedMemory, ZeroCopy::kOff},
                           {"Tcp", PathKind::kTcp, ZeroCopy::kOff},
                           {"TcpZeroCopy", PathKind::kTcp, ZeroCopy::kAlways},
                           {"TcpZeroCopyIfWorthIt", PathKind::kTcp, ZeroCopy::kToOtherHosts}};
  if (HasUcx()) ways.push_back({"Ucx", PathKind::kUcx, ZeroCopy::kOff});
  return ways;
}

INSTANTIATE_TEST_SUITE_P(Transfer, EveryPath, ::testing::ValuesIn(Ways()),
                         [](const auto& way) { return way.param.name; });

TEST_P(EveryPath, WholeSegment_ArrivesBitForBit) {
  const SharedMemory memory(9'000'001);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  EXPECT_TRUE(ReadsEqual(*reader_, segment->descriptor(), memory.bytes()));
  EXPECT_EQ(StatsOf(*reader_, GetParam().kind).received_bytes, memory.bytes().size());
  EXPECT_TRUE(SendsEventually(*owner_, GetParam().kind, memory.bytes().size()));
  EXPECT_EQ(reader_->Stats().reads, 1u);
  EXPECT_EQ(reader_->Stats().failed_reads, 0u);
  EXPECT_EQ(reader_->Stats().active, 0);
}

TEST_P(EveryPath, RandomRanges_ArriveBitForBit) {
  const SharedMemory memory(3 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    // Ends of the segment, nothing at all, and all sizes on the way.
    std::vector<std::vector<std::byte>> copies;
    std::vector<ReadRange> ranges;
    const size_t count = random() % 40;
    copies.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t offset = random() % (memory.bytes().size() + 1);
      const uint64_t left = memory.bytes().size() - offset;
      const uint64_t size = std::min<uint64_t>(left, random() % (1 << (random() % 22)));
      copies.emplace_back(size);
      ranges.push_back({.offset = offset, .target = copies.back()});
      if (random() % 2 == 0)
        ranges.back().checksum = Checksum(memory.bytes().subspan(offset, size));
    }
    const Status status = ReadAndWait(*reader_, segment->descriptor(), ranges);
    ASSERT_TRUE(status.ok()) << status.error().message();
    for (size_t i = 0; i < count; ++i) {
      ASSERT_TRUE(std::ranges::equal(copies[i],
                                     memory.bytes().subspan(ranges[i].offset, copies[i].size())));
    }
  }
}

TEST_P(EveryPath, TenThousandSmallRanges_ArriveBitForBit) {
  constexpr size_t kCount = 10'000;
  constexpr size_t kBytes = 333;
  const SharedMemory memory(kCount * kBytes);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::vector<std::byte> copy(memory.bytes().size());
  std::vector<ReadRange> ranges;
  for (size_t i = 0; i < kCount; ++i) {
    const size_t from = (i * 7919) % kCount;
    ranges.push_back({.offset = from * kBytes,
                      .target = std::span(copy).subspan(i * kBytes, kBytes),
                      .checksum = Checksum(memory.bytes().subspan(from * kBytes, kBytes))});
  }
  const Status status = ReadAndWait(*reader_, segment->descriptor(), ranges);
  EXPECT_TRUE(status.ok()) << status.error().message();
}

TEST_P(EveryPath, ManyReadersAtOnce_AllGetTheirBytes) {
  const SharedMemory memory(1 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([&] {
      const std::unique_ptr<TransferEngine> reader = StartEngine(Options());
      for (int round = 0; round < 5; ++round) {
        EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST_P(EveryPath, ManyTransfersAtOnce_AllGetTheirBytes) {
  const SharedMemory memory(64 << 10);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::vector<std::vector<std::byte>> copies(200, std::vector<std::byte>(memory.bytes().size()));
  std::vector<std::unique_ptr<PendingRead>> reads;
  for (std::vector<std::byte>& copy : copies) {
    const ReadRange range = {.offset = 0, .target = copy};
    reads.push_back(
        std::make_unique<PendingRead>(*reader_, segment->descriptor(), std::span(&range, 1)));
  }
  for (const auto& read : reads) EXPECT_TRUE(read->Wait().ok());
  for (const auto& copy : copies) EXPECT_TRUE(std::ranges::equal(copy, memory.bytes()));
}

TEST_P(EveryPath, SegmentGone_IsUnavailable) {
  const SharedMemory memory(1 << 20);
  std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  const std::string descriptor = segment->descriptor();
  EXPECT_TRUE(ReadsEqual(*reader_, descriptor, memory.bytes()));
  segment.reset();
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader_, descriptor, {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr("gone"));
  // The connection is as good as before.
  segment = RegisterMemory(*owner_, memory);
  EXPECT_TRUE(ReadsEqual(*reader_, segment->descriptor(), memory.bytes()));
}

TEST_P(EveryPath, WrongSecret_IsUnavailable) {
  const SharedMemory memory(1 << 16);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  Descriptor descriptor = Descriptor::Parse(segment->descriptor()).value();
  descriptor.secret[3] = static_cast<char>(descriptor.secret[3] ^ 1);
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader_, descriptor.Format(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_EQ(StatsOf(*owner_, GetParam().kind).sent_bytes, 0u);
}

TEST_P(EveryPath, WrongToken_IsUnavailable) {
  const SharedMemory memory(1 << 16);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  TransferOptions options = Options();
  options.token = "another token";
  const std::unique_ptr<TransferEngine> stranger = StartEngine(options);
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*stranger, segment->descriptor(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr("token"));
}

TEST_P(EveryPath, DescriptorThatPromisesMore_IsRefusedByTheOwner) {
  const SharedMemory memory(1 << 16);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  Descriptor descriptor = Descriptor::Parse(segment->descriptor()).value();
  descriptor.size_bytes *= 2;
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = (1 << 16) - 50, .target = copy};
  const Status status = ReadAndWait(*reader_, descriptor.Format(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
}

TEST_P(EveryPath, WrongChecksum_IsCorruptAfterASecondRead) {
  const SharedMemory memory(1 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::vector<std::byte> copy(memory.bytes().size());
  const std::vector<ReadRange> ranges = {
      {.offset = 0, .target = std::span(copy).first(10)},
      {.offset = 10, .target = std::span(copy).subspan(10), .checksum = 42}};
  const Status status = ReadAndWait(*reader_, segment->descriptor(), ranges);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kCorrupt);
  EXPECT_THAT(status.error().message(), HasSubstr("range 1 (1048566 bytes at 10)"));
  EXPECT_EQ(StatsOf(*reader_, GetParam().kind).failures, 2u);
  EXPECT_EQ(StatsOf(*reader_, GetParam().kind).received_bytes, 2 * memory.bytes().size() - 10);
}

TEST_P(EveryPath, Cancel_EndsTheTransferAndLeavesTheTarget) {
  const SharedMemory memory(24 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::byte> copy(memory.bytes().size());
    const ReadRange range = {.offset = 0, .target = copy};
    PendingRead read(*reader_, segment->descriptor(), {&range, 1});
    read.Cancel();
    const Status status = read.Wait();
    // As it would have ended, where it was quick.
    if (!status.ok()) {
      EXPECT_EQ(status.error().code(), ErrorCode::kCancelled);
    }
    const uint64_t sum = Checksum(copy);
    EXPECT_TRUE(ReadsEqual(*reader_, segment->descriptor(), memory.bytes()));
    EXPECT_EQ(Checksum(copy), sum) << "the target was written to after the end";
  }
}

TEST_P(EveryPath, EngineThatGoes_CancelsItsReads) {
  const SharedMemory memory(32 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
  std::vector<std::byte> copy(memory.bytes().size());
  const ReadRange range = {.offset = 0, .target = copy};
  PendingRead read(*reader_, segment->descriptor(), {&range, 1});
  reader_.reset();
  const Status status = read.Wait();
  if (!status.ok()) {
    EXPECT_EQ(status.error().code(), ErrorCode::kCancelled);
  }
}

TEST_P(EveryPath, SegmentsThatComeAndGo_NeverGiveOtherBytes) {
  // What a segment's memory is used for next must not reach a reader of it.
  const SharedMemory memory(8 << 20);
  const uint64_t sum = Checksum(memory.bytes());
  TransferOptions options = Options();
  options.slice_bytes = 16 << 10;
  options.shared_memory_slice_bytes = 16 << 10;
  const std::unique_ptr<TransferEngine> reader = StartEngine(options);
  std::vector<std::byte> original(memory.bytes().begin(), memory.bytes().end());
  int whole = 0;
  for (int round = 0; round < 30; ++round) {
    std::unique_ptr<Segment> segment = RegisterMemory(*owner_, memory);
    std::vector<std::byte> copy(memory.bytes().size());
    const ReadRange range = {.offset = 0, .target = copy};
    PendingRead read(*reader, segment->descriptor(), {&range, 1});
    std::this_thread::sleep_for(std::chrono::microseconds(round * 150));
    segment.reset();
    std::ranges::fill(memory.bytes(), std::byte{0xee});
    const Status status = read.Wait();
    std::ranges::copy(original, memory.bytes().begin());
    if (!status.ok()) {
      EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable) << status.error().message();
      continue;
    }
    ++whole;
    EXPECT_EQ(Checksum(copy), sum);
  }
  EXPECT_LT(whole, 30);
}

TEST(Transfer, NoRanges_IsDone) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const SharedMemory memory(4096);
  const std::unique_ptr<Segment> segment = RegisterMemory(*engine, memory);
  EXPECT_TRUE(ReadAndWait(*engine, segment->descriptor(), {}).ok());
}

TEST(Transfer, OwnSegment_CanBeRead) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const SharedMemory memory(1 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*engine, memory);
  EXPECT_TRUE(ReadsEqual(*engine, segment->descriptor(), memory.bytes()));
}

TEST(Transfer, RangeOutsideOfTheSegment_IsNamed) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const SharedMemory memory(4096);
  const std::unique_ptr<Segment> segment = RegisterMemory(*engine, memory);
  std::vector<std::byte> copy(100);
  for (const uint64_t offset : {uint64_t{3997}, uint64_t{4097}, UINT64_MAX, UINT64_MAX - 50}) {
    const std::vector<ReadRange> ranges = {{.offset = 0, .target = copy},
                                           {.offset = offset, .target = copy}};
    const Status status = ReadAndWait(*engine, segment->descriptor(), ranges);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(status.error().message(), HasSubstr("range 1"));
  }
}

TEST(Transfer, NoDescriptor_IsInvalid) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const Status status = ReadAndWait(*engine, "nonsense", {});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(engine->Stats().failed_reads, 1u);
}

TEST(Transfer, NoPathInCommon_IsUnavailable) {
  const std::unique_ptr<TransferEngine> owner =
      StartEngine({.allow_shared_memory = false, .allow_ucx = false});
  const std::unique_ptr<TransferEngine> reader =
      StartEngine({.allow_tcp = false, .allow_ucx = false});
  const SharedMemory memory(4096);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, segment->descriptor(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr("no path"));
}

TEST(Transfer, TooManyTransfers_AreRefused) {
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader = StartEngine({.max_transfers = 1});
  const SharedMemory memory(32 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  std::vector<std::byte> copy(memory.bytes().size());
  const ReadRange range = {.offset = 0, .target = copy};
  PendingRead first(*reader, segment->descriptor(), {&range, 1});
  const Status second = ReadAndWait(*reader, segment->descriptor(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kResourceExhausted);
  EXPECT_TRUE(first.Wait().ok());
}

TEST(Transfer, BothPaths_PrefersSharedMemory) {
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader = StartEngine();
  const SharedMemory memory(1 << 20);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
  EXPECT_EQ(StatsOf(*reader, PathKind::kSharedMemory).received_bytes, memory.bytes().size());
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, 0u);
  EXPECT_THAT(owner->Describe(), StartsWith("tcp 127.0.0.1:"));
  EXPECT_THAT(owner->Describe(), HasSubstr("shm"));
}

TEST(Transfer, PlainMemoryWithoutUcx_GoesOverTcp) {
  const std::unique_ptr<TransferEngine> owner = StartEngine({.allow_ucx = false});
  const std::unique_ptr<TransferEngine> reader = StartEngine();
  std::vector<std::byte> memory(1 << 20, std::byte{5});
  const Result<std::unique_ptr<Segment>> segment = owner->Register(memory, {});
  ASSERT_TRUE(segment.ok());
  EXPECT_TRUE(ReadsEqual(*reader, (*segment)->descriptor(), memory));
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, memory.size());
}

TEST(Register, MemoryFileThatIsNone_IsInvalid) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const SharedMemory memory(4096);
  const FileDescriptor unsealable(memfd_create("halfmoon-test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealable.get(), 4096), 0);
  const FileDescriptor small(memfd_create("halfmoon-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const FileDescriptor read_end(pipes[0]);
  const FileDescriptor write_end(pipes[1]);
  for (const int file : {unsealable.get(), small.get(), read_end.get(), 12345}) {
    const auto segment = engine->Register(memory.bytes(), {.memory_file = file});
    ASSERT_FALSE(segment.ok());
    EXPECT_EQ(segment.error().code(), ErrorCode::kInvalidArgument);
  }
  const auto offset = engine->Register(memory.bytes().first(1),
                                       {.memory_file = memory.file(), .memory_file_offset = 7});
  EXPECT_FALSE(offset.ok());
  EXPECT_FALSE(engine->Register({}, {}).ok());
}

TEST(Register, MemoryFile_CannotShrinkAnyMore) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const SharedMemory memory(8192);
  const std::unique_ptr<Segment> segment = RegisterMemory(*engine, memory);
  EXPECT_NE(ftruncate(memory.file(), 4096), 0);
}

TEST(StartTransfer, OptionsOutOfRange_AreNamed) {
  auto message = [](TransferOptions options) {
    const auto engine = StartTransfer(options);
    return engine.ok() ? "" : engine.error().message();
  };
  EXPECT_THAT(message({.slice_bytes = 100}), HasSubstr("slice_bytes"));
  EXPECT_THAT(message({.port = 70000}), HasSubstr("port"));
  EXPECT_THAT(message({.allow_shared_memory = false, .allow_tcp = false, .allow_ucx = false}),
              HasSubstr("no path"));
  EXPECT_THAT(message({.host = "0.0.0.0"}), HasSubstr("token"));
  EXPECT_THAT(message({.host = "0.0.0.0", .token = "t"}), HasSubstr("which address"));
  EXPECT_THAT(message({.host = "no such host"}), HasSubstr("no such host"));
  // Documentation's own network (RFC 5737): no interface has it.
  EXPECT_THAT(message({.host = "192.0.2.1", .token = "t"}), HasSubstr("192.0.2.1"));
}

TEST(StartTransfer, PortInUse_IsNamed) {
  const std::unique_ptr<TransferEngine> engine = StartEngine();
  const std::string text = engine->Describe();
  const size_t colon = text.find(':');
  const auto second = StartTransfer({.port = std::stoi(text.substr(colon + 1))});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kIo);
  EXPECT_THAT(second.error().message(), HasSubstr("127.0.0.1:"));
}

}  // namespace
}  // namespace halfmoon::transfer
