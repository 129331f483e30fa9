// SPDX-License-Identifier: Apache-2.0
#include "serve/chat_messages.h"

#include <optional>
#include <string>
#include <utility>

#include "serve/limits.h"

namespace halfmoon::serve {
namespace {

/// Text of a content field: a string, or parts of type text joined by line breaks (templates take
/// one string). nullopt where it is neither; `fields` then knows why.
std::optional<std::string> ReadContent(FieldReader& fields, const json::value& content) {
  if (content.is_string()) return std::string(content.as_string());
  if (!content.is_array()) {
    fields.FailField("content", "message content has to be a string or a list of parts, found " +
                                    std::string(json::KindName(content)));
    return std::nullopt;
  }
  std::string text;
  for (const json::value& part : content.as_array()) {
    if (!part.is_object()) {
      fields.FailField("content", "a content part has to be an object with a 'type'");
      return std::nullopt;
    }
    FieldReader reader(part.as_object(), "messages[].content[].");
    const std::string type = reader.String("type").value_or("");
    const bool refusal = type == "refusal";
    const std::optional<std::string> piece = reader.String(refusal ? "refusal" : "text");
    if (reader.ok() && type != "text" && !refusal) {
      reader.Fail(UnsupportedField(
          "messages",
          "content parts of type '" + type + "' are not supported by this model: only text is"));
    } else if (reader.ok() && !piece) {
      reader.FailField("text", "a content part of type 'text' needs a string 'text'");
    }
    if (!reader.ok()) {
      fields.Fail(*reader.error());
      return std::nullopt;
    }
    if (&part != &content.as_array().front()) text += '\n';
    text += *piece;
  }
  return text;
}

/// Templates print the arguments of a call as JSON, so they expect the object, while the API
/// carries its text. What is no JSON object stays as it is.
json::array ReadToolCalls(FieldReader& fields, const json::array& calls) {
  json::array out;
  for (const json::value& call : calls) {
    const json::object* object = call.if_object();
    const json::value* function = object == nullptr ? nullptr : object->if_contains("function");
    if (function == nullptr || !function->is_object()) {
      fields.FailField("tool_calls", "each of 'tool_calls' needs a 'function' object");
      return {};
    }
    FieldReader reader(function->as_object(), "messages[].tool_calls[].function.");
    const std::optional<std::string> name = reader.String("name");
    if (reader.ok() && !name)
      reader.FailField("name", "a tool call needs the name of its function");
    if (!reader.ok()) {
      fields.Fail(*reader.error());
      return {};
    }
    json::object copy = *object;
    json::object& function_copy = copy["function"].as_object();
    if (const json::value* arguments = function_copy.if_contains("arguments");
        arguments != nullptr && arguments->is_string()) {
      Result<json::object> parsed = json::ParseObject(arguments->as_string());
      if (parsed.ok()) function_copy["arguments"] = std::move(*parsed);
    }
    out.push_back(std::move(copy));
  }
  return out;
}

json::object ReadMessage(FieldReader& fields) {
  json::object out;
  std::string role = fields.String("role").value_or("");
  if (!fields.ok()) return out;
  // "developer" is OpenAI's newer word for the system's instructions; templates know the older one.
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    fields.FailField(
        "role", "'" + role + "' is not a role: system, developer, user, assistant and tool are");
    return out;
  }
  out["role"] = role;

  const json::value* content = fields.Any("content");
  const json::array* calls = role == "assistant" ? fields.Array("tool_calls") : nullptr;
  const bool has_calls = calls != nullptr && !calls->empty();
  if (content != nullptr) {
    if (std::optional<std::string> text = ReadContent(fields, *content)) out["content"] = *text;
  } else if (role != "assistant") {
    fields.FailField("content", "a message of role '" + role + "' needs 'content'");
  } else if (has_calls) {
    out["content"] = nullptr;
  } else {
    out["content"] = "";
  }
  if (has_calls) out["tool_calls"] = ReadToolCalls(fields, *calls);
  for (const std::string_view key : {"name", "tool_call_id", "reasoning_content", "reasoning"}) {
    if (std::optional<std::string> text = fields.String(key)) out[key] = *text;
  }
  fields.RefuseUnless("function_call", "", "use 'tool_calls'");
  fields.RefuseUnless("audio", "", "this model reads text only");
  return out;
}

void ReadMessages(FieldReader& reader, ChatPrompt& prompt) {
  const json::array* messages = reader.Array("messages");
  if (!reader.ok()) return;
  if (messages == nullptr || messages->empty()) {
    return reader.FailField("messages", "'messages' has to hold at least one message");
  }
  if (messages->size() > kMaxMessages) {
    return reader.FailField("messages", "'messages' has " + std::to_string(messages->size()) +
                                            " entries; at most " + std::to_string(kMaxMessages) +
                                            " are allowed");
  }
  prompt.messages.reserve(messages->size());
  for (size_t i = 0; i < messages->size(); ++i) {
    const std::string where = "messages[" + std::to_string(i) + "]";
    const json::object* message = (*messages)[i].if_object();
    if (message == nullptr) return reader.FailField(where, "'" + where + "' has to be an object");
    FieldReader fields(*message, where + ".");
    prompt.messages.push_back(ReadMessage(fields));
    if (!fields.ok()) return reader.Fail(*fields.error());
  }
}

void ReadTools(FieldReader& reader, ChatPrompt& prompt) {
  const json::array* tools = reader.Array("tools");
  const json::value* choice = reader.Any("tool_choice");
  bool wanted = true;
  if (choice != nullptr) {
    const bool is_word = choice->is_string();
    if (is_word && choice->as_string() == "none") {
      wanted = false;
    } else if (!is_word || choice->as_string() != "auto") {
      reader.Fail(UnsupportedField(
          "tool_choice", "'tool_choice' can be 'auto' or 'none'; this server cannot force a call"));
    }
  }
  if (tools == nullptr) return;
  for (const json::value& tool : *tools) {
    const json::object* object = tool.if_object();
    const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
    const json::value* function = object == nullptr ? nullptr : object->if_contains("function");
    if (type == nullptr || !type->is_string() || type->as_string() != "function" ||
        function == nullptr || !function->is_object()) {
      return reader.FailField(
          "tools", "each of 'tools' has to be {\"type\": \"function\", \"function\": {...}}");
    }
  }
  if (wanted) prompt.tools = *tools;
}

}  // namespace

ChatPrompt ReadChatPrompt(FieldReader& reader) {
  ChatPrompt prompt;
  ReadMessages(reader, prompt);
  ReadTools(reader, prompt);
  if (const json::object* kwargs = reader.Object("chat_template_kwargs")) {
    prompt.template_kwargs = *kwargs;
  }
  if (const auto effort = reader.String("reasoning_effort")) {
    // Templates that know the word read it as a variable; to the others it is nothing.
    prompt.template_kwargs.emplace("reasoning_effort", *effort);
  }
  prompt.add_special_tokens = reader.Bool("add_special_tokens").value_or(false);
  prompt.continue_final_message = reader.Bool("continue_final_message").value_or(false);
  const std::optional<bool> generation_prompt = reader.Bool("add_generation_prompt");
  prompt.add_generation_prompt = generation_prompt.value_or(!prompt.continue_final_message);
  if (reader.ok() && prompt.continue_final_message) {
    if (prompt.add_generation_prompt) {
      reader.FailField("continue_final_message",
                       "'continue_final_message' and 'add_generation_prompt' exclude each other");
    } else if (const json::value& content = prompt.messages.back().as_object()["content"];
               !content.is_string() || content.as_string().empty()) {
      reader.FailField("continue_final_message",
                       "'continue_final_message' needs a last message with text");
    }
  }
  reader.RefuseUnless("chat_template", "", "the model's own template is used");
  reader.RefuseUnless("documents", "[]", "this server's templates are given no documents");
  reader.RefuseUnless("functions", "[]", "use 'tools'");
  reader.RefuseUnless("function_call", "\"none\"", "use 'tool_choice'");
  return prompt;
}

}  // namespace halfmoon::serve
