// SPDX-License-Identifier: Apache-2.0
// For tests: comparisons with what the reference libraries made of texts and conversations.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/reference_data.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace halfmoon::text {

inline constexpr EncodeOptions kWithoutSpecial{.add_special_tokens = false};

inline std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

inline void ExpectReference(const Tokenizer& tokenizer, const std::vector<EncodedText>& texts,
                            const std::string& name) {
  for (const EncodedText& expected : texts) {
    SCOPED_TRACE(name + ": \"" + expected.text + "\"");
    const auto ids = tokenizer.Encode(expected.text, kWithoutSpecial);
    ASSERT_TRUE(ids.ok()) << ids.error().message();
    EXPECT_EQ(*ids, expected.ids);
    EXPECT_EQ(tokenizer.Decode(expected.ids), expected.decoded);
    EXPECT_EQ(Stream(tokenizer, expected.ids), expected.decoded);
    if (expected.decoded_skip_special) {
      EXPECT_EQ(tokenizer.Decode(expected.ids, {.skip_special = true}),
                *expected.decoded_skip_special);
    }
  }
  std::cout << name << ": " << texts.size() << " texts\n";
}

/// The last second of "YYYY-MM-DD", UTC: an error of a day would show.
inline int64_t UnixSecondsOf(const std::string& date) {
  const std::chrono::year_month_day day{
      std::chrono::year(std::stoi(date.substr(0, 4))),
      std::chrono::month(static_cast<unsigned>(std::stoi(date.substr(5, 2)))),
      std::chrono::day(static_cast<unsigned>(std::stoi(date.substr(8, 2))))};
  return std::chrono::sys_days(day).time_since_epoch().count() * int64_t{86400} + 86399;
}

/// Renders every case of a golden. A case has either `rendered` or `error`; everything in it that
/// is not one of the known fields is a variable of the template. Returns the renderings.
inline std::vector<std::string> ExpectRenderings(const json::value& golden,
                                                 const std::string& golden_name,
                                                 const std::string& source, const std::string& bos,
                                                 const std::string& eos) {
  std::vector<std::string> renderings;
  const auto chat_template = ChatTemplate::Compile(source);
  if (!chat_template.ok()) {
    ADD_FAILURE() << golden_name << ": " << chat_template.error().message();
    return renderings;
  }
  size_t refused = 0;
  for (const json::value& c : golden.at("cases").as_array()) {
    SCOPED_TRACE(golden_name + ": " + Text(c.at("name")));
    json::object extra;
    for (const auto& [key, value] : c.as_object()) {
      const bool known = key == "name" || key == "messages" || key == "tools" ||
                         key == "rendered" || key == "error" || key == "add_generation_prompt" ||
                         key == "needs_mutable_lists";
      if (!known) extra[key] = value;
    }
    const std::string messages = json::Serialize(c.at("messages"));
    const json::value* tools = c.as_object().if_contains("tools");
    const std::string tools_text = tools == nullptr ? "" : json::Serialize(*tools);
    const std::string extra_text = json::Serialize(extra);
    ChatInput input;
    input.messages_json = messages;
    input.tools_json = tools_text;
    input.extra_json = extra_text;
    input.bos_token = bos;
    input.eos_token = eos;
    input.add_generation_prompt = c.at("add_generation_prompt").as_bool();
    input.now_unix_s = UnixSecondsOf(Text(golden.at("today")));
    const auto text = chat_template->Render(input);
    if (const json::value* expected = c.as_object().if_contains("rendered")) {
      if (!text.ok()) {
        ADD_FAILURE() << text.error().message();
        continue;
      }
      EXPECT_EQ(*text, Text(*expected));
      renderings.push_back(*text);
    } else {
      EXPECT_FALSE(text.ok()) << "Jinja2 refuses this: " << c.at("error");
      ++refused;
    }
  }
  std::cout << golden_name << ": " << renderings.size() << " renderings, " << refused
            << " refusals\n";
  return renderings;
}

}  // namespace halfmoon::text
