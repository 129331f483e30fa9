// SPDX-License-Identifier: Apache-2.0
#include "kernels/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <vector>

#include "kernels/registry.h"
#include "tensor/tensor.h"

namespace halfmoon::kernels {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Sum over threads of each one's best operations per second. Threads run together, so they share
// what they share in real work; short bursts find the moments when nothing else runs.
double BestComputeRate(const Stream& stream, int repeats,
                       int64_t (*probe)(int64_t iterations, int32_t* result)) {
  // Wide vectors take about 0.1 ms for 20,000 iterations; the scalar loops are given fewer.
  const int64_t iterations = stream.isa() == Isa::kGeneric ? 2'000 : 20'000;
  constexpr int kBursts = 20;
  const auto threads = static_cast<size_t>(stream.pool().num_threads());
  std::vector<double> best(threads);
  std::atomic<int32_t> sink{0};
  stream.pool().ParallelFor(threads, [&](size_t piece, int) {
    for (int burst = 0; burst < repeats * kBursts; ++burst) {
      int32_t result = 0;
      const Clock::time_point begin = Clock::now();
      const auto ops = static_cast<double>(probe(iterations, &result));
      best[piece] = std::max(best[piece], ops / SecondsSince(begin));
      sink.fetch_add(result, std::memory_order_relaxed);
    }
  });
  return std::accumulate(best.begin(), best.end(), 0.0);
}

// Bytes per second of all threads together, each over its own part; best of several rounds.
double BestReadRate(const Stream& stream, const ProbeOptions& options) {
  const auto threads = static_cast<size_t>(stream.pool().num_threads());
  const size_t part = options.memory_bytes / threads / 4096 * 4096;
  tensor::AlignedBuffer memory(part * threads);
  // Untouched pages would all read one shared page of zeros.
  for (size_t i = 0; i < memory.size_bytes(); i += 4096) memory.data()[i] = std::byte{1};
  double best = 0;
  std::atomic<int32_t> sink{0};
  for (int i = 0; i < options.repeats; ++i) {
    const Clock::time_point begin = Clock::now();
    stream.pool().ParallelFor(threads, [&](size_t piece, int) {
      sink.fetch_add(stream.table().probe_read(memory.data() + piece * part, part),
                     std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(part * threads) / SecondsSince(begin));
  }
  return best;
}

}  // namespace

MachineLimits MeasureLimits(const Stream& stream, const ProbeOptions& options) {
  MachineLimits limits;
  limits.int8_ops_per_s = BestComputeRate(stream, options.repeats, stream.table().probe_int8);
  limits.f32_flops_per_s = BestComputeRate(stream, options.repeats, stream.table().probe_f32);
  if (stream.table().probe_bf16 != nullptr) {
    limits.bf16_flops_per_s = BestComputeRate(stream, options.repeats, stream.table().probe_bf16);
  }
  limits.read_bytes_per_s = BestReadRate(stream, options);
  return limits;
}

}  // namespace halfmoon::kernels
