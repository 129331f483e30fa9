// SPDX-License-Identifier: Apache-2.0
// `halfmoon quantize`: a model written again with its linear weights in a smaller type.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "apps/halfmoon/text_perplexity.h"
#include "model/requantize.h"

namespace halfmoon::app {
namespace {

struct QuantizeOptions {
  ModelOptions model;  ///< of what is read; the machine's flags serve the perplexity too
  std::string out;
  std::string type;
  bool force = false;
  bool quiet = false;
  std::string perplexity_file;
  TextPerplexityOptions text;
};

constexpr double kMiB = 1024.0 * 1024.0;

void PrintTensor(const model::RequantizedTensor& t, size_t done, size_t total) {
  const double percent =
      total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total);
  std::printf("%3.0f %%  %-56s %-16s ", percent, t.name.c_str(), t.shape.ToString().c_str());
  if (t.from == t.to) {
    std::printf("%s stays\n", t.from.c_str());
  } else {
    std::printf("%s > %s, relative RMS error %.6f, largest %.3g\n", t.from.c_str(), t.to.c_str(),
                t.relative_rms, t.max_abs);
  }
}

void PrintSummary(const model::RequantizeSummary& s) {
  std::printf(
      "%s: %lld of %lld tensors changed, relative RMS error %.6f over all that changed\n"
      "%.1f MiB of weights > %.1f MiB (%.1f %%)\n",
      s.out.c_str(), static_cast<long long>(s.num_changed), static_cast<long long>(s.num_tensors),
      s.relative_rms, static_cast<double>(s.from_bytes) / kMiB,
      static_cast<double>(s.to_bytes) / kMiB,
      s.from_bytes == 0
          ? 100.0
          : 100.0 * static_cast<double>(s.to_bytes) / static_cast<double>(s.from_bytes));
}

Result<TextPerplexity> PerplexityOf(const QuantizeOptions& options, const std::string& model) {
  ModelOptions model_options = options.model;
  model_options.model = model;
  std::fprintf(stderr, "measuring the perplexity of %s\n", model.c_str());
  HM_ASSIGN(const std::unique_ptr<Runtime> runtime,
            LoadRuntime(model_options, /*tokenizer_required=*/true, TerminalProgress()));
  TextPerplexityOptions text = options.text;
  text.window = options.model.context;
  return ComputeTextPerplexity(runtime.get(), options.perplexity_file, text);
}

int ComparePerplexity(const QuantizeOptions& options, const std::string& out) {
  const Result<TextPerplexity> before = PerplexityOf(options, options.model.model);
  if (!before.ok()) return Fail(before.error());
  const Result<TextPerplexity> after = PerplexityOf(options, out);
  if (!after.ok()) return Fail(after.error());
  const double from = before->result.value();
  const double to = after->result.value();
  std::printf("perplexity  %.4f +/- %.4f > %.4f +/- %.4f (%+.2f %%), %lld tokens of %s\n", from,
              before->result.value_standard_error(), to, after->result.value_standard_error(),
              100.0 * (to / from - 1.0), static_cast<long long>(before->result.scored_tokens),
              options.perplexity_file.c_str());
  return kExitOk;
}

int RunQuantize(const QuantizeOptions& options) {
  ThreadPool pool(options.model.threads > 0 ? options.model.threads : DefaultThreadCount());
  model::RequantizeOptions requantize{.type = options.type, .force = options.force};
  const LoadProgress progress = TerminalProgress();
  requantize.report = [&](const model::RequantizedTensor& tensor, size_t done, size_t total) {
    if (options.quiet) {
      progress(done, total);
    } else {
      PrintTensor(tensor, done, total);
      std::fflush(stdout);
    }
  };
  const Result<ModelSource> source = FindModelSource(options.model.model);
  if (!source.ok()) return Fail(source.error());
  const Result<model::RequantizeSummary> summary =
      model::Requantize(source->path, options.out, requantize, &pool);
  if (!summary.ok()) return Fail(summary.error());
  PrintSummary(*summary);
  if (options.perplexity_file.empty()) return kExitOk;
  return ComparePerplexity(options, summary->out.string());
}

std::string Joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

void AddQuantizeCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = app->add_subcommand(
      "quantize", "Write a model again with smaller weights, and say what it costs");
  AddModelOptions(command, &options->model);
  command
      ->add_option("-o,--out", options->out,
                   "What to write: a .gguf file for a GGUF model, a folder for safetensors")
      ->required();
  command
      ->add_option("--type", options->type,
                   "Type of the linear weights. GGUF: " + Joined(model::GgufTargets()) +
                       ". Safetensors: " + Joined(model::SafetensorsTargets()))
      ->required();
  command->add_flag("--force", options->force, "Replace what is there");
  command->add_flag("-q,--quiet", options->quiet, "Totals only, not a line for each tensor");
  command
      ->add_option("--perplexity", options->perplexity_file,
                   "Text file: then measure the perplexity of both models on it")
      ->check(CLI::ExistingFile);
  AddTextPerplexityOptions(command, &options->text);
  command->footer(
      "Linear weights change; embeddings, routers, norms, biases and (safetensors) the output "
      "head\n"
      "stay, and so does what is as small already. Matrices whose rows are not whole blocks of "
      "256\n"
      "take a type with blocks of 32. Safetensors become integers with a scale for 32 inputs, in\n"
      "the form of compressed-tensors, which other engines read too.\n\n"
      "Examples:\n"
      "  halfmoon quantize -m model-bf16.gguf -o model-q4_k.gguf --type q4_k\n"
      "  halfmoon quantize -m model -o model-int4 --type int4 --perplexity text.txt");
  command->callback([options, action] { *action = [options] { return RunQuantize(*options); }; });
}

}  // namespace halfmoon::app
