// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/speculation_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

namespace halfmoon::app {
namespace {

// Instruct models often have a few tokens more than the base model they come from.
constexpr int64_t kMostAddedTokens = 128;

Error Differ(const Vocabulary& target, const Vocabulary& draft, const std::string& how) {
  return Error(ErrorCode::kInvalidArgument,
               "the draft model " + draft.name + " does not have the vocabulary of " + target.name +
                   ": " + how + "; a draft model has to come from the same family");
}

std::string Quoted(std::string_view bytes) {
  std::string text = "'";
  for (const char c : bytes) text += c >= 0x20 && c < 0x7f ? c : '?';
  return text + "'";
}

}  // namespace

void AddSpeculationOptions(CLI::App* command, SpeculationFlags* flags, const char* method) {
  flags->method = method;
  command
      ->add_option(
          "--speculative,--spec-type,--speculative-method", flags->method,
          "Guess tokens ahead and check several in one step. Answers stay the same, token for "
          "token. ngram: repeat what followed before, needs nothing; mtp: the model's own draft "
          "layer; draft: a smaller model (--model-draft); auto: the best there is; none: off")
      ->check(CLI::IsMember({"none", "ngram", "mtp", "draft", "auto"}))
      ->capture_default_str()
      ->group("Speculation");
  command
      ->add_option("--model-draft,--speculative-model", flags->draft_model,
                   "Smaller model of the same family to guess with (also -md); implies "
                   "--speculative draft")
      ->group("Speculation");
  command
      ->add_option("--draft-max,--draft,--draft-n,--num-speculative-tokens", flags->max_tokens,
                   "Most tokens to guess ahead; how many it is in a step follows from how many "
                   "came true and what they cost")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group("Speculation");
  command
      ->add_flag("!--no-draft-adaptive", flags->adaptive,
                 "Always guess --draft-max tokens, whether it pays or not")
      ->group("Speculation");
}

Status CheckSpeculation(const SpeculationFlags& flags) {
  if (flags.method == "draft" && flags.draft_model.empty()) {
    return Error(ErrorCode::kInvalidArgument, "--speculative draft needs --model-draft");
  }
  if (!flags.draft_model.empty() && flags.method == "mtp") {
    return Error(ErrorCode::kInvalidArgument,
                 "--model-draft and --speculative mtp exclude each other");
  }
  return {};
}

Result<engine::DraftSource> ChooseDraftSource(const SpeculationFlags& flags,
                                              const model::Model& model,
                                              const model::Model* draft) {
  if (draft != nullptr) return engine::DraftSource::kModel;
  if (flags.method == "none") return engine::DraftSource::kNone;
  if (flags.method == "ngram") return engine::DraftSource::kNgram;
  if (model.num_mtp_layers() > 0) return engine::DraftSource::kMtp;
  if (flags.method == "auto") return engine::DraftSource::kNgram;
  return Error(ErrorCode::kInvalidArgument,
               "--speculative mtp: this model has no draft layer (family " +
                   model.description().family +
                   "); ngram works with any model, draft with a smaller one of the family");
}

Status CheckSameVocabulary(const Vocabulary& target, const Vocabulary& draft) {
  if (target.tokenizer == nullptr || draft.tokenizer == nullptr) {
    if (target.rows == draft.rows) return {};
    return Differ(target, draft,
                  std::to_string(draft.rows) + " tokens, not " + std::to_string(target.rows));
  }
  const int32_t have = draft.tokenizer->vocab_size();
  const int32_t want = target.tokenizer->vocab_size();
  if (std::abs(int64_t{have} - want) > kMostAddedTokens) {
    return Differ(target, draft, std::to_string(have) + " tokens, not " + std::to_string(want));
  }
  for (int32_t id = 0; id < std::min(have, want); ++id) {
    const std::string_view a = target.tokenizer->TokenBytes(id);
    const std::string_view b = draft.tokenizer->TokenBytes(id);
    if (a == b) continue;
    return Differ(target, draft,
                  "token " + std::to_string(id) + " is " + Quoted(b) + ", not " + Quoted(a));
  }
  return {};
}

}  // namespace halfmoon::app
