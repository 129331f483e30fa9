// SPDX-License-Identifier: Apache-2.0
// Chat templates: conversations to prompts, with the semantics of the Jinja2 set-up that published
// templates are written for (trim_blocks, lstrip_blocks, loop controls, tojson, raise_exception,
// strftime_now, Python methods).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace halfmoon::text {

/// What one rendering sees. The views have to live during Render only.
struct ChatInput {
  std::string_view messages_json;  ///< array of {role, content, ...}
  std::string_view tools_json;     ///< array of tool definitions; empty: `tools` is none
  bool add_generation_prompt = true;
  std::string_view bos_token;
  std::string_view eos_token;
  std::string_view extra_json;  ///< object whose keys become variables ("enable_thinking",
                                ///< "thinking"); may be empty
  int64_t now_unix_s = 0;       ///< what strftime_now prints, as UTC
};

/// A compiled template. Immutable, thread-safe.
class ChatTemplate {
 public:
  /// Errors: kInvalidArgument with the line of the syntax error; kResourceExhausted above 1 MiB of
  /// source.
  static Result<ChatTemplate> Compile(std::string_view source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// The prompt. Instructions, depth of macros and output are bounded, so that neither a
  /// conversation nor a template that loops keeps the caller for long. What lies between is not: a
  /// template made to fill memory (a string doubled in a loop) can, so templates come with models,
  /// never from clients. Errors: kInvalidArgument with the template's line where it fails or calls
  /// raise_exception (the message is the template's), kResourceExhausted where a bound is met.
  ///
  /// Known differences from Jinja2: tuples print as lists, and 1 / 0 is inf.
  Result<std::string> Render(const ChatInput& input) const;

 private:
  struct Handle;
  struct HandleDeleter {
    void operator()(Handle* handle) const;
  };
  explicit ChatTemplate(std::unique_ptr<Handle, HandleDeleter> handle);
  std::unique_ptr<Handle, HandleDeleter> handle_;
};

/// The template that travels with a model folder: chat_template.jinja, or `chat_template` of
/// chat_template.json or tokenizer_config.json, in this order. It is a string, or a list of named
/// ones, of which "default" is taken, or the only one. nullopt where the folder has none. Errors
/// name the file.
Result<std::optional<std::string>> FindChatTemplate(const std::filesystem::path& folder);

}  // namespace halfmoon::text
