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

Result<text::GrammarMatcher> Backend::CompileGrammar(text::GrammarKind kind,
                                                     std::string_view source) const {
  std::call_once(grammar_once_,
                 [this] { grammar_.emplace(text::GrammarCompiler::Create(*tokenizer_)); });
  if (!grammar_->ok()) return grammar_->error();
  return (*grammar_)->Compile(kind, source);
}

}  // namespace halfmoon::serve
