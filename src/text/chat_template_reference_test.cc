// SPDX-License-Identifier: Apache-2.0
// Renderings byte for byte against Jinja2: the templates of tests/golden/templates, written for
// this repository, and those of the model families where the reference data is at hand.
#include <chrono>

#include "text/chat_template.h"
#include "text/reference_data.h"

namespace halfmoon::text {
namespace {

namespace fs = std::filesystem;

// The last second of "YYYY-MM-DD", UTC: an error of a day would show.
int64_t UnixSecondsOf(const std::string& date) {
  const std::chrono::year_month_day day{
      std::chrono::year(std::stoi(date.substr(0, 4))),
      std::chrono::month(static_cast<unsigned>(std::stoi(date.substr(5, 2)))),
      std::chrono::day(static_cast<unsigned>(std::stoi(date.substr(8, 2))))};
  return std::chrono::sys_days(day).time_since_epoch().count() * int64_t{86400} + 86399;
}

// Renders every case of a golden. A case has either `rendered` or `error`; everything in it that is
// not one of the known fields is a variable of the template.
void ExpectRenderings(const fs::path& golden_path, const fs::path& templates_root) {
  const json::value golden = ReadJson(golden_path);
  const std::string source = ReadText(templates_root / Text(golden.at("template")));
  const auto chat_template = ChatTemplate::Compile(source);
  ASSERT_TRUE(chat_template.ok()) << golden_path << ": " << chat_template.error().message();
  const std::string bos = Text(golden.at("bos_token")), eos = Text(golden.at("eos_token"));
  size_t rendered = 0, refused = 0;
  for (const json::value& c : golden.at("cases").as_array()) {
    SCOPED_TRACE(golden_path.filename().string() + ": " + Text(c.at("name")));
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
      ASSERT_TRUE(text.ok()) << text.error().message();
      EXPECT_EQ(*text, Text(*expected));
      ++rendered;
    } else {
      EXPECT_FALSE(text.ok()) << "Jinja2 refuses this: " << c.at("error");
      ++refused;
    }
  }
  std::cout << golden_path.filename().string() << ": " << rendered << " renderings, " << refused
            << " refusals\n";
}

TEST(ChatTemplateReference, TemplatesOfThisRepository_RenderAsJinja2Does) {
  const fs::path folder = GoldenFolder() / "templates";
  const auto files = FilesIn(folder, "chat_", ".json");
  ASSERT_FALSE(files.empty());
  for (const fs::path& file : files) ExpectRenderings(file, folder);
}

TEST(ChatTemplateReference, TemplatesOfTheFamilies_RenderAsJinja2Does) {
  const auto reference = FolderFrom("HALFMOON_REFERENCE_DIR", "chat templates of the families");
  if (!reference) return;
  const auto files = FilesIn(*reference / "tokenizers", "chat_", ".json");
  ASSERT_FALSE(files.empty());
  for (const fs::path& file : files) ExpectRenderings(file, *reference);
}

}  // namespace
}  // namespace halfmoon::text
