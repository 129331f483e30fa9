// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most: what `halfmoon bench --machine` and `halfmoon doctor` print.
#pragma once

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/halfmoon/bench_disk.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "kernels/probe.h"

namespace halfmoon::app {

struct IsaLimits {
  kernels::Isa isa = kernels::Isa::kGeneric;
  kernels::MachineLimits limits;
};

struct Machine {
  std::string cpu;
  int threads = 0;
  kernels::Isa isa = kernels::Isa::kGeneric;  ///< the one in use, whose limits count for shares
  std::vector<IsaLimits> isas;                ///< every one that runs here, weakest first
  std::optional<DiskSpeed> disk;
  std::string disk_error;  ///< why there is no disk
};

/// Measures every ISA and the disk on the threads of `pool`, in a few seconds; says on stderr what
/// it is at. disk_file: the model whose disk counts; empty: that of the cache folder. A disk that
/// cannot be measured is told in the result and is no error of the rest.
Machine MeasureMachine(ThreadPool* pool, kernels::Isa isa, const std::filesystem::path& disk_file);

/// The limits of machine.isa.
const kernels::MachineLimits& LimitsInUse(const Machine& machine);

/// One line a limit.
void PrintMachine(std::FILE* file, const Machine& machine);

json::object LimitsJson(const kernels::MachineLimits& limits);
json::object MachineJson(const Machine& machine);

}  // namespace halfmoon::app
