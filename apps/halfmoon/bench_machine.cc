// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_machine.h"

#include <algorithm>

#include "apps/halfmoon/cache_folder.h"
#include "apps/halfmoon/runtime.h"
#include "base/check.h"
#include "base/topology.h"

namespace halfmoon::app {

Machine MeasureMachine(ThreadPool* pool, kernels::Isa isa, const std::filesystem::path& disk_file) {
  Machine machine{.cpu = CpuName(), .threads = pool->num_threads(), .isa = isa};
  std::fprintf(stderr, "measuring memory and arithmetic of every instruction set ...\n");
  for (const kernels::Isa available : kernels::AvailableIsas()) {
    const kernels::Stream stream(*pool, available);
    machine.isas.push_back({.isa = available, .limits = kernels::MeasureLimits(stream, {})});
  }
  std::fprintf(stderr, "measuring the disk ...\n");
  Result<DiskSpeed> disk =
      disk_file.empty() ? MeasureDiskOf(CacheFolder()) : MeasureDisk(disk_file);
  if (disk.ok()) {
    machine.disk = std::move(disk).value();
  } else {
    machine.disk_error = disk.error().message();
  }
  return machine;
}

const kernels::MachineLimits& LimitsInUse(const Machine& machine) {
  const auto found = std::ranges::find(machine.isas, machine.isa, &IsaLimits::isa);
  HM_CHECK(found != machine.isas.end(), "the ISA in use was not measured");
  return found->limits;
}

void PrintMachine(std::FILE* file, const Machine& machine) {
  std::fprintf(file, "machine    %s, %d threads\n", machine.cpu.c_str(), machine.threads);
  for (const auto& [isa, limits] : machine.isas) {
    std::fprintf(file, "%-10s read %.1f GB/s, int8 %.0f GOP/s, float32 %.0f GFLOP/s",
                 std::string(kernels::IsaName(isa)).c_str(), limits.read_bytes_per_s * 1e-9,
                 limits.int8_ops_per_s * 1e-9, limits.f32_flops_per_s * 1e-9);
    if (limits.bf16_flops_per_s > 0) {
      std::fprintf(file, ", bfloat16 %.0f GFLOP/s", limits.bf16_flops_per_s * 1e-9);
    }
    std::fprintf(file, "%s\n", isa == machine.isa ? "  (in use, --isa)" : "");
  }
  if (machine.disk.has_value()) {
    std::fprintf(file, "disk       read %.2f GB/s (%s; %s)\n",
                 machine.disk->read_bytes_per_s * 1e-9, machine.disk->method.c_str(),
                 machine.disk->file.c_str());
  } else {
    std::fprintf(file, "disk       not measured: %s\n", machine.disk_error.c_str());
  }
}

json::object LimitsJson(const kernels::MachineLimits& limits) {
  json::object fields{{"read_bytes_per_s", limits.read_bytes_per_s},
                      {"int8_ops_per_s", limits.int8_ops_per_s},
                      {"f32_flops_per_s", limits.f32_flops_per_s}};
  if (limits.bf16_flops_per_s > 0) fields["bf16_flops_per_s"] = limits.bf16_flops_per_s;
  return fields;
}

json::object MachineJson(const Machine& machine) {
  json::object isas;
  for (const auto& [isa, limits] : machine.isas) isas[kernels::IsaName(isa)] = LimitsJson(limits);
  json::object fields{{"case", "machine"},
                      {"version", HALFMOON_VERSION},
                      {"cpu", machine.cpu},
                      {"threads", machine.threads},
                      {"isa", kernels::IsaName(machine.isa)},
                      {"limits", std::move(isas)}};
  if (machine.disk.has_value()) {
    fields["disk"] = {{"read_bytes_per_s", machine.disk->read_bytes_per_s},
                      {"read_bytes", machine.disk->read_bytes},
                      {"file", machine.disk->file},
                      {"method", machine.disk->method}};
  } else {
    fields["disk_error"] = machine.disk_error;
  }
  return fields;
}

}  // namespace halfmoon::app
