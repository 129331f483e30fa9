// SPDX-License-Identifier: Apache-2.0
// Speed of the kernels against the limits of this machine, one JSON line a case:
//   bench_kernels [--isa auto] [--threads N] [--filter TEXT] [--seconds S] [--commit NAME]
// Rates are medians over repetitions; "spread" is (90th - 10th percentile) / median. "best_share"
// is the share of the limit of the fastest repetition: what remains to be trusted when others use
// the machine too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/topology.h"
#include "kernels/attention.h"
#include "kernels/expanded_attention.h"
#include "kernels/indexer.h"
#include "kernels/matmul.h"
#include "kernels/probe.h"
#include "quant/quant.h"
#include "tensor/tensor.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

/// What a product takes of activations.
enum class Form { kF32, kInt8, kBf16 };

struct Options {
  Isa isa = BestIsa();
  int threads = DefaultThreadCount();
  std::string filter;
  double seconds = 0.5;
  std::string commit = "unknown";
};

struct Timing {
  double median_s = 0;
  double best_s = 0;
  double spread = 0;
};

Timing Measure(double seconds, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  run();  // Warm-up: page faults, sleeping workers.
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  while (times.size() < 5 ||
         std::chrono::duration<double>(Clock::now() - start).count() < seconds) {
    const Clock::time_point begin = Clock::now();
    run();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) {
    return times[static_cast<size_t>(q * static_cast<double>(times.size() - 1))];
  };
  return {at(0.5), times.front(), (at(0.9) - at(0.1)) / at(0.5)};
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        pool_(options.threads),
        stream_(pool_, options.isa),
        machine_(CpuName()) {
    limits_ = MeasureLimits(stream_, {});
    Print("limit", "read", {}, limits_.read_bytes_per_s, "bytes/s", 1.0);
    Print("limit", "int8", {}, limits_.int8_ops_per_s, "ops/s", 1.0);
    Print("limit", "f32", {}, limits_.f32_flops_per_s, "flops/s", 1.0);
    if (limits_.bf16_flops_per_s > 0) {
      Print("limit", "bf16", {}, limits_.bf16_flops_per_s, "flops/s", 1.0);
    }
  }

  // One token over weights that exceed the caches: bound by memory.
  void Gemv(DType dtype, Form form, int64_t rows) {
    constexpr int64_t kInputs = 2048;
    const std::string shape = Shape(dtype, form, rows, kInputs, 0);
    if (Skipped("gemv", shape) || Lacks(form)) return;
    const PackedMatrix w = RandomMatrix(dtype, rows, kInputs);
    RunMatMul("gemv", shape, w, form, 1, true);
  }

  // A product of the size of an expert's, weights in cache: bound by arithmetic.
  void Gemm(DType dtype, Form form, int64_t tokens) {
    constexpr int64_t kOutputs = 768;
    constexpr int64_t kInputs = 2048;
    const std::string shape = Shape(dtype, form, kOutputs, kInputs, tokens);
    if (Skipped("gemm", shape) || Lacks(form)) return;
    const PackedMatrix w = RandomMatrix(dtype, kOutputs, kInputs);
    RunMatMul("gemm", shape, w, form, tokens, false);
  }

  // Gate and up of the experts of a Qwen3-30B-A3B layer, as a decode step calls them: `chosen` of
  // 128 experts with `tokens` rows each, other ones each time, over more weights than caches hold.
  void Experts(DType dtype, int chosen, int64_t tokens) {
    constexpr int64_t kOutputs = 768;
    constexpr int64_t kInputs = 2048;
    constexpr size_t kMatrices = 512;
    const std::string shape = Shape(dtype, Form::kInt8, kOutputs, kInputs, tokens) + " matrices " +
                              std::to_string(2 * chosen);
    if (Skipped("experts", shape)) return;
    const Stored stored(dtype, kOutputs, kInputs, *this);
    const Result<PackedMatrix> first = NewPacked(stored.source);
    HM_CHECK(first.ok());
    tensor::AlignedBuffer memory(kMatrices * first->size_bytes());
    std::vector<PackedMatrix> weights;
    for (size_t i = 0; i < kMatrices; ++i) {
      const size_t size = first->size_bytes();
      Result<PackedMatrix> one = NewPacked(stored.source, {memory.data() + i * size, size});
      for (int64_t t = 0; t < one->num_tiles(); ++t) PackTile(stored.source, t, &*one);
      weights.push_back(std::move(*one));
    }
    const Int8Input x(*this, tokens, kInputs);
    std::vector<float> y(2 * static_cast<size_t>(chosen * tokens * kOutputs));
    std::vector<MatMulJob> jobs(2 * static_cast<size_t>(chosen));
    size_t next = 0;
    const Timing timing = Measure(options_.seconds, [&] {
      for (size_t i = 0; i < jobs.size(); ++i) {
        MatMulJob& job = jobs[i];
        job.weight = &weights[next];
        next = (next + 37) % kMatrices;
        job.x.int8 = x.rows;
        job.num_rows = tokens;
        job.y = y.data() + i * static_cast<size_t>(tokens * kOutputs);
        job.y_stride = kOutputs;
      }
      MatMul(stream_, jobs);
    });
    const auto bytes = static_cast<double>(jobs.size() * first->size_bytes());
    Print("experts", shape, timing, bytes / timing.median_s, "bytes/s", limits_.read_bytes_per_s);
  }

  // One step of `sequences` sequences at a depth, or one chunk of a prompt at the end of it.
  void Attend(const std::string& name, int32_t tokens, int32_t depth, int sequences,
              KvType type = KvType::kF16) {
    const KvLayout layout{1, 4, 128, 64, type, type};
    const AttentionShape shape{32, 128, 0.088f, 0};
    const std::string text = "T " + std::to_string(tokens) + " depth " + std::to_string(depth) +
                             " sequences " + std::to_string(sequences) +
                             (type == KvType::kF16 ? "" : " " + std::string(KvTypeName(type)));
    if (Skipped(name, text)) return;
    const int32_t pages = (depth + layout.block_size - 1) / layout.block_size;
    tensor::AlignedBuffer memory(static_cast<size_t>(pages * sequences) * layout.page_bytes());
    std::vector<std::vector<int32_t>> tables(static_cast<size_t>(sequences));
    std::vector<AttentionSequence> batch;
    const int64_t kv_row = layout.num_kv_heads * layout.head_dim;
    std::vector<float> kv = Random(static_cast<size_t>(depth * kv_row));
    for (int s = 0; s < sequences; ++s) {
      std::vector<int32_t>& table = tables[static_cast<size_t>(s)];
      for (int32_t p = 0; p < pages; ++p) table.push_back(s * pages + p);
      const PagedKv paged{memory.data(), table};
      const AttentionSequence all{0, depth, 0, paged};
      const Rows kv_rows{kv.data(), all.count, kv_row};
      WriteKv(stream_, layout, 0, {&all, 1}, kv_rows, kv_rows);
      batch.push_back({int64_t{s} * tokens, tokens, depth - tokens, paged});
    }
    const int64_t row = shape.num_heads * shape.head_dim;
    const int64_t rows = int64_t{tokens} * sequences;
    std::vector<float> q = Random(static_cast<size_t>(rows * row));
    std::vector<float> out(q.size());
    std::vector<float> scratch(
        AttentionScratchFloats(layout, shape, rows, depth, options_.threads));
    const Timing timing = Measure(options_.seconds, [&] {
      Attention(stream_, layout, 0, shape, batch, {q.data(), rows, row}, {out.data(), rows, row},
                scratch);
    });
    if (tokens == 1) {
      const double bytes =
          static_cast<double>(depth) * sequences * static_cast<double>(layout.bytes_per_token());
      Print(name, text, timing, bytes / timing.median_s, "bytes/s", limits_.read_bytes_per_s);
    } else {
      const double mean_depth = depth - (tokens - 1) / 2.0;
      const double flops = 4.0 * static_cast<double>(rows * row) * mean_depth;
      Print(name, text, timing, flops / timing.median_s, "flops/s", limits_.f32_flops_per_s);
    }
  }

  // Latent attention with the heads of DeepSeek V3, in absorbed or expanded form, of one chunk at
  // the end of a sequence. Operations are those of the form itself, without absorbing queries.
  void AttendLatents(int heads, int32_t tokens, int32_t depth, bool expanded,
                     KvType type = KvType::kF16) {
    const ExpandedShape parts{heads, 512, 128, 64, 128, 0.07f};
    const int64_t c = parts.latent_dim;
    const int64_t key = parts.nope_dim + parts.rope_dim;
    const KvLayout layout{.num_layers = 1,
                          .num_kv_heads = 1,
                          .head_dim = parts.latent_dim + parts.rope_dim,
                          .block_size = 64,
                          .k_type = type,
                          .v_type = type,
                          .kind = KvKind::kLatent,
                          .value_dim = parts.latent_dim};
    const std::string name = expanded ? "latent expanded" : "latent absorbed";
    const std::string text = "N " + std::to_string(heads) + " T " + std::to_string(tokens) +
                             " depth " + std::to_string(depth) +
                             (type == KvType::kF16 ? "" : " " + std::string(KvTypeName(type)));
    if (Skipped(name, text)) return;
    std::vector<int32_t> table(static_cast<size_t>((depth + 63) / 64));
    std::iota(table.begin(), table.end(), 0);
    tensor::AlignedBuffer memory(table.size() * layout.page_bytes());
    const PagedKv paged{memory.data(), table};
    std::vector<float> kv = Random(static_cast<size_t>(depth) * 576);
    const AttentionSequence all{0, depth, 0, paged};
    WriteLatentKv(stream_, layout, 0, {&all, 1}, {kv.data(), depth, 576}, {});
    const AttentionSequence sequence{0, tokens, depth - tokens, paged};
    const AttentionShape shape{heads, layout.head_dim, parts.scale, 0};
    const int64_t q_row = heads * (expanded ? key : int64_t{layout.head_dim});
    const int64_t out_row = heads * (expanded ? int64_t{parts.value_dim} : c);
    std::vector<float> q = Random(static_cast<size_t>(tokens * q_row));
    std::vector<float> out(static_cast<size_t>(tokens * out_row));
    const Rows q_rows{q.data(), tokens, q_row};
    const Rows out_rows{out.data(), tokens, out_row};
    std::vector<PackedMatrix> weights;
    for (int i = 0; expanded && i < 2 * heads; ++i) {
      weights.push_back(RandomMatrix(DType::kBF16, 128, c));
    }
    std::vector<float> scratch(
        std::max(AttentionScratchFloats(layout, shape, tokens, depth, options_.threads),
                 ExpandedScratchFloats(parts, tokens, options_.threads)));
    const Timing timing = Measure(options_.seconds, [&] {
      if (expanded) {
        const std::span<const PackedMatrix> all_weights(weights);
        const auto half = static_cast<size_t>(heads);
        ExpandedAttention(stream_, layout, 0, parts,
                          {all_weights.first(half), all_weights.subspan(half)}, {&sequence, 1},
                          q_rows, out_rows, scratch);
      } else {
        Attention(stream_, layout, 0, shape, {&sequence, 1}, q_rows, out_rows, scratch);
      }
    });
    const double pairs = tokens * (depth - (tokens - 1) / 2.0);
    const double width = static_cast<double>(expanded ? key + parts.value_dim : 2 * c + 64);
    double flops = 2.0 * heads * pairs * width;
    if (expanded) flops += 2.0 * heads * depth * static_cast<double>(c) * 256;
    Print(name, text, timing, flops / timing.median_s, "flops/s", limits_.f32_flops_per_s);
  }

  // One token's choice of keys, and its attention to them, with the indexer of DeepSeek V3.2 and 16
  // of its 128 heads: what grows with the depth, and what does not.
  void AttendChosen(int32_t depth) {
    constexpr int kHeads = 16;
    const IndexerShape indexer{.num_heads = 64, .head_dim = 128, .scale = 0.01f, .top_k = 2048};
    const KvLayout layout{.num_layers = 1,
                          .num_kv_heads = 1,
                          .head_dim = 576,
                          .block_size = 64,
                          .kind = KvKind::kLatent,
                          .value_dim = 512,
                          .index_dim = indexer.head_dim};
    const std::string text = "depth " + std::to_string(depth);
    if (Skipped("indexer", text) && Skipped("attend chosen", text)) return;
    std::vector<int32_t> table(static_cast<size_t>((depth + 63) / 64));
    std::iota(table.begin(), table.end(), 0);
    tensor::AlignedBuffer memory(table.size() * layout.page_bytes());
    const PagedKv paged{memory.data(), table};
    std::vector<float> kv = Random(static_cast<size_t>(depth) * 576);
    std::vector<float> keys = Random(static_cast<size_t>(depth) * 128);
    WriteLatentKv(stream_, layout, 0, {{{0, depth, 0, paged}}}, {kv.data(), depth, 576},
                  {keys.data(), depth, 128});
    const AttentionSequence token{0, 1, depth - 1, paged};
    std::vector<float> index_q = Random(64 * 128);
    std::vector<float> index_w = Random(64);
    std::vector<int32_t> chosen(static_cast<size_t>(indexer.top_k));
    int32_t count = 0;
    std::vector<float> index_scratch(IndexerScratchFloats(1, depth));
    Timing timing = Measure(options_.seconds, [&] {
      ChooseKeys(stream_, layout, 0, indexer, {&token, 1}, {index_q.data(), 1, 64 * 128},
                 {index_w.data(), 1, 64},
                 {.positions = chosen.data(), .counts = &count, .stride = indexer.top_k},
                 index_scratch);
    });
    Print("indexer", text, timing, 2.0 * 64 * 128 * depth / timing.median_s, "flops/s",
          limits_.f32_flops_per_s);
    const AttentionShape shape{kHeads, 576, 0.07f, 0};
    std::vector<float> q = Random(kHeads * 576);
    std::vector<float> out(kHeads * 512);
    std::vector<float> scratch(AttentionScratchFloats(layout, shape, 1, depth, options_.threads));
    const KeySelection selection{chosen.data(), &count, indexer.top_k};
    timing = Measure(options_.seconds, [&] {
      Attention(stream_, layout, 0, shape, {&token, 1}, {q.data(), 1, kHeads * 576},
                {out.data(), 1, kHeads * 512}, scratch, &selection);
    });
    Print("attend chosen", text, timing, 2.0 * kHeads * count * (576 + 512) / timing.median_s,
          "flops/s", limits_.f32_flops_per_s);
  }

  // Stored bytes into tiles, all threads: what a start without a cache of packed weights costs.
  void PackWeights(DType dtype) {
    const std::string shape(tensor::Info(dtype).name);
    if (Skipped("pack", shape)) return;
    const Stored stored(dtype, 16384, 2048, *this);
    Result<PackedMatrix> packed = NewPacked(stored.source);
    const Timing timing = Measure(options_.seconds, [&] {
      pool_.ParallelFor(static_cast<size_t>(packed->num_tiles()), [&](size_t t, int) {
        PackTile(stored.source, static_cast<int64_t>(t), &*packed);
      });
    });
    Print("pack", shape, timing, static_cast<double>(stored.bytes.size()) / timing.median_s,
          "bytes/s", limits_.read_bytes_per_s);
  }

 private:
  // A stored matrix of repeated random rows: encoding fresh ones would take longer than measuring.
  struct Stored {
    Stored(DType dtype, int64_t rows, int64_t cols, Bench& bench) {
      const tensor::DTypeInfo& info = tensor::Info(dtype);
      const auto row_bytes = static_cast<size_t>(cols / info.block_elements * info.block_bytes);
      constexpr int64_t kDistinct = 64;
      bytes.resize(static_cast<size_t>(rows) * row_bytes);
      for (int64_t r = 0; r < rows; ++r) {
        std::byte* row = bytes.data() + static_cast<size_t>(r) * row_bytes;
        if (dtype == DType::kF8E4M3) {
          // Any code but the two that are no numbers.
          for (size_t i = 0; i < row_bytes; ++i)
            row[i] = static_cast<std::byte>(bench.random_() % 127);
        } else if (r < kDistinct) {
          const std::vector<float> values = bench.Random(static_cast<size_t>(cols));
          const Status encoded = quant::EncodeRow(dtype, values.data(), cols, row);
          HM_CHECK(encoded.ok());
        } else {
          std::memcpy(row, bytes.data() + static_cast<size_t>(r % kDistinct) * row_bytes,
                      row_bytes);
        }
      }
      source.dtype = dtype;
      source.rows = rows;
      source.cols = cols;
      source.row = [this, row_bytes](int64_t r) {
        return bytes.data() + static_cast<size_t>(r) * row_bytes;
      };
      if (dtype == DType::kF8E4M3) {
        scales.assign(static_cast<size_t>((cols + kF8Group - 1) / kF8Group), 0.01f);
        source.scales = [this](int64_t) {
          return reinterpret_cast<const std::byte*>(scales.data());
        };
        source.scale_group = kF8Group;
      }
    }
    Stored(const Stored&) = delete;
    Stored& operator=(const Stored&) = delete;

    std::vector<std::byte> bytes;
    std::vector<float> scales;
    RowSource source;
  };

  // Random rows as the int8 kernels read them.
  struct Int8Input {
    Int8Input(Bench& bench, int64_t tokens, int64_t k)
        : q(static_cast<size_t>(tokens * k)), scale(q.size() / kGroup), sum16(q.size() / 16) {
      const std::vector<float> x = bench.Random(q.size());
      QuantizeRows(bench.stream_, x.data(), k, tokens, k, {q.data(), scale.data(), sum16.data()});
      rows = {q.data(), scale.data(), sum16.data(), k / kGroup};
    }
    Int8Input(const Int8Input&) = delete;
    Int8Input& operator=(const Int8Input&) = delete;

    std::vector<int8_t> q;
    std::vector<float> scale;
    std::vector<int32_t> sum16;
    QuantizedRows rows;
  };

  std::vector<float> Random(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  PackedMatrix RandomMatrix(DType dtype, int64_t rows, int64_t cols) {
    const Stored stored(dtype, rows, cols, *this);
    Result<PackedMatrix> packed = Pack(stored.source);
    return std::move(packed).value();
  }

  bool Lacks(Form form) const { return form == Form::kBf16 && !MultipliesBf16(options_.isa); }

  static std::string Shape(DType dtype, Form form, int64_t n, int64_t k, int64_t tokens) {
    std::string text(tensor::Info(dtype).name);
    text += form == Form::kInt8 ? " int8" : form == Form::kBf16 ? " bf16" : " f32";
    text += " N " + std::to_string(n) + " K " + std::to_string(k);
    if (tokens > 0) text += " T " + std::to_string(tokens);
    return text;
  }

  void RunMatMul(const std::string& name, const std::string& shape, const PackedMatrix& w,
                 Form form, int64_t tokens, bool by_bytes) {
    const int64_t k = w.cols();
    const std::vector<float> x = Random(static_cast<size_t>(tokens * k));
    const Int8Input quantized(*this, tokens, k);
    const int64_t bf16_stride = k + kGroup;
    std::vector<uint16_t> bf16(static_cast<size_t>(tokens * bf16_stride));
    std::vector<float> y(static_cast<size_t>(tokens * w.rows()));
    MatMulJob job;
    job.weight = &w;
    if (form == Form::kInt8) {
      job.x.int8 = quantized.rows;
    } else if (form == Form::kBf16) {
      RoundRows(stream_, x.data(), k, tokens, k, bf16.data(), bf16_stride);
      job.x.bf16 = {.x = bf16.data(), .stride = bf16_stride};
    } else {
      job.x.f32 = x.data();
      job.x.stride = k;
    }
    job.num_rows = tokens;
    job.y = y.data();
    job.y_stride = w.rows();
    const Timing timing = Measure(options_.seconds, [&] { MatMul(stream_, {&job, 1}); });
    if (by_bytes) {
      Print(name, shape, timing, static_cast<double>(w.size_bytes()) / timing.median_s, "bytes/s",
            limits_.read_bytes_per_s);
    } else {
      const double ops = 2.0 * static_cast<double>(tokens * w.rows() * k);
      Print(name, shape, timing, ops / timing.median_s, form == Form::kInt8 ? "ops/s" : "flops/s",
            form == Form::kInt8   ? limits_.int8_ops_per_s
            : form == Form::kBf16 ? limits_.bf16_flops_per_s
                                  : limits_.f32_flops_per_s);
    }
  }

  bool Skipped(const std::string& name, const std::string& shape) const {
    return (name + " " + shape).find(options_.filter) == std::string::npos;
  }

  void Print(const std::string& name, const std::string& shape, const Timing& timing, double rate,
             const char* unit, double limit) const {
    const bool is_limit = name == "limit";
    std::printf(
        "{\"bench\":\"kernels\",\"commit\":\"%s\",\"machine\":\"%s\",\"isa\":\"%s\",\"threads\":%d,"
        "\"case\":\"%s\",\"shape\":\"%s\",\"median_us\":%.1f,\"spread\":%.3f,\"rate\":%.4g,"
        "\"unit\":\"%s\",\"share_of_limit\":%.3f,\"best_share\":%.3f}\n",
        options_.commit.c_str(), machine_.c_str(), std::string(IsaName(options_.isa)).c_str(),
        options_.threads, name.c_str(), shape.c_str(), timing.median_s * 1e6, timing.spread, rate,
        unit, is_limit ? 1.0 : rate / limit,
        is_limit ? 1.0 : rate / limit * timing.median_s / timing.best_s);
    std::fflush(stdout);
  }

  Options options_;
  ThreadPool pool_;
  Stream stream_;
  std::string machine_;
  MachineLimits limits_;
  std::mt19937 random_{1};
};

void RunAll(const Options& options) {
  Bench bench(options);
  constexpr DType kInteger[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0,
                                DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
  constexpr DType kPlain[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
  constexpr DType kInBf16[] = {DType::kBF16, DType::kF8E4M3};
  for (const DType dtype : kInteger) bench.Gemv(dtype, Form::kInt8, 131072);
  for (const DType dtype : kPlain) bench.Gemv(dtype, Form::kF32, 65536);
  for (const DType dtype : kInBf16) bench.Gemv(dtype, Form::kBf16, 65536);
  bench.Gemv(DType::kQ4_0, Form::kF32, 131072);
  // Small enough that starting and ending the pool's work counts.
  bench.Gemv(DType::kQ4_0, Form::kInt8, 768);
  for (const int64_t tokens : {2, 4, 8, 16, 32, 512}) {
    for (const DType dtype : kInteger) bench.Gemm(dtype, Form::kInt8, tokens);
    for (const DType dtype : kPlain) bench.Gemm(dtype, Form::kF32, tokens);
    for (const DType dtype : kInBf16) bench.Gemm(dtype, Form::kBf16, tokens);
    bench.Gemm(DType::kQ4_0, Form::kF32, tokens);
  }
  for (const DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K}) {
    bench.Experts(dtype, 8, 1);
    bench.Experts(dtype, 82, 1);
    bench.Experts(dtype, 82, 2);
    bench.Experts(dtype, 128, 4);
  }
  bench.Attend("decode", 1, 4096, 1);
  bench.Attend("decode", 1, 4096, 16);
  bench.Attend("decode", 1, 65536, 1);
  for (const KvType type : {KvType::kQ8_0, KvType::kBF16}) bench.Attend("decode", 1, 4096, 1, type);
  bench.Attend("prefill", 512, 512, 1);
  bench.Attend("prefill", 512, 4096, 1);
  for (const KvType type : {KvType::kQ8_0, KvType::kBF16}) {
    bench.Attend("prefill", 512, 4096, 1, type);
  }
  // From how many tokens expanding pays (ExpansionPays).
  for (const int32_t tokens : {1, 128, 192, 512}) {
    bench.AttendLatents(16, tokens, 4096, false);
    if (tokens > 1) bench.AttendLatents(16, tokens, 4096, true);
  }
  bench.AttendLatents(128, 1, 4096, false);
  for (const int32_t tokens : {1, 512}) {
    bench.AttendLatents(16, tokens, 4096, false, KvType::kBF16);
  }
  for (const int32_t depth : {4096, 8192, 16384, 32768, 131072}) bench.AttendChosen(depth);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ4_0, DType::kQ4_1, DType::kQ8_0,
                            DType::kQ4_K, DType::kQ6_K}) {
    bench.PackWeights(dtype);
  }
}

}  // namespace
}  // namespace halfmoon::kernels

int main(int argc, char** argv) {
  halfmoon::kernels::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--isa") {
      const auto isa = halfmoon::kernels::ParseIsa(value);
      if (!isa.ok()) {
        std::fprintf(stderr, "%s\n", isa.error().message().c_str());
        return 1;
      }
      options.isa = *isa;
    } else if (name == "--threads") {
      options.threads = std::max(1, std::atoi(value.c_str()));
    } else if (name == "--filter") {
      options.filter = value;
    } else if (name == "--seconds") {
      options.seconds = std::atof(value.c_str());
    } else if (name == "--commit") {
      options.commit = value;
    } else {
      std::fprintf(stderr, "unknown option %s\n", name.c_str());
      return 1;
    }
  }
  if (argc % 2 == 0) {
    std::fprintf(stderr, "option %s: no value\n", argv[argc - 1]);
    return 1;
  }
  halfmoon::kernels::RunAll(options);
  return 0;
}
