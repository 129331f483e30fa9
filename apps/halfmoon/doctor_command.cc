// SPDX-License-Identifier: Apache-2.0
// `halfmoon doctor`: what this machine is and can do, and what would make it faster.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "apps/halfmoon/bench_machine.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/model_source.h"
#include "apps/halfmoon/runtime.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "checkpoint/checkpoint.h"
#include "hub/hub.h"
#include "kernels/isa.h"
#include "model/shard_plan.h"
#include "transfer/transfer.h"

namespace halfmoon::app {
namespace {

struct DoctorOptions {
  WeightCacheFlags weight_cache;
  bool check_cache = false;
  int threads = 0;
  std::string pin = "auto";
  std::string model;
  std::string isa = "auto";
};

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The folder of cached weights and, where asked for, every byte in it. False: something is
/// damaged.
bool ReportWeightCache(const DoctorOptions& options, ThreadPool* pool) {
  const WeightCacheOwner owner(options.weight_cache);
  if (owner.get() == nullptr) {
    std::printf("weights    no folder for a cache: neither XDG_CACHE_HOME nor HOME is set\n");
    return true;
  }
  const model::WeightCache& cache = *owner.get();
  const std::vector<model::WeightCacheEntry> entries = cache.List(options.check_cache, pool);
  uint64_t total = 0;
  for (const model::WeightCacheEntry& entry : entries) total += entry.size_bytes;
  std::printf("weights    %s: %zu models, %s of at most %s (--weight-cache-size)\n",
              cache.folder().c_str(), entries.size(), hub::SizeText(total).c_str(),
              hub::SizeText(cache.BudgetBytes()).c_str());
  bool good = true;
  for (const model::WeightCacheEntry& entry : entries) {
    const std::string source = entry.sources.empty() ? "" : entry.sources.front();
    std::printf("  %10s  %s%s\n", hub::SizeText(entry.size_bytes).c_str(),
                hub::OneLine(source, 4096).c_str(),
                options.check_cache && entry.status.ok() ? ": checked, good" : "");
    if (entry.status.ok()) continue;
    good = false;
    std::printf("              %s: %s; the next start of its model replaces it\n",
                entry.path.c_str(), entry.status.error().message().c_str());
  }
  return good;
}

double Gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

/// Nodes of the machine, and what each computes and, where a model is named, holds.
void PrintNodes(const Topology& topology, const ThreadLayout& layout,
                const std::vector<model::StoredMatrix>& matrices) {
  for (const NumaNode& node : topology.nodes) {
    std::printf("node %-5d cores %s, %.1f GiB of memory\n", node.id,
                node.cores.empty() ? "none" : FormatCpuList(node.cores).c_str(),
                Gib(node.memory_bytes));
  }
  for (const model::ShardPart& part : model::PlanShards(layout, matrices)) {
    std::string where = "all nodes";
    if (part.node >= 0) where = "node " + std::to_string(part.node);
    std::printf("plan       %d threads on %s", part.num_threads, where.c_str());
    if (!matrices.empty()) {
      std::printf(": %.2f GiB of experts and %.2f GiB of other weights (as stored)",
                  Gib(part.expert_bytes), Gib(part.dense_bytes));
    }
    std::printf("\n");
  }
}

/// Whether the model fits, and what --expert-memory would make of it.
void PrintFit(const std::vector<model::StoredMatrix>& matrices, size_t free_bytes) {
  size_t dense = 0;
  size_t experts = 0;
  for (const model::StoredMatrix& matrix : matrices) {
    (matrix.expert ? experts : dense) += matrix.size_bytes;
  }
  // What KV cache, buffers and the system want beside the weights.
  const size_t reserve = free_bytes / 4;
  if (dense + experts + reserve <= free_bytes) {
    std::printf("fits       %.2f GiB of weights in %.1f GiB of free memory\n", Gib(dense + experts),
                Gib(free_bytes));
    return;
  }
  if (experts == 0 || dense + reserve >= free_bytes) {
    std::printf("too large  %.2f GiB of weights that every token needs, %.1f GiB of memory free\n",
                Gib(dense), Gib(free_bytes));
    return;
  }
  const size_t room = (free_bytes - dense - reserve) >> 30;
  std::printf(
      "too large  %.2f GiB of weights, %.1f GiB of memory free; --expert-memory %zuG leaves the "
      "experts on disk and keeps %.0f %% of them in memory\n",
      Gib(dense + experts), Gib(free_bytes), std::max<size_t>(room, 1),
      100.0 * static_cast<double>(std::max<size_t>(room, 1) << 30) / static_cast<double>(experts));
}

Result<std::vector<model::StoredMatrix>> ReadMatrices(const std::string& name) {
  if (name.empty()) return std::vector<model::StoredMatrix>();
  HM_ASSIGN(const ModelSource source, FindModelSource(name));
  HM_ASSIGN(const std::unique_ptr<checkpoint::Checkpoint> checkpoint,
            checkpoint::Open(source.path));
  return model::MatricesOf(*checkpoint);
}

int RunDoctor(const DoctorOptions& options) {
  Result<kernels::Isa> isa = kernels::ParseIsa(options.isa);
  if (!isa.ok()) return Fail(isa.error());
  const auto matrices = ReadMatrices(options.model);
  if (!matrices.ok()) return Fail(matrices.error());
  const Topology topology = ReadTopology();
  const ThreadLayout layout = ChooseThreads(options.threads, options.pin);
  const int threads = static_cast<int>(layout.seats.size());
  std::string isas;
  for (const kernels::Isa available : kernels::AvailableIsas()) {
    isas += " " + std::string(kernels::IsaName(available));
  }
  const double free_gib = static_cast<double>(AvailableMemoryBytes()) / (1 << 30);
  std::printf("CPU        %s\n", CpuName().c_str());
  std::printf("cores      %d physical of %u logical; %d threads used (-t), %s\n",
              topology.num_cores(), std::thread::hardware_concurrency(), threads,
              layout.pinned ? "each on a core of its own (--pin)" : "not pinned (--pin)");
  if (topology.restricted) {
    std::printf("cores      this process may not use all of them (affinity or a cpuset)\n");
  }
  PrintNodes(topology, layout, *matrices);
  std::printf("kernels   %s; %s used (--isa)\n", isas.c_str(),
              std::string(kernels::IsaName(*isa)).c_str());
  std::printf("memory     %.1f GiB free\n", free_gib);
  if (!matrices->empty()) PrintFit(*matrices, AvailableMemoryBytes());
  ThreadPool pool(layout);
  const Machine machine = MeasureMachine(&pool, *isa, "");
  const kernels::MachineLimits& limits = LimitsInUse(machine);
  std::printf(
      "read       %.1f GB/s: decoding one sequence reads every active weight once a token, so "
      "a model with 1 GB of them reaches at most %.0f tokens/s\n",
      limits.read_bytes_per_s * 1e-9, limits.read_bytes_per_s * 1e-9);
  std::printf("int8       %.0f GOP/s: the limit of prompts on quantised weights\n",
              limits.int8_ops_per_s * 1e-9);
  std::printf("float32    %.0f GFLOP/s: the limit with --activation f32\n",
              limits.f32_flops_per_s * 1e-9);
  if (limits.bf16_flops_per_s > 0) {
    std::printf("bfloat16   %.0f GFLOP/s: the limit of prompts on bfloat16 and float8 weights\n",
                limits.bf16_flops_per_s * 1e-9);
  }
  for (const auto& [other, its] : machine.isas) {
    if (other == *isa) continue;
    std::printf("%-10s read %.1f GB/s, int8 %.0f GOP/s, float32 %.0f GFLOP/s (--isa)\n",
                std::string(kernels::IsaName(other)).c_str(), its.read_bytes_per_s * 1e-9,
                its.int8_ops_per_s * 1e-9, its.f32_flops_per_s * 1e-9);
  }
  if (machine.disk.has_value()) {
    std::printf(
        "disk       %.2f GB/s (%s): the limit of --expert-memory and --kv-cache-dir, and of a "
        "first load\n",
        machine.disk->read_bytes_per_s * 1e-9, machine.disk->method.c_str());
  } else {
    std::printf("disk       not measured: %s\n", machine.disk_error.c_str());
  }

  std::printf("transfer   between processes of a cluster: shared memory, TCP, and UCX: %s\n",
              transfer::DescribeUcx().c_str());
  const bool cache_is_good = ReportWeightCache(options, &pool);
  if (*isa == kernels::Isa::kGeneric) {
    std::printf("slow       plain kernels are in use: %s\n",
                options.isa == "auto" ? "this CPU or build has neither AVX2 nor NEON"
                                      : "--isa generic was asked for; leave it out");
  }
  const std::string governor = FirstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (!governor.empty() && governor != "performance" && governor != "schedutil") {
    std::printf("slow       the CPU frequency governor is '%s'; 'performance' keeps clocks up\n",
                governor.c_str());
  }
  const std::string huge = FirstLine("/sys/kernel/mm/transparent_hugepage/enabled");
  if (huge.find("[never]") != std::string::npos) {
    std::printf(
        "slow       transparent huge pages are off; 'madvise' or 'always' helps large "
        "models\n");
  }
  if (free_gib < 1.0) std::printf("tight      less than 1 GiB of memory is free\n");
  return cache_is_good ? kExitOk : kExitFailure;
}

}  // namespace

void AddDoctorCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command =
      app->add_subcommand("doctor", "Measure this machine and say what would make it faster");
  command->add_option("-m,--model", options->model,
                      "Say too where this model's weights would lie, and whether they fit");
  AddThreadOptions(command, &options->threads, &options->pin);
  command->add_option("--isa", options->isa,
                      "auto, generic, avx2, avx512, avx512bf16, neon or dotprod");
  AddWeightCacheFolderOptions(command, &options->weight_cache);
  command->add_flag("--check-cache", options->check_cache,
                    "Compare every byte of the cached weights with its checksum");
  command->callback([options, action] { *action = [options] { return RunDoctor(*options); }; });
}

}  // namespace halfmoon::app
