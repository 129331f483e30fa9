// SPDX-License-Identifier: Apache-2.0
// What answers requests once it is loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "serve/grammar_state.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace halfmoon::serve {

/// What clients are told about the model.
struct ModelInfo {
  std::string name;          ///< its name where the server was given none to serve it under
  std::string fingerprint;   ///< changes when outputs could: becomes system_fingerprint
  std::string license;       ///< shown in /v1/models; empty: not known
  std::string license_note;  ///< one sentence beside it where the licence asks for a second look
  int32_t vocab_size =
      0;  ///< rows of the output, at least the tokenizer's; bounds ids of logit_bias
  engine::SamplingParams sampling;  ///< values of sampling fields that a request leaves out
};

/// Engine, tokenizer and template of the one model served. Immutable but for the grammar compiler,
/// which is made on first use; thread-safe. engine and tokenizer outlive it.
class Backend {
 public:
  Backend(engine::Engine* engine, const text::Tokenizer* tokenizer,
          std::optional<text::ChatTemplate> chat_template, ModelInfo info);

  engine::Engine& engine() const { return *engine_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  /// nullptr where the model has none.
  const text::ChatTemplate* chat_template() const {
    return chat_template_ ? &*chat_template_ : nullptr;
  }
  const ModelInfo& info() const { return info_; }
  /// When this was made.
  int64_t ready_unix_s() const { return ready_unix_s_; }

  /// The grammar of one sequence, which ends with one of `eos_ids`. Errors: as
  /// text::GrammarCompiler.
  Result<std::shared_ptr<GrammarState>> CompileGrammar(text::GrammarKind kind,
                                                       std::string_view source,
                                                       std::vector<int32_t> eos_ids) const;

 private:
  engine::Engine* const engine_;
  const text::Tokenizer* const tokenizer_;
  const std::optional<text::ChatTemplate> chat_template_;
  const ModelInfo info_;
  const int64_t ready_unix_s_ = UnixTimeSeconds();

  mutable std::once_flag grammar_once_;
  mutable std::optional<Result<text::GrammarCompiler>> grammar_;  // written under grammar_once_
};

}  // namespace halfmoon::serve
