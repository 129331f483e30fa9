// SPDX-License-Identifier: Apache-2.0
#include "model/unused_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/file_checkpoint.h"

namespace halfmoon::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

checkpoint::FileCheckpoint With(const std::vector<std::string>& names) {
  checkpoint::CheckpointParts parts{.format = "safetensors"};
  for (const std::string& name : names) parts.tensors[name] = {};
  return checkpoint::FileCheckpoint(std::move(parts));
}

TEST(FindUnusedTensors, PartsOfLayers_AreNamed) {
  ModelDescription description;
  description.layers.resize(2);
  const auto checkpoint = With({"model.layers.0.a", "model.layers.0.sinks", "model.layers.1.a",
                                "vision.patch", "model.layers.x"});
  EXPECT_THAT(FindUnusedTensors(checkpoint, description, {"model.layers.0.a", "model.layers.1.a"}),
              ElementsAre("model.layers.0.sinks", "model.layers.x", "vision.patch"));
}

TEST(FindUnusedTensors, WhatFollowsFromTheRest_IsLeftAside) {
  ModelDescription description;
  description.layers.resize(2);
  const auto checkpoint =
      With({"model.layers.2.enorm.weight", "model.layers.10.enorm.weight", "lm_head.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq", "rope_freqs.weight"});
  EXPECT_THAT(FindUnusedTensors(checkpoint, description, {}), ElementsAre("lm_head.weight"));
  description.tied_embeddings = true;
  EXPECT_THAT(FindUnusedTensors(checkpoint, description, {}), ElementsAre());
}

TEST(HandleUnusedTensors, Refuse_NamesTheFirst) {
  EXPECT_TRUE(HandleUnusedTensors({}, UnusedTensors::kRefuse).ok());
  EXPECT_TRUE(HandleUnusedTensors({"a"}, UnusedTensors::kWarn).ok());
  const Status refused = HandleUnusedTensors({"a.sinks", "b"}, UnusedTensors::kRefuse);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message(), HasSubstr("tensor 'a.sinks' (and 1 more)"));
}

}  // namespace
}  // namespace halfmoon::model
