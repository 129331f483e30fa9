// SPDX-License-Identifier: Apache-2.0
// Copies between two processes against raw copies on the same path, one JSON line a case:
//   bench_transfer [--bytes 268435456] [--runs 7] [--slices 262144,1048576] [--connections 1,4]
//                  [--shm-slices 8388608] [--ucx-slices 8388608] [--veth] [--commit NAME]
//
// "raw" is what a program without any of our code reaches: for TCP one thread that sends from
// memory and one that receives into memory, over one connection; for shared memory one
// memcpy out of a mapped file; for UCX, which within a host copies out of the other process'
// memory, the system call that does so (process_vm_readv). Raw copies and ours take turns, so that
// what else the machine does meets both.
// --veth puts the owner into a network namespace of its own behind a pair of virtual interfaces
// (as root, with the ip program).
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/child_process.h"
#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/log.h"
#include "base/topology.h"
#include "transfer/shared_mapping.h"
#include "transfer/socket.h"
#include "transfer/transfer.h"

namespace halfmoon {
namespace {

using transfer::Address;
using transfer::PathKind;

constexpr std::string_view kOwnerHost = "10.98.76.1";
constexpr std::string_view kReaderHost = "10.98.76.2";

struct Options {
  uint64_t bytes = 256 << 20;
  int runs = 7;
  std::vector<uint32_t> tcp_slices = {64 << 10, 256 << 10, 1 << 20};
  std::vector<uint32_t> shm_slices = {1 << 20, 8 << 20};
  std::vector<uint32_t> ucx_slices = {1 << 20, 8 << 20};
  std::vector<int> connections = {1, 4};
  bool veth = false;
  std::string commit = "unknown";
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "bench_transfer: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
T Get(Result<T> result) {
  if (!result.ok()) Fail(result.error().message());
  return std::move(result).value();
}

void Shell(const std::string& command) {
  if (std::system(command.c_str()) != 0) Fail("failed: " + command);
}

/// Memory in a memory file, every page of it touched.
struct Memory {
  explicit Memory(uint64_t size)
      : file(memfd_create("halfmoon-bench", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) Fail("memory file");
    void* const start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (start == MAP_FAILED) Fail("memory file: cannot be mapped");
    bytes = {static_cast<std::byte*>(start), size};
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 2654435761 >> 13);
  }
  FileDescriptor file;
  std::span<std::byte> bytes;  // stays mapped until the process ends
};

/// Sends or receives all of `bytes`, waiting where it has to.
void MoveAll(int fd, std::span<std::byte> bytes, bool send) {
  while (!bytes.empty()) {
    const size_t step = std::min<size_t>(bytes.size(), 1 << 20);
    const ssize_t moved =
        send ? ::send(fd, bytes.data(), step, MSG_NOSIGNAL) : ::recv(fd, bytes.data(), step, 0);
    if (moved < 0 && errno == EAGAIN) {
      pollfd ready = {.fd = fd, .events = static_cast<short>(send ? POLLOUT : POLLIN)};
      ::poll(&ready, 1, -1);
      continue;
    }
    if (moved <= 0) Fail("raw copy: the other end is gone");
    bytes = bytes.subspan(static_cast<size_t>(moved));
  }
}

/// Copies from another process' memory.
void ReadProcess(pid_t pid, uint64_t from, std::span<std::byte> target) {
  while (!target.empty()) {
    const iovec local = {.iov_base = target.data(), .iov_len = target.size()};
    const iovec remote = {.iov_base = reinterpret_cast<void*>(from), .iov_len = target.size()};
    const ssize_t count = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (count <= 0) Fail("raw copy: process_vm_readv");
    from += static_cast<uint64_t>(count);
    target = target.subspan(static_cast<size_t>(count));
  }
}

/// The owner's process: registers the memory, says its descriptor, and sends raw copies to whoever
/// writes a byte to the raw port.
int OwnerMain(const Options& options, uint32_t slice_bytes, std::string_view path) {
  const std::string host = options.veth ? std::string(kOwnerHost) : "127.0.0.1";
  if (options.veth) {
    // The other side moves the interface in here.
    if (unshare(CLONE_NEWNET) != 0) Fail("a network namespace (as root?)");
    std::puts("ready");
    std::fflush(stdout);
    std::string line(100, '\0');
    if (std::fgets(line.data(), 100, stdin) == nullptr) return 1;
    Shell("ip addr add " + host + "/24 dev hmbench1 && ip link set hmbench1 up");
  }
  Memory memory(options.bytes);
  transfer::TransferOptions start = {.host = host, .token = "bench", .slice_bytes = slice_bytes};
  start.allow_shared_memory = path == "shm";
  start.allow_ucx = path == "ucx";
  auto engine = Get(transfer::StartTransfer(start));
  auto segment = Get(engine->Register(memory.bytes, {.memory_file = memory.file.get()}));
  const FileDescriptor listener = Get(transfer::ListenTcp(Get(transfer::LookUp(host, 0))));
  std::printf("%s %s %llu\n", segment->descriptor().c_str(),
              Get(transfer::BoundAddress(listener.get())).ToText().c_str(),
              static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(memory.bytes.data())));
  std::fflush(stdout);
  pollfd ready = {.fd = listener.get(), .events = POLLIN};
  ::poll(&ready, 1, -1);
  const FileDescriptor peer(::accept(listener.get(), nullptr, nullptr));
  for (char byte = 0; ::recv(peer.get(), &byte, 1, 0) == 1;)
    MoveAll(peer.get(), memory.bytes, true);
  return 0;
}

struct Case {
  std::string path;
  uint32_t slice_bytes = 0;
  int connections = 1;
};

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double Spread(std::vector<double> values) {
  std::ranges::sort(values);
  return (values.back() - values.front()) / Median(values);
}

/// Seconds that each took.
struct Times {
  std::vector<double> ours;
  std::vector<double> raw;
};

template <typename Body>
double SecondsOf(const Body& body) {
  const MonotonicClock clock;
  const TimeUs start_us = clock.NowUs();
  body();
  return static_cast<double>(clock.NowUs() - start_us) * 1e-6;
}

void Print(const Options& options, const Case& one, const Times& times) {
  const double gb = static_cast<double>(options.bytes) * 1e-9;
  const double ours = gb / Median(times.ours);
  const double raw = gb / Median(times.raw);
  std::printf(
      R"({"bench":"transfer","commit":"%s","cpu":"%s","path":"%s","link":"%s","slice_bytes":%u,)"
      R"("connections":%d,"bytes":%llu,"runs":%d,"gb_per_s":%.3f,"spread":%.2f,"raw_gb_per_s":%.3f,)"
      R"("raw_spread":%.2f,"share_of_raw":%.2f})"
      "\n",
      options.commit.c_str(), CpuName().c_str(), one.path.c_str(),
      options.veth ? "veth" : "loopback", one.slice_bytes, one.connections,
      static_cast<unsigned long long>(options.bytes), options.runs, ours, Spread(times.ours), raw,
      Spread(times.raw), ours / raw);
  std::fflush(stdout);
}

ChildProcess StartOwner(const Options& options, const Case& one) {
  ChildProcess owner = Get(ChildProcess::Fork(
      {.name = "owner"}, [&] { return OwnerMain(options, one.slice_bytes, one.path); }));
  if (!options.veth) return owner;
  Get(owner.ReadLine(10'000'000));
  Shell("ip link add hmbench0 type veth peer name hmbench1 netns " + std::to_string(owner.pid()));
  Shell("ip addr add " + std::string(kReaderHost) + "/24 dev hmbench0 && ip link set hmbench0 up");
  const Status told = owner.WriteLine("up");
  if (!told.ok()) Fail(told.error().message());
  return owner;
}

void RunCase(const Options& options, const Case& one) {
  ChildProcess owner = StartOwner(options, one);
  const std::string line = Get(owner.ReadLine(60'000'000));
  std::istringstream words(line);
  std::string descriptor;
  std::string raw_address;
  uint64_t owner_memory = 0;
  words >> descriptor >> raw_address >> owner_memory;
  std::vector<std::byte> target(options.bytes, std::byte{1});
  auto engine = Get(transfer::StartTransfer({.token = "bench",
                                             .allow_shared_memory = one.path == "shm",
                                             .allow_tcp = one.path == "tcp",
                                             .allow_ucx = one.path == "ucx",
                                             .connections_per_peer = one.connections,
                                             .slice_bytes = std::min(one.slice_bytes, 8U << 20),
                                             .shared_memory_slice_bytes = one.slice_bytes}));
  const FileDescriptor raw = Get(transfer::ConnectTcp(Get(transfer::ParseAddress(raw_address))));
  pollfd connected = {.fd = raw.get(), .events = POLLOUT};
  ::poll(&connected, 1, 10'000);
  // The raw copy of shared memory is out of a file of this process: mapped a second time, as ours.
  const Memory source(one.path == "shm" ? options.bytes : 4096);
  if (fcntl(source.file.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) Fail("seal");
  const auto mapping = Get(transfer::SharedMapping::Map(source.file, 0, source.bytes.size()));
  auto ours = [&] {
    std::promise<Status> done;
    const transfer::ReadRange range = {.offset = 0, .target = target};
    engine->Read(descriptor, {&range, 1}, {}, [&](Status status) { done.set_value(status); });
    const Status status = done.get_future().get();
    if (!status.ok()) Fail(status.error().message());
  };
  auto raw_copy = [&] {
    if (one.path == "shm") {
      std::memcpy(target.data(), mapping->bytes().data(), target.size());
      return;
    }
    if (one.path == "ucx") return ReadProcess(owner.pid(), owner_memory, target);
    if (::send(raw.get(), "x", 1, MSG_NOSIGNAL) != 1) Fail("raw copy: the other end is gone");
    MoveAll(raw.get(), target, false);
  };
  ours();  // connects, and maps pages
  raw_copy();
  Times times;
  for (int run = 0; run < options.runs; ++run) {
    times.ours.push_back(SecondsOf(ours));
    times.raw.push_back(SecondsOf(raw_copy));
  }
  Print(options, one, times);
}

}  // namespace
}  // namespace halfmoon

int main(int argc, char** argv) {
  using namespace halfmoon;
  Options options;
  CLI::App app("Copies between two processes against raw copies on the same path");
  app.add_option("--bytes", options.bytes, "Bytes of one copy");
  app.add_option("--runs", options.runs,
                 "Copies of each kind in a case, of which the median counts");
  app.add_option("--slices", options.tcp_slices, "Slice sizes over TCP")->delimiter(',');
  app.add_option("--shm-slices", options.shm_slices, "Slice sizes over shared memory; 0: none")
      ->delimiter(',');
  app.add_option("--ucx-slices", options.ucx_slices, "Slice sizes over UCX; 0: none")
      ->delimiter(',');
  app.add_option("--connections", options.connections, "Connections to a peer")->delimiter(',');
  app.add_flag("--veth", options.veth, "TCP through virtual interfaces instead of loopback");
  app.add_option("--commit", options.commit, "Name of the commit, for the output");
  CLI11_PARSE(app, argc, argv);
  if (!InitLogging("warning").ok()) return 1;
  for (const uint32_t slice : options.tcp_slices) {
    for (const int connections : options.connections) {
      if (slice > 0)
        RunCase(options, {.path = "tcp", .slice_bytes = slice, .connections = connections});
    }
  }
  for (const uint32_t slice : options.shm_slices) {
    if (slice > 0 && !options.veth) RunCase(options, {.path = "shm", .slice_bytes = slice});
  }
  const bool has_ucx = !transfer::DescribeUcx().starts_with("none");
  for (const uint32_t slice : options.ucx_slices) {
    if (slice > 0 && has_ucx && !options.veth)
      RunCase(options, {.path = "ucx", .slice_bytes = slice});
  }
  return 0;
}
