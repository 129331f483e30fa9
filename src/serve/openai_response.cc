// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_response.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "text/utf8.h"

namespace halfmoon::serve {
namespace {

json::array IdsJson(const std::vector<engine::TokenEvent>& tokens) {
  json::array ids;
  ids.reserve(tokens.size());
  for (const engine::TokenEvent& token : tokens) ids.emplace_back(token.id);
  return ids;
}

void AddTokenIds(const ResponseContext& context, const Piece& piece, json::object& choice) {
  if (!context.return_token_ids) return;
  if (piece.first)
    choice["prompt_token_ids"] = json::array(piece.prompt_ids.begin(), piece.prompt_ids.end());
  choice["token_ids"] = IdsJson(piece.tokens);
}

json::value FinishJson(const Piece& piece) {
  return piece.finish_reason ? json::value(*piece.finish_reason) : json::value(nullptr);
}

class ChatFormat final : public ResponseFormat {
 public:
  using ResponseFormat::ResponseFormat;

  std::string_view object_name() const override {
    return context_.stream ? "chat.completion.chunk" : "chat.completion";
  }

  json::object Choice(int index, const Piece& piece) override {
    json::object text;
    if (piece.first || !context_.stream) text["role"] = "assistant";
    if (piece.first || !context_.stream || !piece.text.empty()) text["content"] = piece.text;
    json::object choice;
    choice["index"] = index;
    choice[context_.stream ? "delta" : "message"] = std::move(text);
    choice["logprobs"] = Logprobs(piece);
    choice["finish_reason"] = FinishJson(piece);
    AddTokenIds(context_, piece, choice);
    return choice;
  }

 private:
  json::value Logprobs(const Piece& piece) const {
    if (!context_.logprobs) return nullptr;
    json::array content;
    for (const engine::TokenEvent& token : piece.tokens) {
      // The end-of-sequence token is no part of the message.
      if (std::ranges::find(context_.stop_ids, token.id) != context_.stop_ids.end()) continue;
      json::object entry = Token(token.id, token.logprob);
      json::array top;
      for (const engine::Logprob& other : token.top) top.push_back(Token(other.id, other.logprob));
      entry["top_logprobs"] = std::move(top);
      content.push_back(std::move(entry));
    }
    json::object logprobs;
    logprobs["content"] = std::move(content);
    logprobs["refusal"] = nullptr;
    return logprobs;
  }

  json::object Token(int32_t id, float logprob) const {
    json::object entry;
    entry["token"] = TokenText(*context_.tokenizer, id, context_.tokens_as_ids);
    entry["logprob"] = LogprobJson(logprob);
    json::array bytes;
    for (const char byte : context_.tokenizer->TokenBytes(id)) {
      bytes.emplace_back(static_cast<int>(static_cast<unsigned char>(byte)));
    }
    entry["bytes"] = std::move(bytes);
    return entry;
  }
};

class CompletionFormat final : public ResponseFormat {
 public:
  CompletionFormat(ResponseContext context, int num_choices)
      : ResponseFormat(std::move(context)), offsets_(static_cast<size_t>(num_choices), 0) {}

  std::string_view object_name() const override { return "text_completion"; }

  json::object Choice(int index, const Piece& piece) override {
    json::object choice;
    choice["index"] = index;
    choice["text"] = piece.text;
    choice["logprobs"] = Logprobs(index, piece);
    choice["finish_reason"] = FinishJson(piece);
    AddTokenIds(context_, piece, choice);
    return choice;
  }

 private:
  json::value Logprobs(int index, const Piece& piece) {
    if (!context_.logprobs) return nullptr;
    json::array tokens;
    json::array token_logprobs;
    json::array top_logprobs;
    json::array text_offset;
    int64_t& offset = offsets_[static_cast<size_t>(index)];
    for (const auto* list : {&piece.prompt_tokens, &piece.tokens}) {
      for (const engine::TokenEvent& token : *list) {
        const std::string text = TokenText(*context_.tokenizer, token.id, context_.tokens_as_ids);
        tokens.emplace_back(text);
        token_logprobs.push_back(LogprobJson(token.logprob));
        top_logprobs.push_back(Top(token, text));
        text_offset.emplace_back(offset);
        offset += NumCharacters(token.id);
      }
    }
    json::object logprobs;
    logprobs["tokens"] = std::move(tokens);
    logprobs["token_logprobs"] = std::move(token_logprobs);
    logprobs["top_logprobs"] = std::move(top_logprobs);
    logprobs["text_offset"] = std::move(text_offset);
    return logprobs;
  }

  /// The best tokens and the chosen one, by text.
  json::value Top(const engine::TokenEvent& token, const std::string& text) const {
    if (std::isnan(token.logprob)) return nullptr;
    json::object top;
    for (const engine::Logprob& other : token.top) {
      top.emplace(TokenText(*context_.tokenizer, other.id, context_.tokens_as_ids),
                  LogprobJson(other.logprob));
    }
    top.emplace(text, LogprobJson(token.logprob));
    return top;
  }

  /// Characters that begin in this token: offsets stay right where a character spans tokens.
  int64_t NumCharacters(int32_t id) const {
    if (context_.skip_special && context_.tokenizer->IsSpecial(id)) return 0;
    return std::ranges::count_if(context_.tokenizer->TokenBytes(id),
                                 [](char byte) { return (byte & 0xC0) != 0x80; });
  }

  std::vector<int64_t> offsets_;  // next text offset of each choice
};

}  // namespace

std::unique_ptr<ResponseFormat> MakeChatFormat(ResponseContext context) {
  return std::make_unique<ChatFormat>(std::move(context));
}

std::unique_ptr<ResponseFormat> MakeCompletionFormat(ResponseContext context, int num_choices) {
  return std::make_unique<CompletionFormat>(std::move(context), num_choices);
}

json::object Envelope(const ResponseFormat& format, json::array choices, const Usage* usage,
                      bool null_usage) {
  const ResponseContext& context = format.context();
  json::object envelope;
  envelope["id"] = context.id;
  envelope["object"] = format.object_name();
  envelope["created"] = context.created;
  envelope["model"] = context.model;
  envelope["system_fingerprint"] = context.fingerprint;
  if (!context.service_tier.empty()) envelope["service_tier"] = context.service_tier;
  envelope["choices"] = std::move(choices);
  if (usage != nullptr) {
    envelope["usage"] = UsageJson(*usage);
  } else if (null_usage) {
    envelope["usage"] = nullptr;
  }
  return envelope;
}

json::object UsageJson(const Usage& usage) {
  json::object details;
  details["cached_tokens"] = usage.cached_tokens;
  json::object out;
  out["prompt_tokens"] = usage.prompt_tokens;
  out["completion_tokens"] = usage.completion_tokens;
  out["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  out["prompt_tokens_details"] = std::move(details);
  return out;
}

std::string TokenText(const text::Tokenizer& tokenizer, int32_t id, bool as_id) {
  if (as_id) return "token_id:" + std::to_string(id);
  const std::string_view bytes = tokenizer.TokenBytes(id);
  std::string valid;
  if (text::AppendUtf8(bytes, &valid) == 0 && valid == bytes) return valid;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += "\\x";
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  return text;
}

json::value LogprobJson(float logprob) {
  if (std::isnan(logprob)) return nullptr;
  if (logprob < -9999.0f) return -9999.0;
  // By way of the float's shortest decimal form: -0.1 stays -0.1 instead of -0.10000000149011612.
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), logprob).ptr;
  double value = logprob;
  std::from_chars(digits, end, value);
  return value;
}

}  // namespace halfmoon::serve
