// SPDX-License-Identifier: Apache-2.0
#include "halfmoon/moe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "checkpoint/safetensors.h"
#include "kernels/isa.h"

namespace halfmoon {
namespace {

/// tests/golden/moe_layer/cases.json: sizes of each file.
struct GoldenCase {
  const char* name;
  int64_t batch, inputs, outputs;
  int experts, top_k;
};
constexpr GoldenCase kCases[] = {
    {"small", 5, 8, 6, 4, 2}, {"wide", 32, 64, 48, 8, 2}, {"many", 64, 33, 17, 12, 3}};

class MoEGolden : public testing::TestWithParam<GoldenCase> {
 protected:
  MoEGolden()
      : file_(checkpoint::SafetensorsFile::Open(std::string(HALFMOON_GOLDEN_DIR) + "/moe_layer/" +
                                                GetParam().name + ".safetensors")) {}

  std::vector<float> Read(const std::string& name) {
    const tensor::TensorView* view = file_.value().Find(name);
    if (view == nullptr) throw std::runtime_error("no tensor " + name);
    std::vector<float> values(view->bytes.size() / sizeof(float));
    std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
    return values;
  }

  void ExpectOutputs(int top_k, const std::string& want_name) {
    const GoldenCase& c = GetParam();
    const std::vector<float> want = Read(want_name);
    const std::vector<float> weights = Read("expert_weight");
    const std::vector<float> biases = Read("expert_bias");
    for (const kernels::Isa isa : kernels::AvailableIsas()) {
      MoE moe(c.experts, c.inputs, c.outputs,
              {.top_k = top_k, .num_threads = 2, .isa = std::string(kernels::IsaName(isa))});
      ASSERT_TRUE(moe.SetGate(Read("gate_weight"), Read("gate_bias")).ok());
      const auto size = static_cast<size_t>(c.inputs * c.outputs);
      const auto outputs = static_cast<size_t>(c.outputs);
      for (int e = 0; e < c.experts; ++e) {
        const auto at = static_cast<size_t>(e);
        ASSERT_TRUE(moe.SetExpert(e, {weights.data() + at * size, size},
                                  {biases.data() + at * outputs, outputs})
                        .ok());
      }
      std::vector<float> y(want.size());
      ASSERT_TRUE(moe.Forward(Read("x"), y).ok());
      for (size_t i = 0; i < y.size(); ++i) {
        EXPECT_NEAR(y[i], want[i], 5e-6) << kernels::IsaName(isa) << " output " << i;
      }
    }
  }

  Result<checkpoint::SafetensorsFile> file_;
};

TEST_P(MoEGolden, Forward_AllExperts_MatchesPyTorch) { ExpectOutputs(0, "dense.f32.y"); }

TEST_P(MoEGolden, Forward_TopK_MatchesPyTorch) { ExpectOutputs(GetParam().top_k, "topk.f32.y"); }

INSTANTIATE_TEST_SUITE_P(Cases, MoEGolden, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(MoE, Forward_RowAloneOrInBatch_SameBits) {
  MoE moe(6, 40, 24, {.top_k = 2, .seed = 5});
  std::vector<float> x(7 * 40);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  std::vector<float> batch(7 * 24);
  ASSERT_TRUE(moe.Forward(x, batch).ok());
  for (size_t row = 0; row < 7; ++row) {
    std::vector<float> alone(24);
    ASSERT_TRUE(moe.Forward({x.data() + row * 40, 40}, alone).ok());
    EXPECT_EQ(0, std::memcmp(alone.data(), batch.data() + row * 24, 24 * sizeof(float)));
  }
}

TEST(MoE, Constructor_SameSeed_SameWeights) {
  MoE a(3, 8, 4, {.seed = 9});
  MoE b(3, 8, 4, {.seed = 9});
  MoE c(3, 8, 4, {.seed = 10});
  const std::vector<float> x(8, 1.0f);
  std::vector<float> ya(4), yb(4), yc(4);
  ASSERT_TRUE(a.Forward(x, ya).ok());
  ASSERT_TRUE(b.Forward(x, yb).ok());
  ASSERT_TRUE(c.Forward(x, yc).ok());
  EXPECT_EQ(ya, yb);
  EXPECT_NE(ya, yc);
}

TEST(MoE, Constructor_BadSizes_Throw) {
  EXPECT_THROW(MoE(0, 8, 4), std::invalid_argument);
  EXPECT_THROW(MoE(2, 0, 4), std::invalid_argument);
  EXPECT_THROW(MoE(2, 8, 0), std::invalid_argument);
  EXPECT_THROW(MoE(2, 8, 4, {.top_k = 3}), std::invalid_argument);
  EXPECT_THROW(MoE(2, 8, 4, {.isa = "z80"}), std::invalid_argument);
}

TEST(MoE, Setters_WrongSizes_NameExpectedAndFound) {
  MoE moe(2, 8, 4);
  const std::vector<float> seven(7);
  const Status gate = moe.SetGate(seven, seven);
  ASSERT_FALSE(gate.ok());
  EXPECT_NE(gate.error().message().find("expected 2 x 8 values, found 7"), std::string::npos);
  EXPECT_FALSE(moe.SetExpert(2, seven, seven).ok());
  EXPECT_FALSE(moe.SetExpert(-1, seven, seven).ok());
  std::vector<float> y(4);
  EXPECT_FALSE(moe.Forward(seven, y).ok());
  EXPECT_FALSE(moe.Forward(std::vector<float>(16), y).ok());
  EXPECT_TRUE(moe.Forward({}, {}).ok());
}

}  // namespace
}  // namespace halfmoon
