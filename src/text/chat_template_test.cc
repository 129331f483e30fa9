// SPDX-License-Identifier: Apache-2.0
// What a template may do and where it ends. That renderings equal Jinja2's is
// chat_template_reference_test.cc.
#include "text/chat_template.h"

#include <gmock/gmock.h>

#include <chrono>
#include <fstream>

namespace halfmoon::text {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kHello = R"([{"role": "user", "content": "Hello"}])";

Result<std::string> Render(std::string_view source, ChatInput input = {}) {
  HM_ASSIGN(const ChatTemplate chat_template, ChatTemplate::Compile(source));
  if (input.messages_json.empty()) input.messages_json = kHello;
  return chat_template.Render(input);
}

std::string RenderOrFail(std::string_view source, const ChatInput& input = {}) {
  const auto text = Render(source, input);
  EXPECT_TRUE(text.ok()) << text.error().message();
  return text.ok() ? *text : "";
}

void ExpectRefused(std::string_view source, ErrorCode code, const std::string& part,
                   const ChatInput& input = {}) {
  const auto text = Render(source, input);
  ASSERT_FALSE(text.ok()) << *text;
  EXPECT_EQ(text.error().code(), code) << text.error().message();
  EXPECT_THAT(text.error().message(), HasSubstr(part));
}

TEST(ChatTemplate, Variables_ReachTheTemplate) {
  ChatInput input;
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  input.tools_json = R"([{"name": "f"}])";
  input.extra_json = R"({"enable_thinking": false})";
  EXPECT_EQ(RenderOrFail(
                "{{ bos_token }}{{ messages[0].content }}{{ tools[0].name }}{{ enable_thinking }}"
                "{{ add_generation_prompt }}{{ eos_token }}",
                input),
            "<s>HellofFalseTrue</s>");
  EXPECT_EQ(RenderOrFail("{{ tools }} {{ documents }} {{ enable_thinking is defined }}"),
            "None None False");
}

TEST(ChatTemplate, ExtraVariables_CannotReplaceTheConversation) {
  ChatInput input;
  input.extra_json = R"({"messages": [], "add_generation_prompt": false, "bos_token": "mine"})";
  input.bos_token = "theirs";
  EXPECT_EQ(
      RenderOrFail("{{ messages | length }} {{ add_generation_prompt }} {{ bos_token }}", input),
      "1 True mine");
}

TEST(ChatTemplate, Blocks_TakeTheirLineWithThem) {
  EXPECT_EQ(RenderOrFail("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(RenderOrFail("a\n  {%+ if true %}x{% endif +%}\nc"), "a\n  x\nc");
}

TEST(ChatTemplate, OrderOfKeys_IsTheDocuments) {
  ChatInput input;
  input.tools_json = R"([{"z": 1, "a": {"y": 2, "b": [1.0, 10000000000000000000000, 1e-7]}}])";
  EXPECT_EQ(RenderOrFail("{{ tools[0] | tojson }}", input),
            R"({"z": 1, "a": {"y": 2, "b": [1.0, 1e+22, 1e-07]}})");
}

TEST(ChatTemplate, Lists_ChangeInPlace) {
  EXPECT_EQ(
      RenderOrFail(
          "{% set l = [1] %}{% set m = l %}{% set _ = l.append([2, 'x[']) %}{{ m }}{{ l[1][0] }}"),
      "[1, [2, 'x[']]2");
  EXPECT_EQ(
      RenderOrFail(
          "{% set l = [3, 4] %}{{ l.pop() }}{{ l.pop(0) }}{{ l | length }}{{ l is sequence }}"),
      "430True");
  EXPECT_EQ(RenderOrFail(
                "{% set l = [] %}{% set _ = l.extend('ab') %}{% set _ = l.insert(0, 'z') %}"
                "{% set _ = l.insert(-1, 'y') %}{{ l | join }}{% set _ = l.reverse() %}{{ l[0] }}"
                "{% set _ = l.remove('y') %}{{ 'y' in l }}{% set _ = l.clear() %}{{ l }}"),
            "zaybbFalse[]");
  EXPECT_EQ(
      RenderOrFail(
          "{% for m in messages %}{% set l = [] %}{% set _ = l.append(m.role) %}{{ l }}"
          "{% endfor %}{{ {'k': [1]}['k'][0] }}{{ 'a,b'.split(',')[1] }}{{ messages[0]['role'] }}"),
      "['user']1buser");
  ExpectRefused("{% set l = [] %}{{ l.pop() }}", ErrorCode::kInvalidArgument,
                "pop index out of range");
  ExpectRefused("{% set l = [] %}{{ l.remove(1) }}", ErrorCode::kInvalidArgument, "not in list");
  ExpectRefused("{% set l = [] %}{{ l.append() }}", ErrorCode::kInvalidArgument, "");
}

TEST(ChatTemplate, ValuesThatHoldThemselves_PrintAndEnd) {
  // The cycles are undone after printing: values are reference-counted, and one that holds itself
  // is never freed.
  EXPECT_THAT(
      RenderOrFail("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}{% set _ = l.clear() %}"),
      HasSubstr("[[[["));
  EXPECT_THAT(RenderOrFail("{% set n = namespace() %}{% set n.n = n %}{{ n }}{% set n.n = 0 %}"),
              HasSubstr("{'n': {'n': "));
}

TEST(ChatTemplate, ValuesNestedWithoutEnd_AreNotDumped) {
  ExpectRefused(
      "{% set n = namespace(v=[]) %}{% for i in range(300) %}{% set n.v = [n.v] %}{% endfor %}"
      "{{ n.v | tojson }}",
      ErrorCode::kInvalidArgument, "circular");
}

TEST(ChatTemplate, CommentsStringsAndRawBlocks_AreLeftAlone) {
  EXPECT_EQ(RenderOrFail("{# {{ [ {% #}{% raw %}{{ [1].append( }}{% endraw %}{{ '{% [' ~ \"]\" }}"
                         "{% set l = ['%}', \"}}\"] %}{% set _ = l.append(1) %}{{ l }} { [ }"),
            "{{ [1].append( }}{% []['%}', '}}', 1] { [ }");
}

TEST(ChatTemplate, GenerationTags_PrintWhatTheyEnclose) {
  EXPECT_EQ(
      RenderOrFail(
          "a {%- generation -%} b {%- endgeneration %} c {% generation %}d{% endgeneration %}"),
      "ab c d");
}

TEST(ChatTemplate, StrftimeNow_PrintsTheGivenMomentInUtc) {
  ChatInput input;
  input.now_unix_s = 1709164800;  // 2024-02-29 00:00:00, a leap day
  EXPECT_EQ(
      RenderOrFail("{{ strftime_now('%Y-%m-%d %H:%M:%S %j %a %B %-d %e %y %p %I %% %q') }}", input),
      "2024-02-29 00:00:00 060 Thu February 29 29 24 AM 12 % %q");
  input.now_unix_s = -1;
  EXPECT_EQ(RenderOrFail("{{ strftime_now('%d %b %Y %T') }}", input), "31 Dec 1969 23:59:59");
}

TEST(ChatTemplate, RaiseException_BringsItsMessageAndLine) {
  ExpectRefused("line one\n{{ raise_exception('roles must alternate') }}",
                ErrorCode::kInvalidArgument, "line 2: roles must alternate");
}

TEST(ChatTemplate, SyntaxErrors_NameTheLine) {
  for (const std::string_view source :
       {"\n\n{% if %}", "\n\n{{ 'open", "\n\n{% for x in %}{% endfor %}", "\n\n{% endif %}",
        "\n\n{{ }", "\n\n{% nosuchtag %}"}) {
    const auto compiled = ChatTemplate::Compile(source);
    ASSERT_FALSE(compiled.ok()) << source;
    EXPECT_EQ(compiled.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(compiled.error().message(), HasSubstr("line 3")) << source;
  }
}

TEST(ChatTemplate, ErrorsWhileRendering_NameTheLine) {
  ExpectRefused("\n{{ messages.nothing.more }}", ErrorCode::kInvalidArgument, "line 2");
  ExpectRefused("\n{{ 1 | nosuchfilter }}", ErrorCode::kInvalidArgument, "nosuchfilter");
  ExpectRefused("\n{{ 'a' + 1 }}", ErrorCode::kInvalidArgument, "line 2");
  ExpectRefused("\n{{ 1 // 0 }}", ErrorCode::kInvalidArgument, "line 2");
  ExpectRefused("{% include 'other' %}", ErrorCode::kInvalidArgument, "");
}

TEST(ChatTemplate, BadInput_IsRefusedByName) {
  ChatInput input;
  input.messages_json = "[{";
  ExpectRefused("x", ErrorCode::kInvalidArgument, "messages", input);
  input = {};
  input.tools_json = "nope";
  ExpectRefused("x", ErrorCode::kInvalidArgument, "tools", input);
  input = {};
  input.extra_json = "[1]";
  ExpectRefused("x", ErrorCode::kInvalidArgument, "object", input);
  const std::string deep(100000, '[');
  input = {};
  input.messages_json = deep;
  ExpectRefused("x", ErrorCode::kInvalidArgument, "recursion", input);
  input = {};
  input.messages_json = "\"\xFF\"";
  ExpectRefused("x", ErrorCode::kInvalidArgument, "UTF-8", input);
}

TEST(ChatTemplate, HostileTemplates_EndInAnError) {
  const auto start = std::chrono::steady_clock::now();
  ExpectRefused("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                ErrorCode::kResourceExhausted, "fuel");
  ExpectRefused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ErrorCode::kInvalidArgument,
                "recursion");
  ExpectRefused("{% for a in range(9999999999) %}{% endfor %}", ErrorCode::kInvalidArgument,
                "range");
  ExpectRefused("{{ 'x' * 9999999999 }}", ErrorCode::kInvalidArgument, "too large");
  ExpectRefused("{% set x = 'x' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}",
                ErrorCode::kResourceExhausted, "");
  ExpectRefused("{% for a in range(90000) recursive %}{{ loop(range(90000)) }}{% endfor %}",
                ErrorCode::kInvalidArgument, "recursion");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(ChatTemplate, DeeplyNestedSource_IsRefused) {
  for (const std::string_view open : {"(", "[", "{'a':", "not ", "-", "a if ", "[].append("}) {
    std::string source = "{{ ";
    for (int i = 0; i < 20000; ++i) source += open;
    EXPECT_FALSE(ChatTemplate::Compile(source + " }}").ok()) << open;
  }
  std::string source;
  for (int i = 0; i < 20000; ++i) source += "{% if a %}";
  EXPECT_FALSE(ChatTemplate::Compile(source).ok());
  const auto large = ChatTemplate::Compile(std::string((size_t{1} << 20) + 1, 'x'));
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code(), ErrorCode::kResourceExhausted);
}

TEST(ChatTemplate, LongConversation_StaysWithinItsBounds) {
  std::string messages = "[";
  for (int i = 0; i < 5000; ++i) {
    messages += std::string(i == 0 ? "" : ",") +
                R"({"role": "user", "content": "some words of a long conversation"})";
  }
  messages += "]";
  ChatInput input;
  input.messages_json = messages;
  const std::string text = RenderOrFail(
      "{% for m in messages %}{% if m.role == 'user' and not loop.last %}{{ m.content.split(' "
      "')[0] | trim }}\n"
      "{% endif %}{% endfor %}",
      input);
  EXPECT_EQ(text.size(), 4999 * 5u);
}

class ChatTemplateFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, std::string_view content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  std::optional<std::string> Find() {
    const auto found = FindChatTemplate(folder_);
    EXPECT_TRUE(found.ok()) << found.error().message();
    return found.ok() ? *found : std::nullopt;
  }
  std::filesystem::path folder_;
};

TEST_F(ChatTemplateFolder, Template_IsFoundWhereverItIs) {
  EXPECT_EQ(Find(), std::nullopt);
  Write("tokenizer_config.json", R"({"eos_token": "x"})");
  EXPECT_EQ(Find(), std::nullopt);
  Write("tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_EQ(Find(), "one");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "no"},
                                                       {"name": "default", "template": "two"}]})");
  EXPECT_EQ(Find(), "two");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "no"},
                                                       {"name": "tool_use", "template": "no"}]})");
  EXPECT_EQ(Find(), std::nullopt) << "nothing says which";
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "chat", "template": "only"}]})");
  EXPECT_EQ(Find(), "only");
  Write("chat_template.json", R"({"chat_template": "beside"})");
  EXPECT_EQ(Find(), "beside");
  Write("chat_template.jinja", "three");
  EXPECT_EQ(Find(), "three") << "the file of its own comes first";
}

TEST_F(ChatTemplateFolder, BrokenConfig_IsAnErrorThatNamesTheFile) {
  Write("tokenizer_config.json", R"({"chat_template": 3})");
  const auto found = FindChatTemplate(folder_);
  ASSERT_FALSE(found.ok());
  EXPECT_THAT(found.error().message(), HasSubstr("tokenizer_config.json"));
  Write("chat_template.json", "{");
  const auto beside = FindChatTemplate(folder_);
  ASSERT_FALSE(beside.ok());
  EXPECT_THAT(beside.error().message(), HasSubstr("chat_template.json"));
}

}  // namespace
}  // namespace halfmoon::text
