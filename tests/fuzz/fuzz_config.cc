// SPDX-License-Identifier: Apache-2.0
// Any bytes as config.json, or as a description file, beside the weights of a small checkpoint:
// loading ends in a model whose forward pass stays inside its buffers, or in an error. The first
// byte chooses the checkpoint and what the rest is.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/contiguous_kv.h"
#include "model/description_file.h"
#include "model/model.h"

namespace {

namespace fs = std::filesystem;
using halfmoon::checkpoint::Checkpoint;

/// A checkpoint of the goldens with another configuration.
class Reconfigured final : public Checkpoint {
 public:
  Reconfigured(std::shared_ptr<const Checkpoint> from, halfmoon::json::object config)
      : from_(std::move(from)), config_(std::move(config)) {}

  std::string_view format() const override { return from_->format(); }
  const fs::path& path() const override { return from_->path(); }
  const halfmoon::json::object& config() const override { return config_; }
  const halfmoon::checkpoint::StoredTensor* Find(std::string_view name) const override {
    return from_->Find(name);
  }
  std::vector<std::string> Names() const override { return from_->Names(); }
  const halfmoon::checkpoint::GgufVocabulary* gguf_vocabulary() const override { return nullptr; }
  std::string_view chat_template() const override { return {}; }
  size_t size_bytes() const override { return from_->size_bytes(); }
  std::string fingerprint() const override { return from_->fingerprint(); }
  void Prefetch() const override {}

 private:
  std::shared_ptr<const Checkpoint> from_;
  halfmoon::json::object config_;
};

constexpr const char* kCheckpoints[] = {
    "llama/llama3_rope_untied", "qwen3_moe/norm_topk", "deepseek_v3/no_q_lora_no_yarn",
    "deepseek_v32/bf16",        "minimax_m2/bf16",     "bailing_moe_v2/one_group_qkv_bias",
    "glm4_moe/bf16_mtp"};
constexpr size_t kNumCheckpoints = std::size(kCheckpoints);

std::shared_ptr<const Checkpoint> Golden(size_t which) {
  static std::shared_ptr<const Checkpoint> opened[kNumCheckpoints];
  if (opened[which] == nullptr) {
    auto checkpoint = halfmoon::checkpoint::Open(fs::path(HALFMOON_SOURCE_DIR) / "tests" /
                                                 "golden" / kCheckpoints[which]);
    if (!checkpoint.ok()) std::abort();
    opened[which] = std::move(checkpoint).value();
  }
  return opened[which];
}

/// A few tokens through a model that loaded.
void Run(halfmoon::model::Model* model) {
  std::vector<int32_t> ids(5);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(static_cast<int64_t>(i) * 7 % model->vocab_size());
  }
  ids.resize(std::min(ids.size(), static_cast<size_t>(model->max_context())));
  halfmoon::model::ContiguousKv kv(model->kv_layout(), static_cast<int64_t>(ids.size()));
  const halfmoon::model::SequenceChunk chunk{.ids = ids, .kv = kv.view()};
  if (!model->Forward({&chunk, 1}).ok()) std::abort();
  if (model->logits().size() < static_cast<size_t>(model->vocab_size())) std::abort();
}

void Load(std::shared_ptr<const Checkpoint> checkpoint, const fs::path& description) {
  static halfmoon::ThreadPool pool(1);
  halfmoon::model::LoadOptions options;
  options.max_step_tokens = 8;
  options.max_sequences = 2;
  // Whatever limit a configuration names, buffers here are those of a short context.
  const auto limit = halfmoon::json::FindInt(checkpoint->config(), "max_position_embeddings");
  const int64_t positions = limit.ok() ? limit->value_or(64) : 64;
  options.max_context = static_cast<int>(std::clamp<int64_t>(positions, 1, 64));
  options.description_file = description;
  options.load_mtp = true;
  auto model = halfmoon::model::Model::Load(std::move(checkpoint), &pool, options);
  if (model.ok()) Run(model->get());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t which = data[0] % 32 % kNumCheckpoints;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::shared_ptr<const Checkpoint> golden = Golden(which);
  if (data[0] >= 128) {
    const auto described = halfmoon::model::DescribeByText(text, golden->config());
    if (!described.ok()) return 0;
    const fs::path file =
        fs::temp_directory_path() / ("halfmoon-fuzz-" + std::to_string(::getpid()) + ".json");
    std::ofstream(file, std::ios::binary) << text;
    Load(golden, file);
    fs::remove(file);
    return 0;
  }
  auto config = halfmoon::json::ParseObject(text);
  if (!config.ok()) return 0;
  Load(std::make_shared<Reconfigured>(golden, std::move(config).value()), {});
  return 0;
}
