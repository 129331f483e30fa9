// SPDX-License-Identifier: Apache-2.0
// For tests: a GGUF file's configuration and tensors in published names.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "checkpoint/gguf_test_file.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {

struct Translated {
  json::object config;
  TensorMap tensors;  ///< views into the bytes that were translated
};

inline Result<Translated> Translate(const std::string& bytes) {
  HM_ASSIGN(const GgufFile file, ParseGguf(BytesOf(bytes)));
  Translated result;
  HM_ASSIGN(result.config, GgufConfig(file));
  HM_ASSIGN(result.tensors, GgufTensors(file, result.config));
  return result;
}

inline void ExpectError(const GgufTestFile& file, ErrorCode code, std::string_view message) {
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_FALSE(translated.ok()) << message;
  EXPECT_EQ(translated.error().code(), code) << translated.error().message();
  EXPECT_THAT(translated.error().message(), testing::HasSubstr(message));
}

}  // namespace halfmoon::checkpoint
