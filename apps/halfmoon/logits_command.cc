// SPDX-License-Identifier: Apache-2.0
// `halfmoon logits`: token ids in, logits of every position out. With `generate`, how a model port
// is checked (docs/formats/logits.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <limits>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "checkpoint/safetensors_writer.h"
#include "engine/token_lists.h"
#include "model/contiguous_kv.h"

namespace halfmoon::app {
namespace {

struct LogitsOptions {
  ModelOptions model;
  std::string ids;
  std::string out;
  std::vector<std::string> capture;
  int chunk = 0;
};

/// Captured rows of the chunks of one list, put together.
struct ListOutput {
  std::vector<float> logits;
  std::vector<model::Capture::Hidden> hidden;
  std::vector<model::Capture::Router> router;
  std::vector<model::Capture::Indexer> indexer;
};

template <typename T>
void AppendRows(std::vector<T>* to, const std::vector<T>& from) {
  to->insert(to->end(), from.begin(), from.end());
}

/// Appends the rows of one chunk of a list of num_tokens.
void Merge(const model::Capture& part, int64_t num_tokens, ListOutput* output) {
  output->hidden.resize(part.hidden_rows.size());
  output->router.resize(part.router_rows.size());
  output->indexer.resize(part.indexer_rows.size());
  for (size_t i = 0; i < part.hidden_rows.size(); ++i) {
    output->hidden[i].name = part.hidden_rows[i].name;
    AppendRows(&output->hidden[i].rows, part.hidden_rows[i].rows);
  }
  for (size_t i = 0; i < part.router_rows.size(); ++i) {
    output->router[i].layer = part.router_rows[i].layer;
    AppendRows(&output->router[i].logits, part.router_rows[i].logits);
    AppendRows(&output->router[i].indices, part.router_rows[i].indices);
    AppendRows(&output->router[i].weights, part.router_rows[i].weights);
  }
  for (size_t i = 0; i < part.indexer_rows.size(); ++i) {
    model::Capture::Indexer& to = output->indexer[i];
    const model::Capture::Indexer& from = part.indexer_rows[i];
    to.layer = from.layer;
    // Rows of a chunk end at its last position; in the file all are as wide as the list is long.
    for (size_t row = 0; row * static_cast<size_t>(from.width) < from.scores.size(); ++row) {
      const auto* first = from.scores.data() + row * static_cast<size_t>(from.width);
      to.scores.insert(to.scores.end(), first, first + from.width);
      to.scores.insert(to.scores.end(), static_cast<size_t>(num_tokens - from.width),
                       -std::numeric_limits<float>::infinity());
    }
    AppendRows(&to.top_k, from.top_k);
  }
}

Result<ListOutput> Compute(model::Model* model, const std::vector<int32_t>& ids,
                           size_t chunk_tokens, const model::Capture& wanted) {
  ListOutput output;
  model::ContiguousKv kv(model->kv_layout(), static_cast<int64_t>(ids.size()));
  for (size_t begin = 0; begin < ids.size(); begin += chunk_tokens) {
    const size_t count = std::min(chunk_tokens, ids.size() - begin);
    const model::SequenceChunk chunk{.ids = {ids.data() + begin, count},
                                     .start = static_cast<int32_t>(begin),
                                     .kv = kv.view(),
                                     .logits = model::LogitsMode::kAll};
    model::Capture part{
        .hidden = wanted.hidden, .router = wanted.router, .indexer = wanted.indexer};
    HM_TRY(model->Forward({&chunk, 1}, &part));
    output.logits.insert(output.logits.end(), model->logits().begin(), model->logits().end());
    Merge(part, static_cast<int64_t>(ids.size()), &output);
  }
  return output;
}

/// What a list of `rows` tokens puts into the file, in order; names and shapes follow from the
/// description.
template <typename T>
void Add(const std::string& name, const std::vector<T>& values, int64_t rows, tensor::DType dtype,
         std::vector<checkpoint::NamedTensor>* tensors) {
  const auto width = static_cast<int64_t>(values.size()) / rows;
  tensors->push_back(
      {.name = name,
       .view = {
           .dtype = dtype, .shape = {rows, width}, .bytes = std::as_bytes(std::span(values))}});
}

int RunLogits(const LogitsOptions& options) {
  Result<std::unique_ptr<Runtime>> runtime =
      LoadRuntime(options.model, /*tokenizer_required=*/false, TerminalProgress());
  if (!runtime.ok()) return Fail(runtime.error());
  model::Model* model = (*runtime)->model.get();
  Result<std::vector<std::vector<int32_t>>> lists =
      engine::ReadTokenLists(options.ids, model->vocab_size());
  if (!lists.ok()) return Fail(lists.error());

  model::Capture wanted;
  for (const std::string& what : options.capture) {
    wanted.hidden |= what == "hidden";
    wanted.router |= what == "router";
    wanted.indexer |= what == "indexer";
    const bool sparse = model->description().attention.indexer.num_heads > 0;
    if ((what == "indexer" && !sparse) || (what == "router" && !model->description().has_moe())) {
      std::fprintf(stderr,
                   "halfmoon: --capture %s: a %s model has none; nothing is written for it\n",
                   what.c_str(), model->description().family.c_str());
    }
  }
  const auto chunk =
      static_cast<size_t>(options.chunk > 0 ? options.chunk : model->options().max_step_tokens);
  std::vector<ListOutput> outputs;
  for (size_t i = 0; i < lists->size(); ++i) {
    const std::vector<int32_t>& ids = (*lists)[i];
    if (ids.size() > static_cast<size_t>(model->max_context())) {
      return Fail(Error(ErrorCode::kInvalidArgument,
                        options.ids + ": list " + std::to_string(i) + " has " +
                            std::to_string(ids.size()) + " tokens; the context is " +
                            std::to_string(model->max_context()) + " (-c)"));
    }
    Result<ListOutput> output = Compute(
        model, ids, std::min(chunk, static_cast<size_t>(model->options().max_step_tokens)), wanted);
    if (!output.ok()) return Fail(output.error());
    outputs.push_back(std::move(output).value());
  }

  std::vector<checkpoint::NamedTensor> tensors;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto rows = static_cast<int64_t>((*lists)[i].size());
    const std::string suffix = "." + std::to_string(i);
    Add("logits" + suffix, outputs[i].logits, rows, tensor::DType::kF32, &tensors);
    for (const model::Capture::Hidden& hidden : outputs[i].hidden) {
      Add("hidden" + suffix + "." + hidden.name, hidden.rows, rows, tensor::DType::kF32, &tensors);
    }
    for (const model::Capture::Router& router : outputs[i].router) {
      const std::string prefix = "router" + suffix + "." + std::to_string(router.layer);
      Add(prefix + ".logits", router.logits, rows, tensor::DType::kF32, &tensors);
      Add(prefix + ".indices", router.indices, rows, tensor::DType::kI32, &tensors);
      Add(prefix + ".weights", router.weights, rows, tensor::DType::kF32, &tensors);
    }
    for (const model::Capture::Indexer& indexer : outputs[i].indexer) {
      const std::string prefix = "indexer" + suffix + "." + std::to_string(indexer.layer);
      Add(prefix + ".scores", indexer.scores, rows, tensor::DType::kF32, &tensors);
      Add(prefix + ".topk", indexer.top_k, rows, tensor::DType::kI32, &tensors);
    }
  }
  const Status written = checkpoint::WriteSafetensors(options.out, tensors);
  if (!written.ok()) return Fail(written.error());
  std::fprintf(stderr, "wrote %zu tensors to %s\n", tensors.size(), options.out.c_str());
  return kExitOk;
}

}  // namespace

void AddLogitsCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      app->add_subcommand("logits", "Logits of every position of given token ids, as safetensors");
  AddModelOptions(command, &options->model);
  command
      ->add_option("--ids", options->ids,
                   "JSON file with a list of token-id lists: [[504, 3575], [1, 2, 3]]")
      ->required();
  command
      ->add_option("--out", options->out,
                   "File to write: logits.<i> f32 [T, V] for list i, and what was captured")
      ->required();
  command
      ->add_option(
          "--capture", options->capture,
          "Also keep, comma separated: hidden (hidden.<i>.embed, .<layer>, .final), router "
          "(router.<i>.<layer>.logits, .indices, .weights), indexer (sparse attention: "
          "indexer.<i>.<layer>.scores, .topk)")
      ->delimiter(',')
      ->check(CLI::IsMember({"hidden", "router", "indexer"}));
  command
      ->add_option(
          "--chunk", options->chunk,
          "Tokens computed at once (default: --batch-size). Never changes a bit of the output")
      ->check(CLI::PositiveNumber);
  command->footer(
      "Example:\n  echo '[[504, 3575, 282, 4649, 314]]' > ids.json\n"
      "  halfmoon logits -m model.gguf --ids ids.json --out out.safetensors --activation f32");
  command->callback([options, action] { *action = [options] { return RunLogits(*options); }; });
}

}  // namespace halfmoon::app
