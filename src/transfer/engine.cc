// SPDX-License-Identifier: Apache-2.0
// The engine: one loop, the owner's and the reader's end on it, and what other threads see of them.
#include <atomic>
#include <future>
#include <limits>

#include "base/check.h"
#include "base/log.h"
#include "transfer/counters.h"
#include "transfer/event_loop.h"
#include "transfer/owner.h"
#include "transfer/reader.h"
#include "transfer/segment_table.h"
#include "transfer/ucx.h"
#include "transfer/workers.h"

namespace halfmoon::transfer {

namespace {

class Engine final : public TransferEngine {
 public:
  explicit Engine(const TransferOptions& options) : options_(options) {}
  ~Engine() override;
  Status Start();
  Status LoadUcx();

  Result<std::unique_ptr<Segment>> Register(std::span<std::byte> memory,
                                            const SegmentOptions& options) override;
  TransferId Read(std::string_view descriptor, std::span<const ReadRange> ranges,
                  const ReadOptions& options, std::function<void(Status)> done) override;
  void Cancel(TransferId id) override;
  TransferStats Stats() const override;
  std::string Describe() const override;

 private:
  friend class RegisteredSegment;
  void Unregister(uint64_t segment);

  const TransferOptions options_;
  MonotonicClock machine_clock_;
  Counters counters_;
  SegmentTable segments_;
  std::atomic<uint64_t> next_transfer_{1};
  std::unique_ptr<Ucx> ucx_;  // null where there is none
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Owner> owner_;
  std::unique_ptr<Reader> reader_;
};

class RegisteredSegment final : public Segment {
 public:
  RegisteredSegment(Engine* engine, Descriptor descriptor)
      : engine_(engine), descriptor_(std::move(descriptor)) {}
  ~RegisteredSegment() override { engine_->Unregister(descriptor_.segment); }
  std::string descriptor() const override { return descriptor_.Format(); }

 private:
  Engine* const engine_;
  const Descriptor descriptor_;
};

Status Engine::Start() {
  HM_ASSIGN(loop_, EventLoop::Create(options_.clock != nullptr ? options_.clock : &machine_clock_));
  workers_ = std::make_unique<Workers>(options_.worker_threads);
  if (options_.allow_ucx) HM_TRY(LoadUcx());
  HM_ASSIGN(owner_, Owner::Create({.loop = loop_.get(),
                                   .segments = &segments_,
                                   .counters = &counters_,
                                   .ucx = ucx_.get(),
                                   .options = options_}));
  reader_ = std::make_unique<Reader>(PathContext{.loop = loop_.get(),
                                                 .counters = &counters_,
                                                 .workers = workers_.get(),
                                                 .options = &options_,
                                                 .ucx = ucx_.get()});
  loop_->Start();
  return {};
}

Status Engine::LoadUcx() {
  Result<std::unique_ptr<Ucx>> ucx = StartUcx();
  if (ucx.ok()) {
    ucx_ = std::move(ucx).value();
    return {};
  }
  const bool absent = ucx.error().code() == ErrorCode::kUnsupported;
  if (!options_.allow_tcp && !options_.allow_shared_memory) return ucx.error();
  if (!absent) HM_LOG_WARN("transfer: goes without UCX: {}", ucx.error().message());
  return {};
}

Engine::~Engine() {
  if (reader_ == nullptr) return;  // has never started
  HM_CHECK(segments_.size() == 0, "a transfer engine goes while memory is registered with it");
  std::promise<void> ended;
  loop_->Post([&] { reader_->CancelAll([&] { ended.set_value(); }); });
  ended.get_future().wait();
  loop_->Stop();
  reader_.reset();
  owner_.reset();
}

Result<std::unique_ptr<Segment>> Engine::Register(std::span<std::byte> memory,
                                                  const SegmentOptions& options) {
  if (memory.empty()) {
    return Error(ErrorCode::kInvalidArgument, "a segment of no bytes is registered");
  }
  HM_ASSIGN(const SegmentTable::Entry entry,
            segments_.Add(memory, options.memory_file, options.memory_file_offset));
  Descriptor descriptor = {
      .segment = entry.segment, .size_bytes = memory.size(), .secret = entry.secret};
  for (size_t i = 0; i < kNumPaths; ++i) {
    const auto kind = static_cast<PathKind>(i);
    if (kind == PathKind::kSharedMemory && options.memory_file < 0) continue;
    descriptor.addresses[i] = owner_->address(kind);
  }
  return std::unique_ptr<Segment>(std::make_unique<RegisteredSegment>(this, std::move(descriptor)));
}

void Engine::Unregister(uint64_t segment) {
  HM_CHECK(!loop_->OnThread(), "a segment goes on the thread that it would wait for");
  if (!segments_.Close(segment, options_.release_us)) {
    loop_->Post([this, segment] { owner_->Cut(segment); });
    // What is cut off is let go of in bounded time.
    const bool released = segments_.Close(segment, std::numeric_limits<int32_t>::max());
    HM_CHECK(released, "memory of a segment is still being sent after its connections were cut");
  }
  segments_.Remove(segment);
  loop_->Post([this, segment] { owner_->TellGone(segment); });
}

TransferId Engine::Read(std::string_view text, std::span<const ReadRange> ranges,
                        const ReadOptions& options, std::function<void(Status)> done) {
  const auto id = static_cast<TransferId>(next_transfer_++);
  ++counters_.reads;
  Status status;
  if (++counters_.active > options_.max_transfers) {
    status = Error(ErrorCode::kResourceExhausted,
                   "more than " + std::to_string(options_.max_transfers) + " transfers at once");
  }
  Result<Descriptor> descriptor = Descriptor::Parse(text);
  if (status.ok() && !descriptor.ok()) status = descriptor.error();
  auto job = std::make_unique<Job>(
      id, descriptor.ok() ? std::move(descriptor).value() : Descriptor{}, std::move(done));
  if (status.ok()) status = job->SetRanges(ranges);
  // std::function wants what it holds to be copied.
  auto shared = std::make_shared<std::unique_ptr<Job>>(std::move(job));
  loop_->Post([this, shared, status, timeout_us = options.timeout_us] {
    reader_->Start(std::move(*shared), status, timeout_us);
  });
  return id;
}

void Engine::Cancel(TransferId id) {
  loop_->Post([this, id] { reader_->Cancel(id); });
}

TransferStats Engine::Stats() const {
  TransferStats stats = {.reads = counters_.reads,
                         .failed_reads = counters_.failed_reads,
                         .failovers = counters_.failovers,
                         .active = counters_.active};
  for (size_t i = 0; i < kNumPaths; ++i) {
    const Counters::Path& path = counters_.paths[i];
    stats.paths.push_back({.name = std::string(PathName(static_cast<PathKind>(i))),
                           .sent_bytes = path.sent_bytes,
                           .received_bytes = path.received_bytes,
                           .failures = path.failures});
  }
  return stats;
}

std::string Engine::Describe() const {
  std::string text;
  const std::string& tcp = owner_->address(PathKind::kTcp);
  if (!tcp.empty()) text += "tcp " + tcp;
  if (!owner_->address(PathKind::kSharedMemory).empty()) text += text.empty() ? "shm" : ", shm";
  if (ucx_ != nullptr) {
    text += (text.empty() ? "" : ", ") + std::string("ucx ") + owner_->address(PathKind::kUcx) +
            " (" + ucx_->version() + ": " + ucx_->transports() + ")";
  }
  return text;
}

Status CheckOptions(const TransferOptions& options) {
  auto check = [](std::string_view name, int64_t value, int64_t least, int64_t most) -> Status {
    if (value >= least && value <= most) return {};
    return Error(ErrorCode::kInvalidArgument,
                 "transfer: " + std::string(name) + " is " + std::to_string(value) + ", not " +
                     std::to_string(least) + " to " + std::to_string(most));
  };
  if (!options.allow_tcp && !options.allow_shared_memory && !options.allow_ucx) {
    return Error(ErrorCode::kInvalidArgument, "transfer: no path is allowed");
  }
  constexpr int64_t kHourUs = 3'600'000'000;
  HM_TRY(check("port", options.port, 0, 65535));
  HM_TRY(check("connections_per_peer", options.connections_per_peer, 1, 64));
  HM_TRY(check("slice_bytes", options.slice_bytes, 16 << 10, 8 << 20));
  HM_TRY(check("shared_memory_slice_bytes", options.shared_memory_slice_bytes, 16 << 10, 64 << 20));
  HM_TRY(check("worker_threads", options.worker_threads, 1, 64));
  HM_TRY(check("max_connections", options.max_connections, 1, 65536));
  HM_TRY(check("max_transfers", options.max_transfers, 1, 1 << 20));
  HM_TRY(check("silence_us", options.silence_us, 100'000, kHourUs));
  HM_TRY(check("connect_timeout_us", options.connect_timeout_us, 1'000, kHourUs));
  HM_TRY(check("idle_us", options.idle_us, 1'000, kHourUs));
  HM_TRY(check("release_us", options.release_us, 0, kHourUs));
  return {};
}

}  // namespace

std::string DescribeUcx() {
  const Result<std::unique_ptr<Ucx>> ucx = StartUcx();
  if (!ucx.ok()) return "none: " + ucx.error().message();
  return "UCX " + (*ucx)->version() + " (" + (*ucx)->transports() + ")";
}

Result<std::unique_ptr<TransferEngine>> StartTransfer(const TransferOptions& options) {
  HM_TRY(CheckOptions(options));
  auto engine = std::make_unique<Engine>(options);
  HM_TRY(engine->Start());
  return std::unique_ptr<TransferEngine>(std::move(engine));
}

}  // namespace halfmoon::transfer
