// SPDX-License-Identifier: Apache-2.0
// Flags that every command with a model shares, in the spellings of llama.cpp and vLLM both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "apps/halfmoon/kv_store_options.h"
#include "apps/halfmoon/speculation_options.h"
#include "apps/halfmoon/weight_cache_options.h"
#include "base/topology.h"
#include "kernels/paged_kv.h"

namespace halfmoon::app {

struct ModelOptions {
  std::string model;  ///< a .gguf, a .safetensors, a folder, or a name that a cache knows
  std::string description_file;  ///< empty: the family that config.json names
  int threads = 0;               ///< 0: physical cores
  std::string pin = "auto";      ///< "auto", "on" or "off"
  std::string isa = "auto";
  std::string activation = "int8";       ///< "int8" or "f32"
  std::string mla_prefill = "absorbed";  ///< "absorbed" or "expanded"
  std::string cache_type_k;              ///< "f32", "f16", "bf16", "q8_0"; empty: by the activation
  std::string cache_type_v;
  int context = 0;  ///< positions a request may reach; 0: model's limit, as far as memory goes
  int batch_tokens = 512;            ///< token budget of a step
  double decode_share = 0.7;         ///< of their speed that answers keep beside a prompt
  double max_stall_ms = 200.0;       ///< most that a chunk of a prompt adds to a step beside them
  int max_sequences = 16;            ///< sequences computed together
  double kv_gib = 0.0;               ///< 0: chosen from free memory
  uint64_t expert_memory_bytes = 0;  ///< 0: all experts in memory
  bool prefix_cache = true;
  bool cluster_node = false;  ///< others may read its KV pages
  WeightCacheFlags weight_cache;
  SpeculationFlags speculation;  ///< commands that generate have flags for it
  KvStoreFlags kv_store;         ///< likewise
};

/// The type that a --cache-type flag names; none where it was left out.
std::optional<kernels::KvType> ParseCacheType(const std::string& name);

/// Adds the flags. Every flag also reads HALFMOON_<FLAG> from the environment.
void AddModelOptions(CLI::App* command, ModelOptions* options);

/// Threads as `threads` and `pin` say, on this machine.
ThreadLayout ChooseThreads(int threads, const std::string& pin);

/// --threads and --pin.
void AddThreadOptions(CLI::App* command, int* threads, std::string* pin);

/// Gives each long flag of `command` its environment variable.
void AddEnvironmentNames(CLI::App* command);

}  // namespace halfmoon::app
