// SPDX-License-Identifier: Apache-2.0
// Flags of speculative decoding, and making ready what they ask for.
#pragma once

#include <memory>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "engine/engine.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace halfmoon::app {

struct SpeculationFlags {
  std::string method = "none";  ///< none, ngram, mtp, draft or auto
  std::string draft_model;      ///< path; empty: none
  int max_tokens = 8;           ///< most guesses of a sequence in a step
  bool adaptive = true;

  /// The draft layer is worth loading where there is one.
  bool wants_draft_layer() const { return method == "mtp" || method == "auto"; }
  bool wants_draft_model() const { return method != "none" && !draft_model.empty(); }
};

/// Adds the flags to a command that generates. method: what it does unless told otherwise.
void AddSpeculationOptions(CLI::App* command, SpeculationFlags* flags,
                           const char* method = "ngram");

/// kInvalidArgument where the flags contradict each other.
Status CheckSpeculation(const SpeculationFlags& flags);

/// What there is to guess with once everything is loaded. draft: null without a draft model.
/// Errors: kInvalidArgument where the method needs what the model does not have.
Result<engine::DraftSource> ChooseDraftSource(const SpeculationFlags& flags,
                                              const model::Model& model, const model::Model* draft);

/// One model's side of the comparison below.
struct Vocabulary {
  std::string name;                            ///< as the user gave the model
  int64_t rows = 0;                            ///< of the embedding
  const text::Tokenizer* tokenizer = nullptr;  ///< null where the checkpoint has none
};

/// kInvalidArgument, naming both models and the first difference, where ids do not mean the same
/// in both. The sizes may differ by up to 128 tokens that were added to one of them.
Status CheckSameVocabulary(const Vocabulary& target, const Vocabulary& draft);

}  // namespace halfmoon::app
