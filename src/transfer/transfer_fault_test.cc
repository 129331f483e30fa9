// SPDX-License-Identifier: Apache-2.0
// What goes wrong with connections, paths and bytes, with both ends in this process.
#include <fcntl.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>

#include "transfer/engine_for_test.h"
#include "transfer/proxy_for_test.h"
#include "transfer/shared_mapping.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {
namespace {

using ::testing::HasSubstr;

constexpr size_t kMiB = 1 << 20;

std::string TcpAddressOf(const std::string& descriptor) {
  return Descriptor::Parse(descriptor).value().address(PathKind::kTcp);
}

class OverProxy : public ::testing::Test {
 protected:
  void StartWith(size_t bytes, TransferOptions owner = {}, TransferOptions reader = {}) {
    memory_ = std::make_unique<SharedMemory>(bytes);
    reader.slice_bytes = 256 << 10;  // several slices, and so connections, for a few MiB
    owner_ = StartEngine(owner);
    reader_ = StartEngine(reader);
    segment_ = RegisterMemory(*owner_, *memory_);
    proxy_ = std::make_unique<Proxy>(TcpAddressOf(segment_->descriptor()));
  }
  std::string Descriptor() const { return proxy_->Through(segment_->descriptor()); }

  std::unique_ptr<SharedMemory> memory_;
  std::unique_ptr<TransferEngine> owner_;
  std::unique_ptr<TransferEngine> reader_;
  std::unique_ptr<Segment> segment_;
  std::unique_ptr<Proxy> proxy_;
};

TEST_F(OverProxy, ConnectionsDroppedWhileIdle_AreOpenedAnewUnnoticed) {
  StartWith(8 * kMiB);
  for (const bool reset : {false, true, false, true}) {
    EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
    EXPECT_GT(proxy_->connections(), 1);
    proxy_->CutAll(reset);
  }
  EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
  EXPECT_EQ(StatsOf(*reader_, PathKind::kTcp).failures, 0u);
}

TEST_F(OverProxy, ConnectionsThatKeepBreaking_StillBringEverything) {
  StartWith(24 * kMiB);
  proxy_->CutAfter(kMiB);
  EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
  EXPECT_GE(proxy_->connections(), 24);
  // What has arrived is not read again, but for the slice on its way.
  EXPECT_EQ(StatsOf(*reader_, PathKind::kTcp).received_bytes, memory_->bytes().size());
}

TEST_F(OverProxy, ConnectionsThatBringNothing_AreUnavailable) {
  StartWith(kMiB);
  // The handshake is through, and a reply is cut short.
  for (const uint64_t bytes :
       {kHelloBytes - 1, kHelloBytes + kVerdictBytes, kHelloBytes + kVerdictBytes + kReplyBytes - 1,
        kHelloBytes + kVerdictBytes + kReplyBytes + 1000}) {
    proxy_->CutAfter(bytes);
    std::vector<std::byte> copy(memory_->bytes().size());
    const ReadRange range = {.offset = 0, .target = copy};
    const Status status = ReadAndWait(*reader_, Descriptor(), {&range, 1});
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
    EXPECT_THAT(status.error().message(), HasSubstr("tcp 127.0.0.1:"));
  }
  proxy_->CutAfter(UINT64_MAX);
  EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
}

TEST_F(OverProxy, SilentPeer_EndsByTheDeadlineAndWorksLater) {
  StartWith(32 * kMiB);
  proxy_->Stall(true);
  std::vector<std::byte> copy(memory_->bytes().size());
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader_, Descriptor(), {&range, 1}, 200'000);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(status.error().message(), HasSubstr("tcp 127.0.0.1:"));
  EXPECT_THAT(status.error().message(), HasSubstr("1 of 1 ranges"));
  proxy_->Stall(false);
  EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
}

TEST_F(OverProxy, SlowPeer_HoldsUpNobodyElse) {
  StartWith(32 * kMiB);
  EXPECT_TRUE(ReadsEqual(*reader_, Descriptor(), memory_->bytes()));
  proxy_->Stall(true);
  std::vector<std::byte> copy(memory_->bytes().size());
  const ReadRange range = {.offset = 0, .target = copy};
  PendingRead slow(*reader_, Descriptor(), {&range, 1});
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(ReadsEqual(*reader_, segment_->descriptor(), memory_->bytes()));
  }
  proxy_->Stall(false);
  EXPECT_TRUE(slow.Wait().ok());
}

TEST_F(OverProxy, TwoTransfersFromOnePeer_TakeTurns) {
  StartWith(64 * kMiB);
  std::vector<std::byte> copy(memory_->bytes().size());
  const ReadRange all = {.offset = 0, .target = copy};
  std::atomic<bool> long_done{false};
  std::promise<void> ended;
  reader_->Read(Descriptor(), {&all, 1}, {}, [&](const Status&) {
    long_done = true;
    ended.set_value();
  });
  std::vector<std::byte> small(4096);
  const ReadRange some = {.offset = 0, .target = small};
  EXPECT_TRUE(ReadAndWait(*reader_, Descriptor(), {&some, 1}).ok());
  EXPECT_FALSE(long_done);
  ended.get_future().wait();
}

class StalledReader : public OverProxy, public ::testing::WithParamInterface<ZeroCopy> {};
INSTANTIATE_TEST_SUITE_P(Transfer, StalledReader,
                         ::testing::Values(ZeroCopy::kOff, ZeroCopy::kAlways));

TEST_P(StalledReader, OfASegmentThatGoes_IsCutOff) {
  StartWith(64 * kMiB, {.zero_copy = GetParam(), .release_us = 50'000});
  proxy_->Stall(true);
  std::vector<std::byte> copy(memory_->bytes().size());
  const ReadRange range = {.offset = 0, .target = copy};
  PendingRead read(*reader_, Descriptor(), {&range, 1});
  while (proxy_->connections() == 0) std::this_thread::yield();
  proxy_->Stall(false);
  while (StatsOf(*reader_, PathKind::kTcp).received_bytes == 0) std::this_thread::yield();
  proxy_->Stall(true);
  segment_.reset();
  std::ranges::fill(memory_->bytes(), std::byte{0xee});
  proxy_->Stall(false);
  const Status status = read.Wait();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
}

TEST(Failover, SharedMemoryThatBreaks_GoesOnOverTcp) {
  std::atomic<int> slices{0};
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader = StartEngine(
      {.allow_ucx = false, .shared_memory_slice_bytes = 256 << 10, .fault = [&](PathKind path) {
         return path == PathKind::kSharedMemory && ++slices > 8 ? Fault::kBrokenPath : Fault::kNone;
       }});
  const SharedMemory memory(16 * kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
  // Missing slices only are read again.
  const uint64_t over_shm = StatsOf(*reader, PathKind::kSharedMemory).received_bytes;
  EXPECT_EQ(over_shm, 8u * (256 << 10));
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, memory.bytes().size() - over_shm);
  EXPECT_EQ(reader->Stats().failovers, 1u);
  EXPECT_EQ(StatsOf(*reader, PathKind::kSharedMemory).failures, 1u);
}

TEST(Failover, EveryPathBroken_NamesThemAll) {
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader =
      StartEngine({.fault = [](PathKind) { return Fault::kBrokenPath; }});
  const SharedMemory memory(kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  std::vector<std::byte> copy(kMiB);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, segment->descriptor(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr("shm"));
  EXPECT_THAT(status.error().message(), HasSubstr("tcp"));
  if (HasUcx()) {
    EXPECT_THAT(status.error().message(), HasSubstr("ucx"));
  }
}

TEST(Failover, WrongBytesFromSharedMemory_AreReadAgainOverTcp) {
  std::atomic<int> slices{0};
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader = StartEngine(
      {.allow_ucx = false, .shared_memory_slice_bytes = 256 << 10, .fault = [&](PathKind path) {
         return path == PathKind::kSharedMemory && ++slices == 3 ? Fault::kWrongBytes
                                                                 : Fault::kNone;
       }});
  const SharedMemory memory(16 * kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
  EXPECT_EQ(reader->Stats().failovers, 1u);
  EXPECT_EQ(StatsOf(*reader, PathKind::kSharedMemory).failures, 1u);
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, memory.bytes().size());
}

TEST(Failover, WrongBytesOfOneRange_AreReadAgainAlone) {
  std::atomic<int> slices{0};
  const std::unique_ptr<TransferEngine> owner = StartEngine();
  const std::unique_ptr<TransferEngine> reader = StartEngine(
      {.allow_shared_memory = false,
       .allow_ucx = false,
       .slice_bytes = 16 << 10,
       .fault = [&](PathKind) { return ++slices == 3 ? Fault::kWrongBytes : Fault::kNone; }});
  const SharedMemory memory(kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  std::vector<std::byte> copy(kMiB);
  std::vector<ReadRange> ranges;
  for (size_t at = 0; at < kMiB; at += 16 << 10) {
    ranges.push_back({.offset = at,
                      .target = std::span(copy).subspan(at, 16 << 10),
                      .checksum = Checksum(memory.bytes().subspan(at, 16 << 10))});
  }
  EXPECT_TRUE(ReadAndWait(*reader, segment->descriptor(), ranges).ok());
  EXPECT_TRUE(std::ranges::equal(copy, memory.bytes()));
  EXPECT_GE(StatsOf(*reader, PathKind::kTcp).failures, 1u);
}

TEST(Failover, UcxThatBreaks_GoesOnOverTcp) {
  if (!HasUcx()) GTEST_SKIP() << DescribeUcx();
  std::atomic<int> slices{0};
  const std::unique_ptr<TransferEngine> owner = StartEngine({.allow_shared_memory = false});
  const std::unique_ptr<TransferEngine> reader = StartEngine(
      {.allow_shared_memory = false,
       .shared_memory_slice_bytes = 256 << 10,
       .fault = [&](PathKind path) {
         return path == PathKind::kUcx && ++slices > 8 ? Fault::kBrokenPath : Fault::kNone;
       }});
  const SharedMemory memory(16 * kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
  const uint64_t over_ucx = StatsOf(*reader, PathKind::kUcx).received_bytes;
  EXPECT_EQ(over_ucx, 8u * (256 << 10));
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, memory.bytes().size() - over_ucx);
  EXPECT_EQ(reader->Stats().failovers, 1u);
}

// An owner over TCP alone, and one whose end of a UCX connection a test holds: proves the token and
// answers as told, but sends nothing over UCX.
class SilentUcxOwner {
 public:
  explicit SilentUcxOwner(ReplyStatus answer)
      : listener_(ListenTcp(LookUp("127.0.0.1", 0).value()).value()),
        thread_([this, answer] { Serve(answer); }) {}
  ~SilentUcxOwner() {
    stopping_ = true;
    thread_.join();
  }
  std::string address() const { return BoundAddress(listener_.get()).value().ToText(); }
  int connections() const { return connections_; }

 private:
  bool Receive(int fd, std::string* bytes, size_t wanted) {
    while (bytes->size() < wanted && !stopping_) {
      pollfd readable = {.fd = fd, .events = POLLIN};
      if (::poll(&readable, 1, 10) != 1) continue;
      std::array<char, 65536> buffer;
      const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
      if (got <= 0) return false;
      bytes->append(buffer.data(), static_cast<size_t>(got));
    }
    return !stopping_;
  }
  static void Send(int fd, std::string_view bytes) {
    const iovec piece = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
    SendMessage(fd, {&piece, 1}, 0);
  }
  void Serve(ReplyStatus answer) {
    while (!stopping_) {
      pollfd ready = {.fd = listener_.get(), .events = POLLIN};
      if (::poll(&ready, 1, 10) != 1) continue;
      const FileDescriptor peer(::accept(listener_.get(), nullptr, nullptr));
      ++connections_;
      std::string in;
      if (!Receive(peer.get(), &in, kHelloBytes)) continue;
      const Hello reader = Hello::Parse(in.substr(0, kHelloBytes)).value();
      const Hello hello = {.path = PathKind::kUcx, .nonce = {7}};
      Send(peer.get(), hello.Format());
      if (!Receive(peer.get(), &in, kHelloBytes + kProofBytes)) continue;
      in.erase(0, kHelloBytes + kProofBytes);
      const std::string proof = Proof(Role::kOwner, "a token", reader, hello).value();
      Send(peer.get(), Verdict{.accepted = true, .proof = proof}.Format());
      Request request;
      while (true) {
        const size_t used = Request::Parse(in, &request).value();
        in.erase(0, used);
        if (used == 0) {
          if (!Receive(peer.get(), &in, in.size() + 1)) break;
          continue;
        }
        const auto reply =
            Reply{.type = request.type, .status = answer, .number = request.number}.Format();
        Send(peer.get(), {reply.data(), reply.size()});
      }
    }
  }

  FileDescriptor listener_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_{0};
  std::thread thread_;
};

class UcxThatBringsNothing : public ::testing::TestWithParam<ReplyStatus> {};
INSTANTIATE_TEST_SUITE_P(Failover, UcxThatBringsNothing,
                         ::testing::Values(ReplyStatus::kOk, ReplyStatus::kNoWay));

TEST_P(UcxThatBringsNothing, GoesOnOverTcpAndIsLeftAloneForAWhile) {
  if (!HasUcx()) GTEST_SKIP() << DescribeUcx();
  SilentUcxOwner silent(GetParam());
  const std::unique_ptr<TransferEngine> owner =
      StartEngine({.allow_shared_memory = false, .allow_ucx = false});
  const std::unique_ptr<TransferEngine> reader =
      StartEngine({.allow_shared_memory = false, .silence_us = 200'000});
  const SharedMemory memory(kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  Descriptor descriptor = Descriptor::Parse(segment->descriptor()).value();
  descriptor.addresses[static_cast<size_t>(PathKind::kUcx)] = silent.address();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(ReadsEqual(*reader, descriptor.Format(), memory.bytes()));
  }
  EXPECT_EQ(StatsOf(*reader, PathKind::kTcp).received_bytes, 3 * memory.bytes().size());
  EXPECT_EQ(reader->Stats().failovers, 1u);
  EXPECT_EQ(silent.connections(), 1);
  // Nothing else is left: it is asked again.
  descriptor.addresses[static_cast<size_t>(PathKind::kTcp)].clear();
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, descriptor.Format(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(), HasSubstr("ucx"));
}

// A peer that is no engine: what it sends, and what comes back until the owner closes.
class Stranger {
 public:
  explicit Stranger(const std::string& address)
      : fd_(ConnectTcp(ParseAddress(address).value()).value()) {
    pollfd connected = {.fd = fd_.get(), .events = POLLOUT};
    EXPECT_EQ(::poll(&connected, 1, 10'000), 1);
  }
  void Send(std::string_view bytes) {
    const iovec piece = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
    EXPECT_EQ(SendMessage(fd_.get(), {&piece, 1}, 0), static_cast<ssize_t>(bytes.size()));
  }
  std::string Receive(size_t bytes) {
    std::string all;
    while (all.size() < bytes) {
      pollfd readable = {.fd = fd_.get(), .events = POLLIN};
      if (::poll(&readable, 1, 10'000) != 1) break;
      std::array<char, 4096> buffer;
      const size_t want = std::min(buffer.size(), bytes - all.size());
      const ssize_t got = ::recv(fd_.get(), buffer.data(), want, 0);
      if (got <= 0) break;
      all.append(buffer.data(), static_cast<size_t>(got));
    }
    return all;
  }
  bool IsClosed() { return Receive(1).empty(); }
  void ShakeHands(std::string_view token) {
    const Hello hello = {.path = PathKind::kTcp, .nonce = {7}};
    Send(hello.Format());
    const Hello owner = Hello::Parse(Receive(kHelloBytes)).value();
    Send(Proof(Role::kReader, token, hello, owner).value());
    EXPECT_EQ(Verdict::Parse(Receive(kVerdictBytes)).proof,
              Proof(Role::kOwner, token, hello, owner).value());
  }

 private:
  FileDescriptor fd_;
};

TEST(Owner, WhatMakesNoSense_IsCutOffAndOthersAreServed) {
  const std::unique_ptr<TransferEngine> owner = StartEngine({.connect_timeout_us = 100'000});
  const std::unique_ptr<TransferEngine> reader =
      StartEngine({.allow_shared_memory = false, .allow_ucx = false});
  const SharedMemory memory(kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  const std::string address = TcpAddressOf(segment->descriptor());
  const Descriptor descriptor = Descriptor::Parse(segment->descriptor()).value();
  Request read = {.segment = descriptor.segment,
                  .secret = descriptor.secret,
                  .pieces = {{.offset = 0, .length = 100}}};
  std::string request;
  read.AppendTo(&request);

  Stranger http(address);
  http.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n12345");
  EXPECT_TRUE(http.IsClosed());

  Stranger silent(address);  // until the time for the handshake is over
  EXPECT_TRUE(silent.IsClosed());

  // Asks without having proved anything: the request counts as the proof, and is none.
  Stranger hasty(address);
  hasty.Send(Hello{.path = PathKind::kTcp}.Format() + request);
  const std::string answer = hasty.Receive(kHelloBytes + kVerdictBytes + 1);
  ASSERT_EQ(answer.size(), kHelloBytes + kVerdictBytes);
  EXPECT_FALSE(Verdict::Parse(std::string_view(answer).substr(kHelloBytes)).accepted);

  Stranger wild(address);
  wild.ShakeHands("a token");
  wild.Send(std::string(1000, '\xff'));
  EXPECT_TRUE(wild.IsClosed());

  Stranger gone(address);  // in the middle of a request
  gone.ShakeHands("a token");
  gone.Send(std::string_view(request).substr(0, 40));

  // Leases and files are for processes of this host.
  Stranger remote(address);
  remote.ShakeHands("a token");
  for (const MessageType type : {MessageType::kOpen, MessageType::kLease}) {
    read.type = type;
    std::string bytes;
    read.AppendTo(&bytes);
    remote.Send(bytes);
    std::array<char, kReplyBytes> reply;
    const std::string received = remote.Receive(kReplyBytes);
    ASSERT_EQ(received.size(), kReplyBytes);
    std::ranges::copy(received, reply.begin());
    EXPECT_EQ(Reply::Parse(reply)->status, ReplyStatus::kNoFile);
  }
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
}

TEST(Owner, MoreConnectionsThanAllowed_ServesWithThoseItTakes) {
  const std::unique_ptr<TransferEngine> owner = StartEngine({.max_connections = 1});
  const std::unique_ptr<TransferEngine> reader =
      StartEngine({.allow_shared_memory = false, .allow_ucx = false});
  const SharedMemory memory(32 * kMiB);
  const std::unique_ptr<Segment> segment = RegisterMemory(*owner, memory);
  EXPECT_TRUE(ReadsEqual(*reader, segment->descriptor(), memory.bytes()));
}

// A listener that answers each connection with the same bytes.
std::string ErrorOfAnswer(const std::string& answer) {
  const FileDescriptor listener = ListenTcp(LookUp("127.0.0.1", 0).value()).value();
  std::atomic<bool> stopping{false};
  std::thread server([&] {
    std::list<FileDescriptor> open;
    while (!stopping) {
      pollfd ready = {.fd = listener.get(), .events = POLLIN};
      if (::poll(&ready, 1, 10) != 1) continue;
      open.emplace_back(::accept(listener.get(), nullptr, nullptr));
      const iovec piece = {.iov_base = const_cast<char*>(answer.data()), .iov_len = answer.size()};
      SendMessage(open.back().get(), {&piece, 1}, 0);
    }
  });
  Descriptor descriptor = {.size_bytes = 100};
  descriptor.addresses[static_cast<size_t>(PathKind::kTcp)] =
      BoundAddress(listener.get()).value().ToText();
  const std::unique_ptr<TransferEngine> reader = StartEngine();
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, descriptor.Format(), {&range, 1});
  stopping = true;
  server.join();
  if (status.ok()) return "";
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  return status.error().message();
}

TEST(Reader, PeerThatIsSomethingElse_IsUnavailable) {
  EXPECT_THAT(ErrorOfAnswer(std::string(500, 'x')), HasSubstr("no halfmoon transfer"));
  std::string newer = Hello{}.Format();
  newer[8] = 9;
  EXPECT_THAT(ErrorOfAnswer(newer), HasSubstr("version 9"));
  // An owner that does not know the token, but claims that ours is right.
  EXPECT_THAT(ErrorOfAnswer(Hello{}.Format() + Verdict{.accepted = true}.Format()),
              HasSubstr("token"));
}

TEST(Reader, NobodyListens_IsUnavailableAtOnce) {
  std::string address;
  {
    const FileDescriptor listener = ListenTcp(LookUp("127.0.0.1", 0).value()).value();
    address = BoundAddress(listener.get()).value().ToText();
  }
  Descriptor descriptor = {.size_bytes = 100};
  descriptor.addresses[static_cast<size_t>(PathKind::kTcp)] = address;
  descriptor.addresses[static_cast<size_t>(PathKind::kSharedMemory)] = "halfmoon-nobody";
  const std::unique_ptr<TransferEngine> reader = StartEngine();
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, descriptor.Format(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message(),
              HasSubstr("shm halfmoon-nobody: connect: Connection refused"));
  EXPECT_THAT(status.error().message(), HasSubstr("tcp " + address));
}

TEST(Reader, AddressThatIsNone_IsNamed) {
  Descriptor descriptor = {.size_bytes = 100};
  descriptor.addresses[static_cast<size_t>(PathKind::kTcp)] = "example.com:80";
  const std::unique_ptr<TransferEngine> reader = StartEngine();
  std::vector<std::byte> copy(100);
  const ReadRange range = {.offset = 0, .target = copy};
  const Status status = ReadAndWait(*reader, descriptor.Format(), {&range, 1});
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message(), HasSubstr("example.com"));
}

TEST(SharedMapping, FileThatCouldShrink_IsRefused) {
  const FileDescriptor file(memfd_create("halfmoon-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(file.get(), 8192), 0);
  EXPECT_FALSE(SharedMapping::Map(file, 0, 8192).ok());
  ASSERT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_TRUE(SharedMapping::Map(file, 0, 8192).ok());
  EXPECT_TRUE(SharedMapping::Map(file, 4096, 4096).ok());
  EXPECT_FALSE(SharedMapping::Map(file, 0, 8193).ok());
  EXPECT_FALSE(SharedMapping::Map(file, 4096, 4097).ok());
  EXPECT_FALSE(SharedMapping::Map(file, 1, 10).ok());
  EXPECT_FALSE(SharedMapping::Map(file, UINT64_MAX - 4095, 8192).ok());
  EXPECT_FALSE(SharedMapping::Map(FileDescriptor(), 0, 1).ok());
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const FileDescriptor read_end(pipes[0]);
  const FileDescriptor write_end(pipes[1]);
  EXPECT_FALSE(SharedMapping::Map(read_end, 0, 1).ok());
}

}  // namespace
}  // namespace halfmoon::transfer
