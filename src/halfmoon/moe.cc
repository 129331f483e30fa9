// SPDX-License-Identifier: Apache-2.0
#include "halfmoon/moe.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/matmul.h"
#include "kernels/rowwise.h"
#include "model/router.h"

namespace halfmoon {
namespace {

struct Linear {
  kernels::PackedMatrix weight;
  std::vector<float> bias;
};

Result<Linear> MakeLinear(std::span<const float> weight, std::span<const float> bias, int64_t rows,
                          int64_t cols) {
  if (weight.size() != static_cast<size_t>(rows * cols)) {
    return Error(ErrorCode::kInvalidArgument, "weight: expected " + std::to_string(rows) + " x " +
                                                  std::to_string(cols) + " values, found " +
                                                  std::to_string(weight.size()));
  }
  if (bias.size() != static_cast<size_t>(rows)) {
    return Error(ErrorCode::kInvalidArgument, "bias: expected " + std::to_string(rows) +
                                                  " values, found " + std::to_string(bias.size()));
  }
  const kernels::RowSource source{
      .dtype = tensor::DType::kF32, .rows = rows, .cols = cols, .row = [&](int64_t row) {
        return reinterpret_cast<const std::byte*>(weight.data() + row * cols);
      }};
  Linear linear;
  HM_ASSIGN(linear.weight, kernels::Pack(source));
  linear.bias.assign(bias.begin(), bias.end());
  return linear;
}

kernels::Isa IsaOrThrow(const std::string& name) {
  Result<kernels::Isa> isa = kernels::ParseIsa(name);
  if (!isa.ok()) throw std::invalid_argument(isa.error().message());
  return *isa;
}

}  // namespace

struct MoE::Impl {
  Impl(int experts, int64_t inputs, int64_t outputs, const MoEOptions& options)
      : num_experts(experts),
        input_dim(inputs),
        output_dim(outputs),
        top_k(options.top_k == 0 ? experts : options.top_k),
        pool(std::max(1, options.num_threads)),
        stream(pool, IsaOrThrow(options.isa)),
        expert(static_cast<size_t>(experts)) {}

  const int num_experts;
  const int64_t input_dim;
  const int64_t output_dim;
  const int top_k;
  ThreadPool pool;
  kernels::Stream stream;
  Linear gate;
  std::vector<Linear> expert;
};

MoE::MoE(int num_experts, int64_t input_dim, int64_t output_dim, const MoEOptions& options) {
  if (num_experts < 1 || input_dim < 1 || output_dim < 1) {
    throw std::invalid_argument("MoE: num_experts, input_dim and output_dim have to be at least 1");
  }
  if (options.top_k < 0 || options.top_k > num_experts) {
    throw std::invalid_argument("MoE: top_k has to be from 0 (all) to num_experts");
  }
  impl_ = std::make_unique<Impl>(num_experts, input_dim, output_dim, options);
  std::mt19937_64 random(options.seed);
  const float bound = 1.0f / std::sqrt(static_cast<float>(input_dim));
  std::uniform_real_distribution<float> uniform(-bound, bound);
  auto values = [&](int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = uniform(random);
    return v;
  };
  HM_CHECK(SetGate(values(num_experts * input_dim), values(num_experts)).ok());
  for (int e = 0; e < num_experts; ++e) {
    HM_CHECK(SetExpert(e, values(output_dim * input_dim), values(output_dim)).ok());
  }
}

MoE::~MoE() = default;
MoE::MoE(MoE&&) noexcept = default;
MoE& MoE::operator=(MoE&&) noexcept = default;

int MoE::num_experts() const { return impl_->num_experts; }
int64_t MoE::input_dim() const { return impl_->input_dim; }
int64_t MoE::output_dim() const { return impl_->output_dim; }
int MoE::top_k() const { return impl_->top_k; }

Status MoE::SetGate(std::span<const float> weight, std::span<const float> bias) {
  Result<Linear> gate = MakeLinear(weight, bias, impl_->num_experts, impl_->input_dim);
  if (!gate.ok()) return gate.error().WithContext("gate");
  impl_->gate = std::move(gate).value();
  return {};
}

Status MoE::SetExpert(int expert, std::span<const float> weight, std::span<const float> bias) {
  if (expert < 0 || expert >= impl_->num_experts) {
    return Error(ErrorCode::kInvalidArgument,
                 "expert " + std::to_string(expert) + " of " + std::to_string(impl_->num_experts));
  }
  Result<Linear> linear = MakeLinear(weight, bias, impl_->output_dim, impl_->input_dim);
  if (!linear.ok()) return linear.error().WithContext("expert " + std::to_string(expert));
  impl_->expert[static_cast<size_t>(expert)] = std::move(linear).value();
  return {};
}

Status MoE::Forward(std::span<const float> x, std::span<float> y) {
  Impl& m = *impl_;
  const auto batch = static_cast<int64_t>(x.size()) / m.input_dim;
  if (static_cast<size_t>(batch * m.input_dim) != x.size()) {
    return Error(ErrorCode::kInvalidArgument, "x: " + std::to_string(x.size()) +
                                                  " values are not whole rows of " +
                                                  std::to_string(m.input_dim));
  }
  if (y.size() != static_cast<size_t>(batch * m.output_dim)) {
    return Error(ErrorCode::kInvalidArgument, "y: expected " + std::to_string(batch) + " x " +
                                                  std::to_string(m.output_dim) + " values, found " +
                                                  std::to_string(y.size()));
  }
  if (batch == 0) return {};
  const auto rows = static_cast<size_t>(batch);
  const auto experts = static_cast<size_t>(m.num_experts);
  const auto k = static_cast<size_t>(m.top_k);
  const kernels::Activations input{.f32 = x.data(), .stride = m.input_dim};

  std::vector<float> gate_values(rows * experts);
  const kernels::Rows gate{.data = gate_values.data(), .count = batch, .stride = m.num_experts};
  const kernels::MatMulJob gate_job[] = {{.weight = &m.gate.weight,
                                          .x = input,
                                          .num_rows = batch,
                                          .y = gate.data,
                                          .y_stride = gate.stride}};
  kernels::MatMul(m.stream, gate_job);
  kernels::AddBias(m.stream, gate, m.gate.bias.data(), m.num_experts);
  kernels::Softmax(m.stream, gate, m.num_experts, gate);

  std::vector<int32_t> chosen(rows * k);
  std::vector<float> weights(rows * k);
  std::vector<float> choice(experts);
  // The weights of all experts sum to 1 as they are.
  const model::MoeDescription routing{
      .num_experts = m.num_experts, .top_k = m.top_k, .normalise_weights = k < experts};
  for (size_t i = 0; i < rows; ++i) {
    model::ChooseExperts(routing, {gate_values.data() + i * experts, experts}, {}, choice,
                         {chosen.data() + i * k, k}, {weights.data() + i * k, k});
  }
  model::ExpertGroups groups(chosen.size(), m.num_experts);
  groups.Group(chosen, m.top_k);

  std::vector<float> outputs(rows * k * static_cast<size_t>(m.output_dim));
  const kernels::Rows slots{
      .data = outputs.data(), .count = static_cast<int64_t>(rows * k), .stride = m.output_dim};
  std::vector<kernels::MatMulJob> jobs;
  for (size_t e = 0; e < experts; ++e) {
    if (groups.begin(e) == groups.end(e)) continue;
    jobs.push_back({.weight = &m.expert[e].weight,
                    .x = input,
                    .row_index = groups.slot_token() + groups.begin(e),
                    .num_rows = groups.end(e) - groups.begin(e),
                    .y = slots.row(groups.begin(e)),
                    .y_stride = slots.stride});
  }
  kernels::MatMul(m.stream, jobs);
  for (size_t e = 0; e < experts; ++e) {
    const kernels::Rows part{.data = slots.row(groups.begin(e)),
                             .count = groups.end(e) - groups.begin(e),
                             .stride = slots.stride};
    kernels::AddBias(m.stream, part, m.expert[e].bias.data(), m.output_dim);
  }
  kernels::CombineRows(m.stream, slots, groups.token_slot(), weights.data(), m.top_k, m.output_dim,
                       {.data = y.data(), .count = batch, .stride = m.output_dim});
  return {};
}

}  // namespace halfmoon
