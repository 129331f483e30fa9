// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <utility>

#include "base/file.h"
#include "text/textcore_bridge.h"

namespace halfmoon::text {
namespace {

constexpr size_t kMaxTemplateBytes = 1u << 20;
constexpr size_t kMaxConfigBytes = 64u << 20;

/// `chat_template` of a JSON file; nullopt where there is no such file or field.
Result<std::optional<std::string>> FindInJson(const std::filesystem::path& path) {
  const Result<std::string> text = ReadTextFile(path, kMaxConfigBytes);
  if (!text.ok()) {
    if (text.error().code() != ErrorCode::kNotFound) return text.error();
    return std::optional<std::string>();
  }
  HM_ASSIGN(const json::object config, json::ParseObject(*text).WithContext(path.string()));
  const json::value* found = config.if_contains("chat_template");
  if (found == nullptr || !found->is_array()) {
    return json::FindString(config, "chat_template").WithContext(path.string());
  }
  const json::array& named = found->get_array();
  for (const json::value& entry : named) {
    if (!entry.is_object()) continue;
    const json::value* name = entry.get_object().if_contains("name");
    const bool is_default = name != nullptr && name->is_string() && name->get_string() == "default";
    if (is_default || named.size() == 1) {
      return json::FindString(entry.get_object(), "template").WithContext(path.string());
    }
  }
  return std::optional<std::string>();
}

textcore_template* Raw(void* handle) { return static_cast<textcore_template*>(handle); }

}  // namespace

void ChatTemplate::HandleDeleter::operator()(Handle* handle) const {
  textcore_template_free(Raw(handle));
}

ChatTemplate::ChatTemplate(std::unique_ptr<Handle, HandleDeleter> handle)
    : handle_(std::move(handle)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::Compile(std::string_view source) {
  using HandlePtr = std::unique_ptr<Handle, HandleDeleter>;
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_template>([&](auto** out, textcore_bytes* error) {
              return textcore_template_compile(ToView(source), out, error);
            })));
  return ChatTemplate(std::move(handle));
}

Result<std::string> ChatTemplate::Render(const ChatInput& input) const {
  textcore_template_input raw = {};
  raw.messages_json = ToView(input.messages_json);
  raw.tools_json = ToView(input.tools_json);
  raw.extra_json = ToView(input.extra_json);
  raw.bos_token = ToView(input.bos_token);
  raw.eos_token = ToView(input.eos_token);
  raw.now_unix_s = input.now_unix_s;
  raw.add_generation_prompt = input.add_generation_prompt;
  OwnedBytes text, error;
  const textcore_status status =
      textcore_template_render(Raw(handle_.get()), &raw, text.out(), error.out());
  if (status != TEXTCORE_OK) return ToError(status, error);
  return std::string(text.view());
}

Result<std::optional<std::string>> FindChatTemplate(const std::filesystem::path& folder) {
  Result<std::string> source = ReadTextFile(folder / "chat_template.jinja", kMaxTemplateBytes);
  if (source.ok()) return std::optional(std::move(source).value());
  if (source.error().code() != ErrorCode::kNotFound) return source.error();
  for (const char* file : {"chat_template.json", "tokenizer_config.json"}) {
    HM_ASSIGN(std::optional<std::string> found, FindInJson(folder / file));
    if (found.has_value()) return found;
  }
  return std::optional<std::string>();
}

}  // namespace halfmoon::text
