// SPDX-License-Identifier: Apache-2.0
// `halfmoon doctor`: what this machine is and can do, and what would make it faster.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "base/thread_pool.h"
#include "kernels/isa.h"
#include "kernels/probe.h"

namespace halfmoon::app {
namespace {

struct DoctorOptions {
  int threads = 0;
  std::string isa = "auto";
};

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int RunDoctor(const DoctorOptions& options) {
  Result<kernels::Isa> isa = kernels::ParseIsa(options.isa);
  if (!isa.ok()) return Fail(isa.error());
  const int cores = DefaultThreadCount();
  const int threads = options.threads > 0 ? options.threads : cores;
  std::string isas;
  for (const kernels::Isa available : kernels::AvailableIsas()) {
    isas += " " + std::string(kernels::IsaName(available));
  }
  const double free_gib = static_cast<double>(AvailableMemoryBytes()) / (1 << 30);
  std::printf("CPU        %s\n", CpuName().c_str());
  std::printf("cores      %d physical of %u logical; %d threads used (-t)\n", cores,
              std::thread::hardware_concurrency(), threads);
  std::printf("kernels   %s; %s used (--isa)\n", isas.c_str(),
              std::string(kernels::IsaName(*isa)).c_str());
  std::printf("memory     %.1f GiB free\n", free_gib);
  ThreadPool pool(threads);
  const kernels::Stream stream(pool, *isa);
  const kernels::MachineLimits limits = kernels::MeasureLimits(stream, {});
  std::printf(
      "read       %.1f GB/s: decoding one sequence reads every active weight once a token, so "
      "a model with 1 GB of them reaches at most %.0f tokens/s\n",
      limits.read_bytes_per_s * 1e-9, limits.read_bytes_per_s * 1e-9);
  std::printf("int8       %.0f GOP/s: the limit of prompts on quantised weights\n",
              limits.int8_ops_per_s * 1e-9);
  std::printf("float32    %.0f GFLOP/s: the limit with --activation f32\n",
              limits.f32_flops_per_s * 1e-9);

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
  return kExitOk;
}

}  // namespace

void AddDoctorCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command =
      app->add_subcommand("doctor", "Measure this machine and say what would make it faster");
  command->add_option("-t,--threads", options->threads, "Threads to measure with")
      ->check(CLI::Range(0, 1024));
  command->add_option("--isa", options->isa, "auto, generic, avx2, avx512, neon or dotprod");
  command->callback([options, action] { *action = [options] { return RunDoctor(*options); }; });
}

}  // namespace halfmoon::app
