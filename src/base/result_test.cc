// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace halfmoon {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return Error(ErrorCode::kInvalidArgument, std::to_string(n) + " is odd");
  return n / 2;
}

Result<int> Quarter(int n) {
  HM_ASSIGN(const int half, Half(n));
  return Half(half);
}

Status CheckEven(int n) {
  HM_TRY(Half(n));
  return {};
}

TEST(Result, Value_IsReadable) {
  const Result<int> result = Half(6);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result, 3);
  EXPECT_EQ(result.value(), 3);
}

TEST(Result, Error_TravelsThroughMacros) {
  EXPECT_EQ(*Quarter(8), 2);
  const Result<int> result = Quarter(6);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(result.error().message(), "3 is odd");
  EXPECT_TRUE(CheckEven(2).ok());
  EXPECT_EQ(CheckEven(5).error().message(), "5 is odd");
}

TEST(Result, WithContext_PrefixesErrorsOnly) {
  EXPECT_EQ(*Half(4).WithContext("file f"), 2);
  const Result<int> result = Half(3).WithContext("tensor x").WithContext("file f");
  EXPECT_EQ(result.error().message(), "file f: tensor x: 3 is odd");
  EXPECT_EQ(result.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(Status().WithContext("x").ok());
  EXPECT_EQ(CheckEven(1).WithContext("x").error().message(), "x: 1 is odd");
}

TEST(Result, MoveOnlyValue_CanBeTaken) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ErrorCode, EveryCode_HasItsName) {
  EXPECT_EQ(ErrorCodeName(ErrorCode::kInvalidArgument), "invalid_argument");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kNotFound), "not_found");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kCorrupt), "corrupt");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kUnsupported), "unsupported");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kResourceExhausted), "resource_exhausted");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kUnavailable), "unavailable");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kDeadlineExceeded), "deadline_exceeded");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kCancelled), "cancelled");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kIo), "io");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kInternal), "internal");
}

TEST(ResultDeathTest, ValueOfAnError_StopsWithItsMessage) {
  EXPECT_DEATH((void)Half(1).value(), "1 is odd");
  EXPECT_DEATH(HM_CHECK(1 > 2, "one is " + std::to_string(1)), "1 > 2 one is 1");
}

}  // namespace
}  // namespace halfmoon
