// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <utility>

#include "base/file.h"
#include "text/textcore_bridge.h"

namespace halfmoon::text {
namespace {

constexpr size_t kMaxTemplateBytes = 1u << 20;
constexpr size_t kMaxConfigBytes = 64u << 20;

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
  const std::filesystem::path file = folder / "chat_template.jinja";
  Result<std::string> source = ReadTextFile(file, kMaxTemplateBytes);
  if (source.ok()) return std::optional(std::move(source).value());
  if (source.error().code() != ErrorCode::kNotFound) return source.error();

  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  Result<std::string> config_text = ReadTextFile(config_path, kMaxConfigBytes);
  if (!config_text.ok()) {
    if (config_text.error().code() != ErrorCode::kNotFound) return config_text.error();
    return std::optional<std::string>();
  }
  HM_ASSIGN(const json::object config,
            json::ParseObject(*config_text).WithContext(config_path.string()));
  const json::value* found = config.if_contains("chat_template");
  if (found == nullptr || !found->is_array()) {
    return json::FindString(config, "chat_template").WithContext(config_path.string());
  }
  for (const json::value& entry : found->get_array()) {
    if (!entry.is_object()) continue;
    const json::value* name = entry.get_object().if_contains("name");
    if (name != nullptr && name->is_string() && name->get_string() == "default") {
      return json::FindString(entry.get_object(), "template").WithContext(config_path.string());
    }
  }
  return std::optional<std::string>();
}

}  // namespace halfmoon::text
