// SPDX-License-Identifier: Apache-2.0
// What tests of transfers share: memory in a memory file, engines on loopback, reads that wait.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "base/hash.h"
#include "transfer/transfer.h"
#include "transfer/ucx.h"

namespace halfmoon::transfer {

/// Random bytes in a memory file.
class SharedMemory {
 public:
  explicit SharedMemory(size_t size, uint64_t seed = 1)
      : file_(memfd_create("halfmoon-test", MFD_CLOEXEC | MFD_ALLOW_SEALING)), size_(size) {
    EXPECT_EQ(ftruncate(file_.get(), static_cast<off_t>(size)), 0);
    memory_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    EXPECT_NE(memory_, MAP_FAILED);
    // A random block again and again, each with its number: quick, and no two places are alike.
    std::vector<std::byte> block(kBlockBytes);
    std::mt19937_64 random(seed);
    for (std::byte& byte : block) byte = static_cast<std::byte>(random());
    for (size_t at = 0; at < size; at += kBlockBytes) {
      std::memcpy(block.data() + at / kBlockBytes % 512, &at, sizeof(at));
      std::memcpy(bytes().data() + at, block.data(), std::min(kBlockBytes, size - at));
    }
  }
  ~SharedMemory() { munmap(memory_, size_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(memory_), size_}; }
  int file() const { return file_.get(); }

 private:
  static constexpr size_t kBlockBytes = 4096;
  FileDescriptor file_;
  size_t size_;
  void* memory_ = nullptr;
};

/// Whether transfers over UCX can be tested here.
inline bool HasUcx() { return StartUcx().ok(); }

inline std::unique_ptr<TransferEngine> StartEngine(TransferOptions options = {}) {
  if (options.token.empty()) options.token = "a token";
  Result<std::unique_ptr<TransferEngine>> engine = StartTransfer(options);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message());
  return std::move(engine).value();
}

inline std::unique_ptr<Segment> RegisterMemory(TransferEngine& engine, const SharedMemory& memory) {
  Result<std::unique_ptr<Segment>> segment =
      engine.Register(memory.bytes(), {.memory_file = memory.file()});
  EXPECT_TRUE(segment.ok()) << (segment.ok() ? "" : segment.error().message());
  return std::move(segment).value();
}

/// A read in progress. To be waited for.
class PendingRead {
 public:
  PendingRead(TransferEngine& engine, std::string_view descriptor,
              std::span<const ReadRange> ranges, TimeUs timeout_us = 30'000'000)
      : engine_(engine) {
    id_ = engine.Read(descriptor, ranges, {.timeout_us = timeout_us},
                      [this](Status status) { done_.set_value(std::move(status)); });
  }
  Status Wait() { return done_.get_future().get(); }
  void Cancel() { engine_.Cancel(id_); }

 private:
  TransferEngine& engine_;
  TransferId id_{};
  std::promise<Status> done_;
};

inline Status ReadAndWait(TransferEngine& engine, std::string_view descriptor,
                          std::span<const ReadRange> ranges, TimeUs timeout_us = 30'000'000) {
  return PendingRead(engine, descriptor, ranges, timeout_us).Wait();
}

/// Reads all of the segment; true where it is bit for bit `expected`.
inline ::testing::AssertionResult ReadsEqual(TransferEngine& engine, std::string_view descriptor,
                                             std::span<const std::byte> expected) {
  std::vector<std::byte> copy(expected.size());
  const ReadRange range = {.offset = 0, .target = copy, .checksum = Checksum(expected)};
  const Status status = ReadAndWait(engine, descriptor, {&range, 1});
  if (!status.ok()) return ::testing::AssertionFailure() << status.error().message();
  if (std::memcmp(copy.data(), expected.data(), expected.size()) != 0) {
    return ::testing::AssertionFailure() << "other bytes";
  }
  return ::testing::AssertionSuccess();
}

inline TransferStats::Path StatsOf(const TransferEngine& engine, PathKind kind) {
  return engine.Stats().paths[static_cast<size_t>(kind)];
}

/// True once the engine has sent just so many bytes. A sender counts after its system call, which
/// may be after the reader has them all.
inline ::testing::AssertionResult SendsEventually(const TransferEngine& engine, PathKind kind,
                                                  uint64_t bytes) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (StatsOf(engine, kind).sent_bytes < bytes && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const uint64_t sent = StatsOf(engine, kind).sent_bytes;
  if (sent != bytes) return ::testing::AssertionFailure() << sent << " bytes sent, not " << bytes;
  return ::testing::AssertionSuccess();
}

}  // namespace halfmoon::transfer
