// SPDX-License-Identifier: Apache-2.0
#include "golden/golden_data.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>

#include "base/file.h"
#include "base/sanitized.h"
#include "model/contiguous_kv.h"
#include "quant/quant.h"

namespace halfmoon::golden {
namespace {

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message());
  return std::move(result).value();
}

/// A checkpoint whose matrices are replaced by encoded copies.
class QuantisedCheckpoint final : public checkpoint::Checkpoint {
 public:
  QuantisedCheckpoint(std::shared_ptr<const checkpoint::Checkpoint> from, tensor::DType dtype)
      : from_(std::move(from)), dtype_(dtype) {
    for (const std::string& name : from_->Names()) {
      const checkpoint::StoredTensor& stored = *from_->Find(name);
      if (stored.scales.has_value()) continue;  // Quantised as published.
      // As published quantised files have it: embeddings and norms stay, and so do what chooses
      // experts or keys, and rows of uneven length.
      const bool router = name.ends_with("mlp.gate.weight") || name.ends_with("moe.gate.weight");
      const bool matrix = stored.view.shape.rank() == 2 &&
                          stored.view.shape[1] % tensor::Info(dtype_).block_elements == 0;
      const bool kept =
          name.find("embed") != std::string::npos || name.find(".indexer.") != std::string::npos;
      if (!matrix || router || kept) continue;
      replaced_.emplace(name, Encode(stored));
    }
  }

  std::string_view format() const override { return from_->format(); }
  const std::filesystem::path& path() const override { return from_->path(); }
  const json::object& config() const override { return from_->config(); }
  const checkpoint::StoredTensor* Find(std::string_view name) const override {
    const auto it = replaced_.find(std::string(name));
    return it == replaced_.end() ? from_->Find(name) : &it->second.tensor;
  }
  std::vector<std::string> Names() const override { return from_->Names(); }
  const checkpoint::GgufVocabulary* gguf_vocabulary() const override {
    return from_->gguf_vocabulary();
  }
  std::string_view chat_template() const override { return from_->chat_template(); }
  size_t size_bytes() const override { return from_->size_bytes(); }
  std::string fingerprint() const override {
    return from_->fingerprint() + std::string(tensor::Info(dtype_).name);
  }
  void Prefetch() const override {}

 private:
  struct Replacement {
    std::vector<std::byte> bytes;
    checkpoint::StoredTensor tensor;
  };

  Replacement Encode(const checkpoint::StoredTensor& stored) const {
    const int64_t rows = stored.view.shape[0];
    const int64_t cols = stored.view.shape[1];
    const tensor::DTypeInfo& info = tensor::Info(dtype_);
    const size_t row_bytes = static_cast<size_t>(cols / info.block_elements * info.block_bytes);
    const size_t source_bytes = stored.view.bytes.size() / static_cast<size_t>(rows);
    Replacement made;
    made.bytes.resize(row_bytes * static_cast<size_t>(rows));
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i);
      if (!quant::DecodeRow(stored.view.dtype, stored.view.bytes.data() + at * source_bytes, cols,
                            row.data())
               .ok() ||
          !quant::EncodeRow(dtype_, row.data(), cols, made.bytes.data() + at * row_bytes).ok()) {
        throw std::runtime_error("cannot encode a row");
      }
    }
    made.tensor.view = {.dtype = dtype_, .shape = stored.view.shape, .bytes = made.bytes};
    return made;
  }

  std::shared_ptr<const checkpoint::Checkpoint> from_;
  tensor::DType dtype_;
  std::map<std::string, Replacement> replaced_;
};

}  // namespace

std::vector<std::string> Variants() {
  return {"llama/attention_bias",
          "llama/llama3_rope_untied",
          "llama/smollm2_tied_f32",
          "qwen3/dense",
          "qwen3_moe/norm_topk",
          "qwen3_moe/sparse_step2_no_norm",
          "qwen3_moe/window",
          "mixtral/base",
          "mixtral/sliding_window",
          "deepseek_v3/bf16",
          "deepseek_v3/fp8",
          "deepseek_v3/no_q_lora_no_yarn",
          "deepseek_v32/bf16",
          "deepseek_v32/fp8_ue8m0",
          "kimi_k2/bf16",
          "kimi_k2/int4",
          "minimax_m2/bf16",
          "minimax_m2/fp8",
          "bailing_moe_v2/bf16_mtp",
          "bailing_moe_v2/one_group_qkv_bias",
          "glm4_moe/bf16_mtp"};
}

std::vector<std::string> VariantsWith(const std::string& tensor) {
  std::vector<std::string> names = Variants();
  std::erase_if(names, [&](const std::string& name) { return !Variant(name).Has(tensor); });
  return names;
}

std::vector<kernels::Isa> TestedIsas() {
  std::vector<kernels::Isa> isas = kernels::AvailableIsas();
#if HALFMOON_SANITIZED
  if (isas.size() > 1) isas.erase(isas.begin());
#endif
  return isas;
}

Variant::Variant(const std::string& name) : name_(name) {
  const std::string text = Must(ReadTextFile(folder() / "expected.json", size_t{16} << 20));
  expected_ = Must(json::ParseObject(text));
  data_ = std::make_unique<checkpoint::SafetensorsFile>(
      Must(checkpoint::SafetensorsFile::Open(folder() / "expected.safetensors")));
}

std::filesystem::path Variant::folder() const {
  return std::filesystem::path(HALFMOON_GOLDEN_DIR) / name_;
}

size_t Variant::num_prompts() const { return expected_.at("prompts").as_array().size(); }

bool Variant::Has(const std::string& tensor) const { return data_->Find(tensor) != nullptr; }

Table Variant::Read(const std::string& tensor) const {
  const tensor::TensorView* view = data_->Find(tensor);
  if (view == nullptr) throw std::runtime_error(name_ + ": no tensor " + tensor);
  Table table;
  table.rows = view->shape[0];
  if (view->shape.rank() == 2) table.cols = view->shape[1];
  const auto count = static_cast<size_t>(table.rows * table.cols);
  if (view->dtype == tensor::DType::kF32) {
    table.values.resize(count);
    std::memcpy(table.values.data(), view->bytes.data(), count * sizeof(float));
  } else if (view->dtype == tensor::DType::kI32) {
    table.ids.resize(count);
    std::memcpy(table.ids.data(), view->bytes.data(), count * sizeof(int32_t));
  } else {
    throw std::runtime_error(name_ + ": unexpected type of " + tensor);
  }
  return table;
}

std::shared_ptr<const checkpoint::Checkpoint> OpenVariant(const Variant& variant) {
  return Must(checkpoint::Open(variant.folder()));
}

std::shared_ptr<const checkpoint::Checkpoint> Quantise(
    std::shared_ptr<const checkpoint::Checkpoint> from, tensor::DType dtype) {
  return std::make_shared<QuantisedCheckpoint>(std::move(from), dtype);
}

/// Threads as on a machine with a NUMA node for each element, all of them on the node that is
/// there.
ThreadLayout ShardedLayout(const std::vector<int>& threads) {
  ThreadLayout layout;
  for (const int count : threads) {
    layout.seats.resize(layout.seats.size() + static_cast<size_t>(count),
                        {.shard = layout.shards.size()});
    layout.shards.push_back({.node = 0, .num_threads = count});
  }
  return layout;
}

LoadedModel Load(std::shared_ptr<const checkpoint::Checkpoint> checkpoint, const LoadSpec& spec) {
  LoadedModel loaded;
  loaded.pool = std::make_unique<ThreadPool>(
      spec.shards.empty() ? ThreadLayout::Anywhere(spec.threads) : ShardedLayout(spec.shards));
  model::LoadOptions options;
  options.activation = spec.activation;
  options.isa = spec.isa;
  options.block_size = 16;
  options.max_context = 1024;
  options.load_mtp = spec.load_mtp;
  options.mla_prefill = spec.mla_prefill;
  options.expert_memory_bytes = spec.expert_memory_bytes;
  options.weight_cache = spec.weight_cache;
  options.k_type = options.v_type = spec.kv_type;
  if (spec.open_experts) options.open_experts = spec.open_experts;
  // Families that only a file describes: users get it with the examples.
  const std::filesystem::path description =
      std::filesystem::path(HALFMOON_SOURCE_DIR) / "examples" / "descriptions" /
      (std::string(checkpoint->config().at("model_type").as_string()) + ".json");
  if (std::filesystem::exists(description)) options.description_file = description;
  loaded.model = Must(model::Model::Load(std::move(checkpoint), loaded.pool.get(), options));
  return loaded;
}

std::vector<float> AllLogits(model::Model* model, const std::vector<int32_t>& ids, size_t chunk,
                             model::Capture* capture) {
  model::ContiguousKv kv(model->kv_layout(), static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const size_t count = std::min(chunk, ids.size() - begin);
    const model::SequenceChunk piece{.ids = {ids.data() + begin, count},
                                     .start = static_cast<int32_t>(begin),
                                     .kv = kv.view(),
                                     .logits = model::LogitsMode::kAll};
    const Status computed = model->Forward({&piece, 1}, capture);
    if (!computed.ok()) throw std::runtime_error(computed.error().message());
    logits.insert(logits.end(), model->logits().begin(), model->logits().end());
  }
  return logits;
}

}  // namespace halfmoon::golden
