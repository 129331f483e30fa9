// SPDX-License-Identifier: Apache-2.0
#include "text/grammar.h"

#include <utility>

#include "text/textcore_bridge.h"

namespace halfmoon::text {
namespace {

textcore_grammar_compiler* RawCompiler(void* handle) {
  return static_cast<textcore_grammar_compiler*>(handle);
}
textcore_grammar_matcher* RawMatcher(void* handle) {
  return static_cast<textcore_grammar_matcher*>(handle);
}

int32_t RawKind(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonSchema:
      return TEXTCORE_GRAMMAR_JSON_SCHEMA;
    case GrammarKind::kRegex:
      return TEXTCORE_GRAMMAR_REGEX;
    case GrammarKind::kLark:
      return TEXTCORE_GRAMMAR_LARK;
  }
  return -1;
}

}  // namespace

void GrammarMatcher::HandleDeleter::operator()(Handle* handle) const {
  textcore_grammar_matcher_free(RawMatcher(handle));
}

GrammarMatcher::GrammarMatcher(std::unique_ptr<Handle, HandleDeleter> handle)
    : handle_(std::move(handle)) {}
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

Status GrammarMatcher::ComputeMask(std::span<uint32_t> bitmask) {
  OwnedBytes error;
  const textcore_status status = textcore_grammar_matcher_mask(
      RawMatcher(handle_.get()), bitmask.data(), bitmask.size(), error.out());
  if (status != TEXTCORE_OK) return ToError(status, error);
  return {};
}

Status GrammarMatcher::Commit(int32_t token_id) {
  OwnedBytes error;
  const textcore_status status =
      textcore_grammar_matcher_commit(RawMatcher(handle_.get()), token_id, error.out());
  if (status != TEXTCORE_OK) return ToError(status, error);
  return {};
}

bool GrammarMatcher::IsAccepting() {
  return textcore_grammar_matcher_is_accepting(RawMatcher(handle_.get()));
}

bool GrammarMatcher::IsStopped() const {
  return textcore_grammar_matcher_is_stopped(RawMatcher(handle_.get()));
}

void GrammarCompiler::HandleDeleter::operator()(Handle* handle) const {
  textcore_grammar_compiler_free(RawCompiler(handle));
}

GrammarCompiler::GrammarCompiler(std::unique_ptr<Handle, HandleDeleter> handle)
    : handle_(std::move(handle)) {}
GrammarCompiler::GrammarCompiler(GrammarCompiler&&) noexcept = default;
GrammarCompiler& GrammarCompiler::operator=(GrammarCompiler&&) noexcept = default;
GrammarCompiler::~GrammarCompiler() = default;

Result<GrammarCompiler> GrammarCompiler::Create(const Tokenizer& tokenizer) {
  using HandlePtr = std::unique_ptr<Handle, HandleDeleter>;
  const std::vector<int32_t>& eos = tokenizer.eos_ids();
  const auto* raw = reinterpret_cast<const textcore_tokenizer*>(tokenizer.handle_.get());
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_grammar_compiler>([&](auto** out, textcore_bytes* error) {
              return textcore_grammar_compiler_new(raw, eos.data(), eos.size(), out, error);
            })));
  GrammarCompiler compiler(std::move(handle));
  compiler.mask_words_ = (static_cast<size_t>(tokenizer.vocab_size()) + 31) / 32;
  return compiler;
}

Result<GrammarMatcher> GrammarCompiler::Compile(GrammarKind kind, std::string_view source) const {
  using HandlePtr = std::unique_ptr<GrammarMatcher::Handle, GrammarMatcher::HandleDeleter>;
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_grammar_matcher>([&](auto** out, textcore_bytes* error) {
              return textcore_grammar_matcher_new(RawCompiler(handle_.get()), RawKind(kind),
                                                  ToView(source), out, error);
            })));
  return GrammarMatcher(std::move(handle));
}

}  // namespace halfmoon::text
