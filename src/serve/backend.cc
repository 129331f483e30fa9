// SPDX-License-Identifier: Apache-2.0
#include "serve/backend.h"

#include <utility>

namespace halfmoon::serve {

Backend::Backend(engine::Engine* engine, const text::Tokenizer* tokenizer,
                 std::optional<text::ChatTemplate> chat_template, ModelInfo info)
    : engine_(engine),
      tokenizer_(tokenizer),
      chat_template_(std::move(chat_template)),
      info_(std::move(info)) {}

Result<std::shared_ptr<GrammarState>> Backend::CompileGrammar(text::GrammarKind kind,
                                                              std::string_view source,
                                                              std::vector<int32_t> eos_ids) const {
  std::call_once(grammar_once_,
                 [this] { grammar_.emplace(text::GrammarCompiler::Create(*tokenizer_)); });
  if (!grammar_->ok()) return grammar_->error();
  const text::GrammarCompiler& compiler = grammar_->value();
  HM_ASSIGN(text::GrammarMatcher matcher, compiler.Compile(kind, source));
  return std::make_shared<GrammarState>(std::move(matcher), compiler.mask_words(),
                                        std::move(eos_ids));
}

}  // namespace halfmoon::serve
