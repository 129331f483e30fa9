// SPDX-License-Identifier: Apache-2.0
// halfmoon: the public face for programs that embed the library. It wraps inner areas and adds
// nothing of its own.
//
// MoE is the plain mixture-of-experts layer as one would write it in PyTorch: a linear gate, a
// softmax over all experts, one linear layer per expert, and the weighted sum of their outputs;
// with top_k, only the k experts of largest gate logit, their weights divided by their sum.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace halfmoon {

struct MoEOptions {
  int top_k = 0;  ///< experts a row uses; 0: all (the dense form)
  int num_threads = 1;
  std::string isa = "auto";  ///< kernels: "auto" or a name that `--isa` takes
  uint64_t seed = 0;         ///< of the initial weights
};

/// y = Σ_e w_e (W_e x + b_e), w = softmax(W_g x + b_g), all in float32. A row's output does not
/// depend on the other rows of its batch. One thread at a time.
class MoE {
 public:
  /// Weights and biases start uniform in ±1/sqrt(input_dim), as torch.nn.Linear's do. Throws
  /// std::invalid_argument on sizes below 1, top_k outside [0, num_experts], or an ISA that this
  /// machine lacks.
  MoE(int num_experts, int64_t input_dim, int64_t output_dim, const MoEOptions& options = {});
  ~MoE();
  MoE(MoE&&) noexcept;
  MoE& operator=(MoE&&) noexcept;

  /// weight: [E, I] row-major, bias: [E]. Errors: kInvalidArgument where a size is another.
  Status SetGate(std::span<const float> weight, std::span<const float> bias);
  /// weight: [O, I] row-major, bias: [O], of expert `expert`. Errors: kInvalidArgument where the
  /// index or a size is wrong.
  Status SetExpert(int expert, std::span<const float> weight, std::span<const float> bias);

  /// x: [B, I] row-major > y: [B, O]. Errors: kInvalidArgument where x is not whole rows or y has
  /// another number of rows.
  Status Forward(std::span<const float> x, std::span<float> y);

  int num_experts() const;
  int64_t input_dim() const;
  int64_t output_dim() const;
  int top_k() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon
