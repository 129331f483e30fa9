// SPDX-License-Identifier: Apache-2.0
// A grammar at work in the engine: the two hooks of engine::Request around a text::GrammarMatcher.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "text/grammar.h"

namespace halfmoon::serve {

/// Shared by the engine's hooks (engine thread) and the session, which asks at the end whether the
/// output kept to the grammar. Where the matcher gives up, the sequence is ended and failure() says
/// why.
class GrammarState {
 public:
  /// mask_words: text::GrammarCompiler::mask_words. The engine's mask may be shorter (or longer):
  /// the grammar's vocabulary can have ids that the model has no logits for.
  GrammarState(text::GrammarMatcher matcher, size_t mask_words, std::vector<int32_t> eos_ids);

  /// Puts hooks into `request` that share `state`.
  static void Attach(const std::shared_ptr<GrammarState>& state, engine::Request& request);

  /// What went wrong, if anything did.
  std::optional<std::string> failure() const;

 private:
  void Mask(std::span<uint32_t> allowed);
  void Commit(int32_t id);
  void Fail(std::string why);

  text::GrammarMatcher matcher_;    // engine thread only
  std::vector<uint32_t> own_mask_;  // engine thread only: as long as the matcher wants it
  const std::vector<int32_t> eos_ids_;
  mutable std::mutex mutex_;
  std::optional<std::string> failure_;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::serve
