// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/model_options.h"

#include <algorithm>
#include <cctype>

namespace halfmoon::app {

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
  command
      ->add_option("-t,--threads", options->threads,
                   "Threads that compute (default: one per physical core)")
      ->check(CLI::Range(0, 1024))
      ->group("Machine");
  command
      ->add_option(
          "--isa", options->isa,
          "Kernels: auto, generic, avx2, avx512, neon or dotprod (default: the strongest this "
          "CPU runs)")
      ->group("Machine");
  command
      ->add_option("--activation", options->activation,
                   "Precision of activations: int8 (fast; used where weights are quantised) or "
                   "f32 (everything in float32, KV cache included)")
      ->check(CLI::IsMember({"int8", "f32"}))
      ->capture_default_str()
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
  command
      ->add_flag("!--no-prefix-cache", options->prefix_cache,
                 "Compute every prompt whole instead of reusing the KV of equal beginnings")
      ->group("Machine");
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
