// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/hash.h"
#include "model/arch/registry.h"
#include "model/blocks.h"
#include "model/cost.h"
#include "model/description_file.h"
#include "model/expert_store.h"
#include "model/model.h"
#include "model/prepare_weights.h"
#include "model/rope.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "quant/quant.h"

namespace halfmoon::model {
namespace {

// Raised when kernels or blocks change the bits of a forward pass, so that stored KV of an older
// build is never mixed with new.
constexpr int kArithmeticVersion = 2;

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

/// What was asked for and this model cannot do.
Status CheckOptions(const ModelDescription& model, const LoadOptions& options) {
  if (options.max_context < 0 || options.max_context > model.max_positions) {
    return Error(ErrorCode::kInvalidArgument, "a context of " +
                                                  std::to_string(options.max_context) +
                                                  " tokens was asked for; this model reaches " +
                                                  std::to_string(model.max_positions));
  }
  if (options.mla_prefill == MlaPrefill::kExpanded && model.attention.kind != AttentionKind::kMla) {
    return Error(ErrorCode::kInvalidArgument,
                 "expanded MLA prefill was asked for; a " + model.family +
                     " model has grouped-query attention, of which there is one form");
  }
  if (model.attention.kind == AttentionKind::kMla && options.kv_k_type() != options.kv_v_type()) {
    return Error(ErrorCode::kInvalidArgument,
                 "different types of cached keys (" +
                     std::string(kernels::KvTypeName(options.kv_k_type())) + ") and values (" +
                     std::string(kernels::KvTypeName(options.kv_v_type())) +
                     ") were asked for; a " + model.family +
                     " model has latent attention, which keeps both in the same rows");
  }
  if (options.expert_memory_bytes > 0 && !model.has_moe()) {
    return Error(ErrorCode::kInvalidArgument,
                 "an expert memory was asked for; this model has no experts");
  }
  return {};
}

Result<std::unique_ptr<ExpertStore>> OpenExperts(const checkpoint::Checkpoint& checkpoint,
                                                 const ModelDescription& model,
                                                 ExpertCatalog catalog, ThreadPool* pool,
                                                 const LoadOptions& options) {
  HM_ASSIGN(std::unique_ptr<FileReader> reader, options.open_experts(checkpoint.files()));
  return ExpertStore::Create(std::move(catalog), std::move(reader), pool,
                             {.budget_bytes = options.expert_memory_bytes,
                              .num_experts = model.moe.num_experts,
                              .top_k = model.moe.top_k});
}

}  // namespace

struct Model::Impl {
  Impl(std::shared_ptr<const checkpoint::Checkpoint> from, std::string content,
       ModelDescription model_description, PreparedWeights prepared,
       std::unique_ptr<ExpertStore> expert_store, std::vector<float> rope_frequencies,
       ThreadPool* pool, const LoadOptions& load_options, int context)
      : checkpoint(std::move(from)),
        checkpoint_fingerprint(std::move(content)),
        description(std::move(model_description)),
        weight_memory(std::move(prepared.memory)),
        weight_file(prepared.file),
        weights(std::move(prepared.weights)),
        experts(std::move(expert_store)),
        frequencies(std::move(rope_frequencies)),
        options(load_options),
        max_context(context),
        stream(*pool, load_options.isa),
        layout(LayoutOf(description, load_options,
                        description.num_layers() + description.num_mtp_layers)),
        workspace(description, layout, load_options, context, pool->num_threads()) {
    sequences.reserve(static_cast<size_t>(options.max_sequences));
    logit_rows.reserve(static_cast<size_t>(options.max_step_tokens));
    if (!weights.mtp.empty()) {
      mtp_input = RowBuffer(options.max_step_tokens, 2 * description.hidden_dim);
      row_hidden.resize(static_cast<size_t>(options.max_step_tokens) *
                        static_cast<size_t>(description.hidden_dim));
    }
  }

  /// The experts that are not among the weights; nullptr: none.
  const ExpertCatalog* on_disk() const { return experts ? &experts->catalog() : nullptr; }
  /// Forgets the rows of the last step.
  void Begin();
  /// Notes a chunk's rows; returns the number of the first.
  int64_t AddRows(std::span<const int32_t> ids, int32_t start, const kernels::PagedKv& kv);
  void WantLogits(LogitsMode mode, int64_t first_row);
  /// Token embeddings of the noted rows.
  void Embed(const kernels::Rows& out);
  /// The rotation angles of each row.
  void Rotations();
  Step MakeStep(Capture* capture) {
    return {.stream = stream,
            .workspace = workspace,
            .activation = options.activation,
            .num_rows = static_cast<int64_t>(row_ids.size()),
            .sequences = sequences,
            .capture = capture,
            .experts = experts.get()};
  }
  Status RunLayer(const Step& step, const LayerContext& layer);
  LayerContext ContextOf(int layer) const;
  /// Final norm and lm_head for the rows that want logits.
  void Head(std::span<const float> final_norm);
  void KeepHidden(Capture* capture, std::string name, const kernels::Rows& rows) const;

  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;  // owns the embedding's bytes
  std::string checkpoint_fingerprint;                        // empty: not asked for yet
  ModelDescription description;
  std::shared_ptr<const void> weight_memory;  // what `weights` are views of; null: they own it
  WeightFile weight_file;
  ModelWeights weights;
  std::unique_ptr<ExpertStore> experts;  // null: all are among the weights
  std::vector<float> frequencies;
  LoadOptions options;
  int max_context;
  kernels::Stream stream;
  kernels::KvLayout layout;
  Workspace workspace;
  RowBuffer mtp_input;  // [T, 2 H]; empty without a draft layer
  std::vector<kernels::AttentionSequence> sequences;
  std::vector<int32_t> logit_rows;  // rows of the step that want logits
  std::vector<int32_t> row_ids;
  std::vector<int32_t> row_positions;
  std::vector<float> logits;        // grows to the largest request seen
  std::vector<float> final_hidden;  // likewise
  std::vector<float> row_hidden;    // [T, H]; empty without a draft layer
  size_t num_logit_rows = 0;
  std::function<void(int layer)> layer_done;
};

void Model::Impl::Begin() {
  sequences.clear();
  logit_rows.clear();
  row_ids.clear();
  row_positions.clear();
  num_logit_rows = 0;
}

int64_t Model::Impl::AddRows(std::span<const int32_t> ids, int32_t start,
                             const kernels::PagedKv& kv) {
  const auto first = static_cast<int64_t>(row_ids.size());
  sequences.push_back(
      {.row = first, .count = static_cast<int32_t>(ids.size()), .start = start, .kv = kv});
  row_ids.insert(row_ids.end(), ids.begin(), ids.end());
  for (size_t i = 0; i < ids.size(); ++i) {
    row_positions.push_back(start + static_cast<int32_t>(i));
  }
  return first;
}

void Model::Impl::WantLogits(LogitsMode mode, int64_t first_row) {
  const auto end = static_cast<int64_t>(row_ids.size());
  const int64_t first = mode == LogitsMode::kAll    ? first_row
                        : mode == LogitsMode::kLast ? end - 1
                                                    : end;
  for (int64_t row = first; row < end; ++row) logit_rows.push_back(static_cast<int32_t>(row));
}

void Model::Impl::Embed(const kernels::Rows& out) {
  const checkpoint::StoredTensor& embed = *weights.embed;
  const size_t row_bytes = embed.view.bytes.size() / static_cast<size_t>(description.vocab_size);
  stream.pool().ParallelFor(row_ids.size(), [&](size_t i, int) {
    const auto stored = static_cast<size_t>(embed.StoredRow(row_ids[i]));
    // The type was decoded once at load, so this cannot fail.
    const Status decoded =
        quant::DecodeRow(embed.view.dtype, embed.view.bytes.data() + stored * row_bytes,
                         description.hidden_dim, out.row(static_cast<int64_t>(i)));
    HM_DCHECK(decoded.ok());
  });
}

void Model::Impl::Rotations() {
  const size_t half = frequencies.size();
  const float factor = static_cast<float>(description.attention.rope.attention_factor);
  stream.pool().ParallelFor(row_positions.size(), [&](size_t i, int) {
    RopeAngles(frequencies, row_positions[i], factor, workspace.cos.as<float>() + i * half,
               workspace.sin.as<float>() + i * half);
  });
}

Status Model::Impl::RunLayer(const Step& step, const LayerContext& layer) {
  AttentionBlock(step, description, layer);
  if (layer.description.ffn == FfnKind::kMoe) return MoeBlock(step, description, layer);
  DenseFfnBlock(step, description, layer);
  return {};
}

LayerContext Model::Impl::ContextOf(int layer) const {
  const auto at = static_cast<size_t>(layer);
  LayerContext context{.weights = weights.layers[at],
                       .description = description.layers[at],
                       .layout = layout,
                       .kv_layer = layer,
                       .id = layer};
  if (!options.foretell_experts) return context;
  for (size_t next = at + 1; next < weights.layers.size(); ++next) {
    if (description.layers[next].ffn != FfnKind::kMoe) continue;
    context.next_moe = &weights.layers[next];
    context.next_moe_id = static_cast<int>(next);
    break;
  }
  return context;
}

void Model::Impl::KeepHidden(Capture* capture, std::string name, const kernels::Rows& rows) const {
  if (capture == nullptr || !capture->hidden) return;
  Capture::Hidden& kept = capture->hidden_rows.emplace_back();
  kept.name = std::move(name);
  for (int64_t i = 0; i < rows.count; ++i) {
    kept.rows.insert(kept.rows.end(), rows.row(i), rows.row(i) + description.hidden_dim);
  }
}

void Model::Impl::Head(std::span<const float> final_norm) {
  const int64_t h = description.hidden_dim;
  num_logit_rows = logit_rows.size();
  if (num_logit_rows == 0) return;
  const size_t num_logits = num_logit_rows * static_cast<size_t>(description.vocab_size);
  if (logits.size() < num_logits) logits.resize(num_logits);
  const size_t num_hidden = num_logit_rows * static_cast<size_t>(h);
  if (final_hidden.size() < num_hidden) final_hidden.resize(num_hidden);
  const auto count = static_cast<int64_t>(num_logit_rows);
  const kernels::Rows hidden = workspace.hidden.rows(static_cast<int64_t>(row_ids.size()));
  const kernels::Rows chosen{.data = final_hidden.data(), .count = count, .stride = h};
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(chosen.row(i), hidden.row(logit_rows[static_cast<size_t>(i)]),
                static_cast<size_t>(h) * sizeof(float));
  }
  kernels::RmsNorm(stream, chosen, final_norm.data(), h, description.norm_eps, chosen);
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
  Result<ModelDescription> described =
      options.description_file.empty()
          ? Describe(checkpoint->config())
          : DescribeByFile(options.description_file, checkpoint->config());
  if (!described.ok()) return described.error().WithContext(file);
  ModelDescription description = std::move(described).value();
  // A config may tell of a draft layer that whoever converted the weights has left out.
  const bool has_draft_layer =
      checkpoint->Find(TensorName(description.names.mtp_projection, description.num_layers()) +
                       ".weight") != nullptr;
  if (!options.load_mtp || !has_draft_layer) description.num_mtp_layers = 0;
  HM_TRY(CheckOptions(description, options).WithContext(file));
  const int context = options.max_context == 0 ? description.max_positions : options.max_context;

  // Samples of all files are read for it, so only where it is needed.
  std::string content = options.weight_cache != nullptr ? checkpoint->fingerprint() : "";
  HM_ASSIGN(PreparedWeights prepared,
            PrepareWeights(*checkpoint, content, description, pool, options).WithContext(file));
  const checkpoint::StoredTensor& embed = *prepared.weights.embed;
  // Proves that the embedding's type decodes, once, so that a step need not ask.
  std::vector<float> row(static_cast<size_t>(description.hidden_dim));
  HM_TRY(quant::DecodeRow(embed.view.dtype, embed.view.bytes.data(), description.hidden_dim,
                          row.data())
             .WithContext(file + ": tensor '" + description.names.embed + ".weight'"));
  std::vector<float> frequencies = RopeFrequencies(description.attention.rope);
  HM_TRY(ApplyFrequencyFactors(*checkpoint, &frequencies).WithContext(file));
  std::unique_ptr<ExpertStore> experts;
  if (options.expert_memory_bytes > 0) {
    HM_ASSIGN(experts,
              OpenExperts(*checkpoint, description, std::move(prepared.catalog), pool, options)
                  .WithContext(file));
  }
  // From here on the checkpoint is read where a token's embedding is, and nowhere else.
  checkpoint->Release();
  return std::unique_ptr<Model>(new Model(std::make_unique<Impl>(
      std::move(checkpoint), std::move(content), std::move(description), std::move(prepared),
      std::move(experts), std::move(frequencies), pool, options, context)));
}

const ModelDescription& Model::description() const { return impl_->description; }
const kernels::KvLayout& Model::kv_layout() const { return impl_->layout; }
const LoadOptions& Model::options() const { return impl_->options; }
int64_t Model::vocab_size() const { return impl_->description.vocab_size; }
int Model::max_context() const { return impl_->max_context; }
size_t Model::weight_bytes() const {
  return impl_->weights.size_bytes() + (impl_->experts ? impl_->experts->size_bytes() : 0);
}
const WeightFile& Model::weight_file() const { return impl_->weight_file; }
const ExpertMemory* Model::expert_memory() const {
  return impl_->experts ? &impl_->experts->memory() : nullptr;
}
ExpertStats Model::expert_stats() const {
  return impl_->experts ? impl_->experts->stats() : ExpertStats{};
}

Cost Model::CostPerToken() const {
  return model::CostPerToken(impl_->description, impl_->weights, impl_->on_disk(),
                             impl_->options.activation, impl_->stream.isa());
}
double Model::WeightBytesPerStep(int tokens) const {
  return model::WeightBytesPerStep(impl_->description, impl_->weights, impl_->on_disk(), tokens);
}
AttentionCost Model::AttentionCostOf(int64_t depth, int64_t tokens) const {
  return model::AttentionCostOf(impl_->description, impl_->layout, impl_->stream.isa(), depth,
                                tokens);
}

std::string Model::fingerprint() const {
  const kernels::KvLayout& layout = impl_->layout;
  const std::string text =
      (impl_->checkpoint_fingerprint.empty() ? impl_->checkpoint->fingerprint()
                                             : impl_->checkpoint_fingerprint) +
      "/" + std::to_string(static_cast<int>(layout.k_type)) + "/" +
      std::to_string(static_cast<int>(layout.v_type)) + "/" +
      std::to_string(static_cast<int>(impl_->options.activation)) + "/" +
      std::string(kernels::IsaName(impl_->stream.isa())) + "/" +
      std::to_string(kernels::kKvFormatVersion) + "/" + std::to_string(kArithmeticVersion) +
      (impl_->options.mla_prefill == MlaPrefill::kExpanded ? "/expanded" : "") +
      (impl_->weights.mtp.empty() ? "" : "/mtp");
  return HashBytes(std::as_bytes(std::span(text))).ToHex();
}

void Model::SetLayerDone(std::function<void(int layer)> done) {
  impl_->layer_done = std::move(done);
}

void Model::SeatCaller() const { impl_->stream.pool().SeatCaller(); }

Status Model::Forward(std::span<const SequenceChunk> chunks, Capture* capture) noexcept {
  Impl& impl = *impl_;
  impl.Begin();
  for (const SequenceChunk& chunk : chunks) {
    impl.WantLogits(chunk.logits, impl.AddRows(chunk.ids, chunk.start, chunk.kv));
  }
  const auto num_rows = static_cast<int64_t>(impl.row_ids.size());
  HM_CHECK(num_rows <= impl.options.max_step_tokens);
  if (num_rows == 0) return {};

  const kernels::Rows hidden = impl.workspace.hidden.rows(num_rows);
  impl.Embed(hidden);
  impl.Rotations();
  const Step step = impl.MakeStep(capture);
  impl.KeepHidden(capture, "embed", hidden);
  for (int layer = 0; layer < impl.description.num_layers(); ++layer) {
    HM_TRY(impl.RunLayer(step, impl.ContextOf(layer)));
    impl.KeepHidden(capture, std::to_string(layer), hidden);
    if (impl.layer_done) impl.layer_done(layer);
  }
  if (capture != nullptr && capture->hidden) {
    const kernels::Rows normed = impl.workspace.normed.rows(num_rows);
    kernels::RmsNorm(impl.stream, hidden, impl.weights.final_norm.data(),
                     impl.description.hidden_dim, impl.description.norm_eps, normed);
    impl.KeepHidden(capture, "final", normed);
  }
  if (!impl.weights.mtp.empty()) {
    const int64_t h = impl.description.hidden_dim;
    kernels::RmsNorm(impl.stream, hidden, impl.weights.final_norm.data(), h,
                     impl.description.norm_eps,
                     {.data = impl.row_hidden.data(), .count = num_rows, .stride = h});
  }
  impl.Head(impl.weights.final_norm);
  return {};
}

Status Model::ForwardMtp(std::span<const MtpChunk> chunks) noexcept {
  Impl& impl = *impl_;
  HM_CHECK(!impl.weights.mtp.empty());
  const MtpWeights& draft = impl.weights.mtp.front();
  const int64_t h = impl.description.hidden_dim;
  const float eps = impl.description.norm_eps;
  impl.Begin();
  for (const MtpChunk& chunk : chunks) {
    HM_CHECK(chunk.hidden.size() == chunk.next_ids.size() * static_cast<size_t>(h));
    impl.WantLogits(chunk.logits, impl.AddRows(chunk.next_ids, chunk.start, chunk.kv));
  }
  const auto num_rows = static_cast<int64_t>(impl.row_ids.size());
  HM_CHECK(num_rows <= impl.options.max_step_tokens);
  if (num_rows == 0) return {};

  const kernels::Rows input = impl.mtp_input.rows(num_rows);
  const kernels::Rows upper{.data = input.data + h, .count = num_rows, .stride = input.stride};
  impl.Embed(input);
  int64_t row = 0;
  for (const MtpChunk& chunk : chunks) {
    for (size_t i = 0; i < chunk.next_ids.size(); ++i, ++row) {
      std::memcpy(upper.row(row), chunk.hidden.data() + i * static_cast<size_t>(h),
                  static_cast<size_t>(h) * sizeof(float));
    }
  }
  impl.Rotations();
  kernels::RmsNorm(impl.stream, input, draft.embed_norm.data(), h, eps, input);
  kernels::RmsNorm(impl.stream, upper, draft.hidden_norm.data(), h, eps, upper);
  Workspace& ws = impl.workspace;
  ws.activations.Set(impl.stream, input, 2 * h, impl.options.activation);
  const kernels::MatMulJob projection[] = {
      ws.activations.Job(draft.projection.weight, ws.hidden.rows(num_rows))};
  kernels::MatMul(impl.stream, projection);
  const LayerDescription layer{.ffn = impl.description.has_moe() ? FfnKind::kMoe : FfnKind::kDense};
  HM_TRY(impl.RunLayer(impl.MakeStep(nullptr), {.weights = draft.layer,
                                                .description = layer,
                                                .layout = impl.layout,
                                                .kv_layer = impl.description.num_layers(),
                                                .id = impl.description.num_layers()}));
  impl.Head(draft.final_norm);
  return {};
}

std::span<const float> Model::logits() const {
  return {impl_->logits.data(),
          impl_->num_logit_rows * static_cast<size_t>(impl_->description.vocab_size)};
}

std::span<const float> Model::final_hidden() const {
  return {impl_->final_hidden.data(),
          impl_->num_logit_rows * static_cast<size_t>(impl_->description.hidden_dim)};
}

int Model::num_mtp_layers() const { return static_cast<int>(impl_->weights.mtp.size()); }
std::span<const float> Model::row_hidden() const { return impl_->row_hidden; }

}  // namespace halfmoon::model
