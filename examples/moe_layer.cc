// SPDX-License-Identifier: Apache-2.0
// A mixture-of-experts layer by itself: halfmoon as a library.
//
//   build/release/example_moe_layer
#include <cstdio>
#include <random>
#include <vector>

#include "halfmoon/moe.h"

int main() {
  constexpr int kExperts = 8;
  constexpr int kInputs = 64;
  constexpr int kOutputs = 32;
  constexpr int kBatch = 4;

  std::vector<float> x(kBatch * kInputs);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(random);

  // The same weights twice: once every expert answers, once only the two that the gate likes best.
  halfmoon::MoE dense(kExperts, kInputs, kOutputs, {.seed = 7});
  halfmoon::MoE sparse(kExperts, kInputs, kOutputs, {.top_k = 2, .seed = 7});
  for (halfmoon::MoE* layer : {&dense, &sparse}) {
    std::vector<float> y(kBatch * kOutputs);
    const halfmoon::Status status = layer->Forward(x, y);
    if (!status.ok()) {
      std::fprintf(stderr, "moe_layer: %s\n", status.error().message().c_str());
      return 1;
    }
    std::printf("%d of %d experts a row:\n", layer->top_k(), layer->num_experts());
    for (int row = 0; row < kBatch; ++row) {
      const float* out = y.data() + row * kOutputs;
      std::printf("  y[%d] = %8.4f %8.4f %8.4f ...\n", row, out[0], out[1], out[2]);
    }
  }
  return 0;
}
