// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/model_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

namespace halfmoon::app {
namespace {

constexpr kernels::KvType kCacheTypes[] = {kernels::KvType::kF32, kernels::KvType::kF16,
                                           kernels::KvType::kBF16, kernels::KvType::kQ8_0};

CLI::IsMember IsCacheType() {
  std::vector<std::string> names;
  for (const kernels::KvType type : kCacheTypes) names.emplace_back(kernels::KvTypeName(type));
  return CLI::IsMember(std::move(names));
}

}  // namespace

std::optional<kernels::KvType> ParseCacheType(const std::string& name) {
  for (const kernels::KvType type : kCacheTypes) {
    if (name == kernels::KvTypeName(type)) return type;
  }
  return std::nullopt;
}

void AddModelOptions(CLI::App* command, ModelOptions* options) {
  command
      ->add_option("-m,--model", options->model,
                   "Model: a .gguf file, a .safetensors file with its config.json beside it, a "
                   "folder with config.json and weights, or the name (org/name[:quant]) of one "
                   "that `halfmoon list` shows")
      ->required()
      ->group("Model");
  command
      ->add_option("-c,--ctx-size,--max-model-len", options->context,
                   "Most tokens of one conversation, prompt and answer together (default: what "
                   "the model reaches, as far as memory goes)")
      ->check(CLI::NonNegativeNumber)
      ->group("Model");
  command
      ->add_option("--describe", options->description_file,
                   "Description file for a model_type that is not built in but made of known parts "
                   "(docs/formats/description.md)")
      ->check(CLI::ExistingFile)
      ->group("Model");
  AddThreadOptions(command, &options->threads, &options->pin);
  command
      ->add_option(
          "--isa", options->isa,
          "Kernels: auto, generic, avx2, avx512, avx512bf16, neon or dotprod (default: the "
          "strongest this CPU runs)")
      ->group("Machine");
  command
      ->add_option("--activation", options->activation,
                   "Precision of activations: int8 (fast; used where weights are integers; where "
                   "they are bfloat16 or float8 and the CPU multiplies bfloat16, activations are "
                   "that) or f32 "
                   "(everything in float32, KV cache included)")
      ->check(CLI::IsMember({"int8", "f32"}))
      ->capture_default_str()
      ->group("Model");
  command
      ->add_option(
          "--cache-type-k", options->cache_type_k,
          "Type of cached keys: f32, f16, bf16, as large as f16 but coarser, which with "
          "--isa avx512bf16 makes long prompts faster if values are bf16 too, or q8_0, "
          "about half as large as f16 (default: f16, with --activation f32 f32; also "
          "-ctk). Models with latent attention (DeepSeek, Kimi) take one type for keys and "
          "values")
      ->check(IsCacheType())
      ->group("Model");
  command
      ->add_option("--cache-type-v", options->cache_type_v,
                   "Type of cached values, likewise (also -ctv)")
      ->check(IsCacheType())
      ->group("Model");
  command
      ->add_option(
          "--mla-prefill", options->mla_prefill,
          "Prompts of models with latent attention (DeepSeek, Kimi): absorbed (as generated "
          "tokens are computed) or expanded (faster on long prompts; the last bits of a "
          "token may then change with the chunks a prompt is cut into, and between "
          "prompted and generated tokens)")
      ->check(CLI::IsMember({"absorbed", "expanded"}))
      ->capture_default_str()
      ->group("Model");
  command
      ->add_option("-b,--batch-size,--max-num-batched-tokens", options->batch_tokens,
                   "Tokens computed in one step; longer prompts are cut into chunks")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--decode-share", options->decode_share,
                   "Part of their speed that running answers keep while the prompt of another "
                   "request is read (chunked prefill): 0.7 slows them by 30 %, 0 reads prompts as "
                   "fast as it goes and answers crawl meanwhile. Each further prompt that waits "
                   "gets as much time as the first")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--max-stall", options->max_stall_ms,
                   "Most milliseconds that a running answer stands still for a chunk of somebody's "
                   "prompt: chunks are sized for it by what steps are measured to cost. Larger "
                   "chunks read prompts faster")
      ->check(CLI::Range(1.0, 60000.0))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--parallel,--max-num-seqs", options->max_sequences,
                   "Sequences computed together (also -np)")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--kv-memory", options->kv_gib,
                   "GiB of memory for the KV cache (default: chosen from free memory)")
      ->check(CLI::NonNegativeNumber)
      ->group("Machine");
  command
      ->add_option("--expert-memory", options->expert_memory_bytes,
                   "Leave the experts on disk and keep those in use within this much memory, such "
                   "as 8G or 512M: for models larger than memory (default: all in memory)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->group("Machine");
  AddWeightCacheOptions(command, &options->weight_cache);
  command
      ->add_flag("!--no-prefix-cache", options->prefix_cache,
                 "Compute every prompt whole instead of reusing the KV of equal beginnings")
      ->group("Machine");
}

void AddThreadOptions(CLI::App* command, int* threads, std::string* pin) {
  command
      ->add_option("-t,--threads", *threads,
                   "Threads that compute (default: one per physical core)")
      ->check(CLI::Range(0, 1024))
      ->group("Machine");
  command
      ->add_option(
          "--pin", *pin,
          "on: each thread keeps to a core of its own; off: the system moves threads as it "
          "likes; auto: threads keep to their NUMA node where there are several, so that "
          "they stay near their part of the weights")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str()
      ->group("Machine");
}

ThreadLayout ChooseThreads(int threads, const std::string& pin) {
  const Pinning pinning = pin == "on"    ? Pinning::kOn
                          : pin == "off" ? Pinning::kOff
                                         : Pinning::kAuto;
  return PlanThreads(ReadTopology(), threads, pinning);
}

void AddEnvironmentNames(CLI::App* command) {
  for (CLI::Option* option : command->get_options()) {
    if (option->get_lnames().empty() || option->get_lnames().front() == "help") continue;
    std::string name = "HALFMOON_" + option->get_lnames().front();
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    option->envname(name);
  }
}

}  // namespace halfmoon::app
