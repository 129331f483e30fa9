// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <memory>
#include <utility>

#include "engine/engine.h"
#include "engine/make_drafter.h"
#include "engine/step_model.h"

namespace halfmoon::engine {
namespace {

class ModelAdapter final : public StepModel {
 public:
  explicit ModelAdapter(model::Model* model) : model_(model) {}

  const kernels::KvLayout& kv_layout() const override { return model_->kv_layout(); }
  int32_t vocab_size() const override { return static_cast<int32_t>(model_->vocab_size()); }
  int32_t max_context() const override { return model_->max_context(); }
  int32_t max_step_tokens() const override { return model_->options().max_step_tokens; }
  int32_t max_sequences() const override { return model_->options().max_sequences; }
  std::string fingerprint() const override { return model_->fingerprint(); }
  void SeatCaller() override { model_->SeatCaller(); }
  Status Forward(std::span<const model::SequenceChunk> chunks) override {
    return model_->Forward(chunks);
  }
  std::span<const float> logits() const override { return model_->logits(); }
  void SetLayerDone(std::function<void(int layer)> done) override {
    model_->SetLayerDone(std::move(done));
  }
  model::ExpertStats expert_stats() const override { return model_->expert_stats(); }

 private:
  model::Model* const model_;
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Start(model::Model* model, const Clock* clock,
                                              const EngineOptions& options) {
  HM_ASSIGN(std::unique_ptr<Drafter> drafter, MakeDrafter(options, model));
  return Start(std::make_unique<ModelAdapter>(model), clock, options, std::move(drafter));
}

}  // namespace halfmoon::engine
