// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/hash.h"
#include "model/arch/registry.h"
#include "model/blocks.h"
#include "model/cost.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "quant/quant.h"

namespace halfmoon::model {
namespace {

// Raised when kernels or blocks change the bits of a forward pass, so that stored KV of an older
// build is never mixed with new.
constexpr int kArithmeticVersion = 1;

/// Divides frequencies by the per-pair factors that GGUF files carry instead of a rope_scaling
/// entry.
Status ApplyFrequencyFactors(const checkpoint::Checkpoint& checkpoint,
                             std::vector<float>* frequencies) {
  const checkpoint::StoredTensor* stored = checkpoint.Find("rope_freqs.weight");
  if (stored == nullptr) return {};
  const auto n = static_cast<int64_t>(frequencies->size());
  if (stored->view.shape != tensor::Shape{n}) {
    return Error(ErrorCode::kInvalidArgument, "tensor 'rope_freqs.weight': expected shape [" +
                                                  std::to_string(n) + "], found " +
                                                  stored->view.shape.ToString());
  }
  std::vector<float> factors(frequencies->size());
  HM_TRY(quant::DecodeRow(stored->view.dtype, stored->view.bytes.data(), n, factors.data()));
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0.0f)) {
      return Error(ErrorCode::kCorrupt,
                   "tensor 'rope_freqs.weight': factor " + std::to_string(i) + " is not positive");
    }
    (*frequencies)[i] /= factors[i];
  }
  return {};
}

kernels::KvLayout LayoutFor(const ModelDescription& model, const LoadOptions& options) {
  return {.num_layers = model.num_layers(),
          .num_kv_heads = model.attention.num_kv_heads,
          .head_dim = model.attention.head_dim,
          .block_size = options.block_size,
          .type = options.activation == Activation::kF32 ? kernels::KvType::kF32
                                                         : kernels::KvType::kF16};
}

}  // namespace

struct Model::Impl {
  Impl(std::shared_ptr<const checkpoint::Checkpoint> from, ModelDescription model_description,
       ModelWeights model_weights, std::vector<float> rope_frequencies, ThreadPool* pool,
       const LoadOptions& load_options, int context)
      : checkpoint(std::move(from)),
        description(std::move(model_description)),
        weights(std::move(model_weights)),
        frequencies(std::move(rope_frequencies)),
        options(load_options),
        max_context(context),
        stream(*pool, load_options.isa),
        layout(LayoutFor(description, load_options)),
        workspace(description, layout, load_options, context, pool->num_threads()) {
    sequences.reserve(static_cast<size_t>(options.max_sequences));
    logit_rows.reserve(static_cast<size_t>(options.max_step_tokens));
  }

  /// Token embeddings into the residual stream, and the rotation angles of each row.
  void Embed(std::span<const SequenceChunk> chunks, int64_t num_rows);
  /// Final norm and lm_head for the rows that want logits.
  void Head(int64_t num_rows, Capture* capture);
  void KeepHidden(Capture* capture, std::string name, const kernels::Rows& rows) const;

  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;  // owns the embedding's bytes
  ModelDescription description;
  ModelWeights weights;
  std::vector<float> frequencies;
  LoadOptions options;
  int max_context;
  kernels::Stream stream;
  kernels::KvLayout layout;
  Workspace workspace;
  std::vector<kernels::AttentionSequence> sequences;
  std::vector<int32_t> logit_rows;  // rows of the step that want logits
  std::vector<int32_t> row_ids;
  std::vector<int32_t> row_positions;
  std::vector<float> logits;  // grows to the largest request seen
  size_t num_logits = 0;
};

void Model::Impl::Embed(std::span<const SequenceChunk> chunks, int64_t num_rows) {
  row_ids.clear();
  row_positions.clear();
  for (const SequenceChunk& chunk : chunks) {
    for (size_t i = 0; i < chunk.ids.size(); ++i) {
      row_ids.push_back(chunk.ids[i]);
      row_positions.push_back(chunk.start + static_cast<int32_t>(i));
    }
  }
  const kernels::Rows hidden = workspace.hidden.rows(num_rows);
  const checkpoint::StoredTensor& embed = *weights.embed;
  const size_t row_bytes = embed.view.bytes.size() / static_cast<size_t>(description.vocab_size);
  const size_t half = frequencies.size();
  const float factor = static_cast<float>(description.attention.rope.attention_factor);
  stream.pool().ParallelFor(static_cast<size_t>(num_rows), [&](size_t i, int) {
    const auto stored = static_cast<size_t>(embed.StoredRow(row_ids[i]));
    // The type was decoded once at load, so this cannot fail.
    const Status decoded =
        quant::DecodeRow(embed.view.dtype, embed.view.bytes.data() + stored * row_bytes,
                         description.hidden_dim, hidden.row(static_cast<int64_t>(i)));
    HM_DCHECK(decoded.ok());
    RopeAngles(frequencies, row_positions[i], factor, workspace.cos.as<float>() + i * half,
               workspace.sin.as<float>() + i * half);
  });
}

void Model::Impl::KeepHidden(Capture* capture, std::string name, const kernels::Rows& rows) const {
  if (capture == nullptr || !capture->hidden) return;
  Capture::Hidden& kept = capture->hidden_rows.emplace_back();
  kept.name = std::move(name);
  for (int64_t i = 0; i < rows.count; ++i) {
    kept.rows.insert(kept.rows.end(), rows.row(i), rows.row(i) + description.hidden_dim);
  }
}

void Model::Impl::Head(int64_t num_rows, Capture* capture) {
  const int64_t h = description.hidden_dim;
  const kernels::Rows hidden = workspace.hidden.rows(num_rows);
  if (capture != nullptr && capture->hidden) {
    const kernels::Rows normed = workspace.normed.rows(num_rows);
    kernels::RmsNorm(stream, hidden, weights.final_norm.data(), h, description.norm_eps, normed);
    KeepHidden(capture, "final", normed);
  }
  const auto count = static_cast<int64_t>(logit_rows.size());
  num_logits = logit_rows.size() * static_cast<size_t>(description.vocab_size);
  if (count == 0) return;
  if (logits.size() < num_logits) logits.resize(num_logits);
  const kernels::Rows chosen = workspace.normed.rows(count);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(chosen.row(i), hidden.row(logit_rows[static_cast<size_t>(i)]),
                static_cast<size_t>(h) * sizeof(float));
  }
  kernels::RmsNorm(stream, chosen, weights.final_norm.data(), h, description.norm_eps, chosen);
  workspace.activations.Set(stream, chosen, h, options.activation);
  const kernels::Rows out{.data = logits.data(), .count = count, .stride = description.vocab_size};
  const kernels::MatMulJob head[] = {workspace.activations.Job(weights.lm_head.weight, out)};
  kernels::MatMul(stream, head);
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::Load(std::shared_ptr<const checkpoint::Checkpoint> checkpoint,
                                           ThreadPool* pool, const LoadOptions& options) {
  const std::string file = checkpoint->path().string();
  Result<ModelDescription> described = Describe(checkpoint->config());
  if (!described.ok()) return described.error().WithContext(file);
  ModelDescription description = std::move(described).value();
  const int limit = description.max_positions;
  if (options.max_context < 0 || options.max_context > limit) {
    return Error(ErrorCode::kInvalidArgument,
                 file + ": a context of " + std::to_string(options.max_context) +
                     " tokens was asked for; this model reaches " + std::to_string(limit));
  }
  const int context = options.max_context == 0 ? limit : options.max_context;

  checkpoint->Prefetch();
  Result<ModelWeights> weights = LoadWeights(*checkpoint, description, pool, options.progress);
  if (!weights.ok()) return weights.error().WithContext(file);
  // Proves that the embedding's type decodes, once, so that a step need not ask.
  std::vector<float> row(static_cast<size_t>(description.hidden_dim));
  HM_TRY(quant::DecodeRow(weights->embed->view.dtype, weights->embed->view.bytes.data(),
                          description.hidden_dim, row.data())
             .WithContext(file + ": tensor '" + description.names.embed + ".weight'"));
  std::vector<float> frequencies = RopeFrequencies(description.attention.rope);
  HM_TRY(ApplyFrequencyFactors(*checkpoint, &frequencies).WithContext(file));
  return std::unique_ptr<Model>(new Model(std::make_unique<Impl>(
      std::move(checkpoint), std::move(description), std::move(weights).value(),
      std::move(frequencies), pool, options, context)));
}

const ModelDescription& Model::description() const { return impl_->description; }
const kernels::KvLayout& Model::kv_layout() const { return impl_->layout; }
const LoadOptions& Model::options() const { return impl_->options; }
int64_t Model::vocab_size() const { return impl_->description.vocab_size; }
int Model::max_context() const { return impl_->max_context; }
size_t Model::weight_bytes() const { return impl_->weights.size_bytes(); }

Cost Model::CostPerToken() const {
  return model::CostPerToken(impl_->description, impl_->weights, impl_->options.activation);
}
double Model::WeightBytesPerStep(int tokens) const {
  return model::WeightBytesPerStep(impl_->description, impl_->weights, tokens);
}

std::string Model::fingerprint() const {
  const kernels::KvLayout& layout = impl_->layout;
  const std::string text =
      impl_->checkpoint->fingerprint() + "/" + std::to_string(static_cast<int>(layout.type)) + "/" +
      std::to_string(static_cast<int>(impl_->options.activation)) + "/" +
      std::string(kernels::IsaName(impl_->stream.isa())) + "/" +
      std::to_string(kernels::kKvFormatVersion) + "/" + std::to_string(kArithmeticVersion);
  return HashBytes(std::as_bytes(std::span(text))).ToHex();
}

void Model::Forward(std::span<const SequenceChunk> chunks, Capture* capture) noexcept {
  Impl& impl = *impl_;
  impl.sequences.clear();
  impl.logit_rows.clear();
  int64_t num_rows = 0;
  for (const SequenceChunk& chunk : chunks) {
    const auto count = static_cast<int32_t>(chunk.ids.size());
    impl.sequences.push_back(
        {.row = num_rows, .count = count, .start = chunk.start, .kv = chunk.kv});
    const auto end = static_cast<int32_t>(num_rows) + count;
    const int32_t first = chunk.logits == LogitsMode::kAll    ? static_cast<int32_t>(num_rows)
                          : chunk.logits == LogitsMode::kLast ? end - 1
                                                              : end;
    for (int32_t row = first; row < end; ++row) impl.logit_rows.push_back(row);
    num_rows += count;
  }
  HM_CHECK(num_rows <= impl.options.max_step_tokens);
  impl.num_logits = 0;
  if (num_rows == 0) return;

  impl.Embed(chunks, num_rows);
  const Step step{.stream = impl.stream,
                  .workspace = impl.workspace,
                  .activation = impl.options.activation,
                  .num_rows = num_rows,
                  .sequences = impl.sequences,
                  .capture = capture};
  const kernels::Rows hidden = impl.workspace.hidden.rows(num_rows);
  impl.KeepHidden(capture, "embed", hidden);
  for (int layer = 0; layer < impl.description.num_layers(); ++layer) {
    const LayerWeights& weights = impl.weights.layers[static_cast<size_t>(layer)];
    AttentionBlock(step, impl.description, impl.layout, layer, weights);
    if (impl.description.layers[static_cast<size_t>(layer)].ffn == FfnKind::kDense) {
      DenseFfnBlock(step, impl.description, weights);
    } else {
      MoeBlock(step, impl.description, layer, weights);
    }
    impl.KeepHidden(capture, std::to_string(layer), hidden);
  }
  impl.Head(num_rows, capture);
}

std::span<const float> Model::logits() const { return {impl_->logits.data(), impl_->num_logits}; }

}  // namespace halfmoon::model
