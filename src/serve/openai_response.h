// SPDX-License-Identifier: Apache-2.0
// Answers of the generation endpoints as JSON objects. Pure functions of their arguments.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace halfmoon::serve {

/// What is the same for every choice and chunk of one answer.
struct ResponseContext {
  std::string id;            ///< "chatcmpl-..." or "cmpl-..."
  int64_t created = 0;       ///< Unix seconds
  std::string model;         ///< the name the client used
  std::string fingerprint;   ///< system_fingerprint
  std::string service_tier;  ///< class that served it, for those who asked for one; empty: not told
  const text::Tokenizer* tokenizer = nullptr;
  bool stream = false;
  bool logprobs = false;
  bool return_token_ids = false;
  bool tokens_as_ids = false;
  bool skip_special = true;
  std::vector<int32_t> stop_ids;  ///< ids that end a choice; chat logprobs leave them out
};

/// One choice, or the part of it that goes into one chunk.
struct Piece {
  bool first = false;  ///< the first piece of its choice
  std::string text;
  std::vector<engine::TokenEvent> prompt_tokens;  ///< echoed with logprobs
  std::vector<int32_t> prompt_ids;                ///< with return_token_ids, in the first piece
  std::vector<engine::TokenEvent> tokens;
  std::optional<std::string> finish_reason;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  ///< of prompt_tokens
};

/// How one endpoint words its choices. One request, one thread at a time.
class ResponseFormat {
 public:
  explicit ResponseFormat(ResponseContext context) : context_(std::move(context)) {}
  virtual ~ResponseFormat() = default;

  const ResponseContext& context() const { return context_; }

  /// One element of "choices".
  virtual json::object Choice(int index, const Piece& piece) = 0;
  /// "chat.completion", "chat.completion.chunk" or "text_completion".
  virtual std::string_view object_name() const = 0;

 protected:
  const ResponseContext context_;
};

std::unique_ptr<ResponseFormat> MakeChatFormat(ResponseContext context);
/// num_choices: how many choices the answer has; text offsets are counted for each.
std::unique_ptr<ResponseFormat> MakeCompletionFormat(ResponseContext context, int num_choices);

/// A whole answer or one chunk around its choices. usage: left out where null, unless `null_usage`
/// (a stream with include_usage says null until its last chunk).
json::object Envelope(const ResponseFormat& format, json::array choices, const Usage* usage,
                      bool null_usage = false);

json::object UsageJson(const Usage& usage);

/// A token's bytes as text; "bytes:\xe2\x80" where they are not UTF-8 on their own, "token_id:17"
/// with `as_id`.
std::string TokenText(const text::Tokenizer& tokenizer, int32_t id, bool as_id = false);

/// JSON has no infinities: an impossible token has -9999, as OpenAI writes it; NaN (none) is null.
json::value LogprobJson(float logprob);

}  // namespace halfmoon::serve
