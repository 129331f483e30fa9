// SPDX-License-Identifier: Apache-2.0
#include "transfer/descriptor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::transfer {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kText =
    "hmseg1,id=1f,size=4096,secret=000102030405060708090a0b0c0d0eff,shm=halfmoon-ab,"
    "tcp=[::1]:7001";

TEST(Descriptor, ItsText_IsReadBack) {
  const Result<Descriptor> descriptor = Descriptor::Parse(kText);
  ASSERT_TRUE(descriptor.ok()) << descriptor.error().message();
  EXPECT_EQ(descriptor->segment, 0x1fu);
  EXPECT_EQ(descriptor->size_bytes, 4096u);
  EXPECT_EQ(descriptor->secret[15], '\xff');
  EXPECT_EQ(descriptor->address(PathKind::kTcp), "[::1]:7001");
  EXPECT_EQ(descriptor->address(PathKind::kSharedMemory), "halfmoon-ab");
  EXPECT_EQ(descriptor->address(PathKind::kUcx), "");
  EXPECT_EQ(descriptor->Format(), kText);
}

TEST(Descriptor, PathsThatAreNotKnown_AreLeftOut) {
  const Result<Descriptor> descriptor =
      Descriptor::Parse("hmseg1,quic=far:1,id=0,size=1,secret=" + std::string(32, 'a'));
  ASSERT_TRUE(descriptor.ok());
  EXPECT_EQ(descriptor->Format(), "hmseg1,id=0,size=1,secret=" + std::string(32, 'a'));
}

TEST(Descriptor, WhatIsWrong_IsNamed) {
  auto message = [](const std::string& text) {
    const Result<Descriptor> descriptor = Descriptor::Parse(text);
    return descriptor.ok() ? "" : descriptor.error().message();
  };
  const std::string secret = ",secret=" + std::string(32, '0');
  EXPECT_THAT(message(""), HasSubstr("hmseg1"));
  EXPECT_THAT(message("hmseg2,id=1,size=1" + secret), HasSubstr("hmseg1"));
  EXPECT_THAT(message("hmseg1,id=1,size=1"), HasSubstr("missing"));
  EXPECT_THAT(message("hmseg1;id=1"), HasSubstr("commas"));
  EXPECT_THAT(message("hmseg1,id"), HasSubstr("without a value"));
  EXPECT_THAT(message("hmseg1,id=1g"), HasSubstr("id is not"));
  EXPECT_THAT(message("hmseg1,id=11112222333344445"), HasSubstr("id is not"));
  EXPECT_THAT(message("hmseg1,id=1,id=2"), HasSubstr("id twice"));
  EXPECT_THAT(message("hmseg1,size=-1"), HasSubstr("size is not"));
  EXPECT_THAT(message("hmseg1,size=18446744073709551616"), HasSubstr("size is not"));
  EXPECT_THAT(message("hmseg1,secret=00"), HasSubstr("secret is not"));
  EXPECT_THAT(message("hmseg1,secret=" + std::string(32, 'x')), HasSubstr("secret is not"));
  EXPECT_THAT(message("hmseg1,tcp="), HasSubstr("address"));
  EXPECT_THAT(message("hmseg1,tcp=a b"), HasSubstr("address"));
  EXPECT_THAT(message("hmseg1,tcp=a,tcp=b"), HasSubstr("tcp twice"));
  EXPECT_THAT(message("hmseg1,tcp=" + std::string(9000, 'a')), HasSubstr("longer"));
}

TEST(RandomSecret, EachIsAnother) { EXPECT_NE(RandomSecret().value(), RandomSecret().value()); }

}  // namespace
}  // namespace halfmoon::transfer
