// SPDX-License-Identifier: Apache-2.0
#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <string>

namespace halfmoon::kernels {
namespace {

TEST(ParseIsa, NamesOfAvailableSets_RoundTrip) {
  for (const Isa isa : AvailableIsas()) {
    const Result<Isa> parsed = ParseIsa(IsaName(isa));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, isa);
  }
  EXPECT_EQ(*ParseIsa("auto"), BestIsa());
  EXPECT_EQ(AvailableIsas().front(), Isa::kGeneric);
}

TEST(ParseIsa, UnknownName_InvalidArgumentListsWhatIsThere) {
  const Result<Isa> parsed = ParseIsa("sse9");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(parsed.error().message().find("sse9"), std::string::npos);
  EXPECT_NE(parsed.error().message().find("generic"), std::string::npos);
}

TEST(ParseIsa, SetThatThisCpuLacks_Unsupported) {
  int missing = 0;
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kNeon, Isa::kDotprod}) {
    const Result<Isa> parsed = ParseIsa(IsaName(isa));
    if (parsed.ok()) continue;
    ++missing;
    EXPECT_EQ(parsed.error().code(), ErrorCode::kUnsupported);
    EXPECT_NE(parsed.error().message().find(IsaName(isa)), std::string::npos);
  }
  // No processor has those of two.
  EXPECT_GE(missing, 2);
}

#ifdef HALFMOON_ARM
TEST(AvailableIsas, AnyAArch64_HasNeon) {
  EXPECT_TRUE(ParseIsa("neon").ok());
  EXPECT_NE(BestIsa(), Isa::kGeneric);
}
#endif

}  // namespace
}  // namespace halfmoon::kernels
