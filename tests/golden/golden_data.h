// SPDX-License-Identifier: Apache-2.0
// Reading tests/golden/<family>/<variant>: a tiny checkpoint and what the reference implementation
// computes for it (tests/golden/README.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "model/model.h"

namespace halfmoon::golden {

/// Every variant of the families that this build knows, as "family/variant".
std::vector<std::string> Variants();

/// Those of them whose expected.safetensors holds `tensor`.
std::vector<std::string> VariantsWith(const std::string& tensor);

/// The instruction sets that models are tested on: all of this machine. Under sanitizers without
/// the plain kernels, which take minutes there; their own tests cover them.
std::vector<kernels::Isa> TestedIsas();

/// Rows of numbers out of expected.safetensors.
struct Table {
  int64_t rows = 0;
  int64_t cols = 1;
  std::vector<float> values;  ///< f32 tensors
  std::vector<int32_t> ids;   ///< i32 tensors
  const float* row(int64_t i) const { return values.data() + i * cols; }
};

/// One variant's folder. Reading fails the test through an exception that names the file.
class Variant {
 public:
  explicit Variant(const std::string& name);

  const std::string& name() const { return name_; }
  std::filesystem::path folder() const;
  const json::object& expected() const { return expected_; }
  /// Lengths of the stored prompts, in order: p0, p1, ...
  size_t num_prompts() const;
  bool Has(const std::string& tensor) const;
  Table Read(const std::string& tensor) const;

 private:
  std::string name_;
  json::object expected_;
  std::unique_ptr<checkpoint::SafetensorsFile> data_;
};

/// A loaded model and what it stands on.
struct LoadedModel {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<model::Model> model;
};

struct LoadSpec {
  model::Activation activation = model::Activation::kF32;
  kernels::Isa isa = kernels::Isa::kGeneric;
  int threads = 2;
  std::vector<int> shards = {};  ///< threads of each, in place of `threads` in one
  bool load_mtp = false;
  model::MlaPrefill mla_prefill = model::MlaPrefill::kAbsorbed;
  size_t expert_memory_bytes = 0;
  model::WeightCache* weight_cache = nullptr;
  std::optional<kernels::KvType> kv_type = {};  ///< none: that of the activation
  /// Empty: as the product does.
  std::function<Result<std::unique_ptr<FileReader>>(std::span<const std::filesystem::path>)>
      open_experts = {};
};

LoadedModel Load(std::shared_ptr<const checkpoint::Checkpoint> checkpoint, const LoadSpec& spec);
std::shared_ptr<const checkpoint::Checkpoint> OpenVariant(const Variant& variant);

/// `from` with its matrices (embedding, routers and indexers excepted) rounded to the block format
/// `dtype`: what a quantised file of the model would hold.
std::shared_ptr<const checkpoint::Checkpoint> Quantise(
    std::shared_ptr<const checkpoint::Checkpoint> from, tensor::DType dtype);

/// Logits of all positions of `ids`, computed in chunks of `chunk` tokens.
std::vector<float> AllLogits(model::Model* model, const std::vector<int32_t>& ids, size_t chunk,
                             model::Capture* capture = nullptr);

}  // namespace halfmoon::golden
