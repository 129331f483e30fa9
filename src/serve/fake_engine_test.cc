// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <utility>

#include "serve/test_support.h"

namespace halfmoon::serve::testing {
namespace {

constexpr std::chrono::seconds kPatience{5};

/// The spelling of byte `byte` in byte-level vocabularies: printable Latin-1 stands for itself, the
/// others for code points from U+0100 on, in order.
std::string ByteSpelling(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

json::object AddedToken(int32_t id, std::string_view content) {
  json::object token;
  token["id"] = id;
  token["content"] = content;
  token["special"] = true;
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) token[flag] = false;
  return token;
}

class FakeHandle final : public engine::RequestHandle {
 public:
  explicit FakeHandle(std::shared_ptr<FakeSequence> sequence) : sequence_(std::move(sequence)) {}
  ~FakeHandle() override {
    sequence_->SetNotify({});
    sequence_->Cancel();
  }
  std::optional<engine::Event> TryNext() override { return sequence_->TryNext(); }
  std::optional<engine::Event> Next() override { return sequence_->Next(); }
  void SetNotify(std::function<void()> notify) override { sequence_->SetNotify(std::move(notify)); }
  void Cancel() override { sequence_->Cancel(); }

 private:
  const std::shared_ptr<FakeSequence> sequence_;
};

}  // namespace

std::unique_ptr<text::Tokenizer> MakeByteTokenizer() {
  json::object vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteSpelling(byte)] = byte;
  json::object model;
  model["type"] = "BPE";
  model["vocab"] = std::move(vocabulary);
  model["merges"] = json::array();
  json::object byte_level;
  byte_level["type"] = "ByteLevel";
  byte_level["add_prefix_space"] = false;
  byte_level["trim_offsets"] = true;
  byte_level["use_regex"] = false;
  json::object tokenizer;
  tokenizer["version"] = "1.0";
  tokenizer["added_tokens"] =
      json::array{AddedToken(kStartId, "<|im_start|>"), AddedToken(kEndId, "<|im_end|>")};
  tokenizer["pre_tokenizer"] = byte_level;
  tokenizer["decoder"] = byte_level;
  tokenizer["model"] = std::move(model);
  auto made =
      text::Tokenizer::FromJson(json::Serialize(tokenizer), R"({"eos_token":"<|im_end|>"})");
  EXPECT_TRUE(made.ok()) << made.error().message();
  return std::move(*made);
}

text::ChatTemplate MakeChatTemplate() {
  auto made = text::ChatTemplate::Compile(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if tools %}T{{ tools | length }}{% endif %}{{ extra }}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  EXPECT_TRUE(made.ok()) << made.error().message();
  return std::move(*made);
}

engine::TokenEvent Token(int32_t id, int num_top) {
  engine::TokenEvent token;
  token.id = id;
  token.logprob = -0.5f;
  for (int i = 0; i < num_top; ++i) token.top.push_back({id + i, -0.5f - static_cast<float>(i)});
  return token;
}

std::vector<engine::Event> Say(const engine::Request& request, std::string_view text) {
  const int num_top = std::max(0, request.num_logprobs);
  engine::PromptEvent prompt;
  if (request.prompt_logprobs) {
    for (const int32_t id : request.prompt_ids)
      prompt.prompt_logprobs.push_back(Token(id, num_top));
    prompt.prompt_logprobs.front().logprob = std::nanf("");
    prompt.prompt_logprobs.front().top.clear();
  }
  std::vector<engine::Event> events;
  events.emplace_back(std::move(prompt));
  std::vector<int32_t> ids(reinterpret_cast<const unsigned char*>(text.data()),
                           reinterpret_cast<const unsigned char*>(text.data()) + text.size());
  if (!request.stop_ids.empty()) ids.push_back(kEndId);
  for (int32_t i = 0; i < static_cast<int32_t>(ids.size()); ++i) {
    if (i == request.max_tokens) break;
    events.emplace_back(Token(ids[static_cast<size_t>(i)], num_top));
  }
  const bool ended = request.max_tokens >= static_cast<int32_t>(ids.size()) && ids.back() == kEndId;
  events.emplace_back(engine::FinishEvent{
      ended ? engine::FinishReason::kStop : engine::FinishReason::kLength, std::nullopt});
  return events;
}

void FakeSequence::Push(engine::Event event) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = std::holds_alternative<engine::FinishEvent>(event);
    events_.push_back(std::move(event));
  }
  changed_.notify_all();
  std::lock_guard lock(notify_mutex_);
  if (notify_) notify_();
}

bool FakeSequence::WaitCancelled() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [this] { return cancelled_; });
}

size_t FakeSequence::num_waiting() {
  std::lock_guard lock(mutex_);
  return events_.size();
}

std::optional<engine::Event> FakeSequence::TryNext() {
  std::lock_guard lock(mutex_);
  if (events_.empty()) return std::nullopt;
  engine::Event event = std::move(events_.front());
  events_.pop_front();
  return event;
}

std::optional<engine::Event> FakeSequence::Next() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !events_.empty() || finished_; });
  }
  return TryNext();
}

void FakeSequence::SetNotify(std::function<void()> notify) {
  std::lock_guard lock(notify_mutex_);
  notify_ = std::move(notify);
  if (notify_ && num_waiting() > 0) notify_();
}

void FakeSequence::Cancel() {
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  changed_.notify_all();
  Push(engine::FinishEvent{engine::FinishReason::kCancelled, std::nullopt});
}

Result<std::unique_ptr<engine::RequestHandle>> FakeEngine::Submit(engine::Request request) {
  std::shared_ptr<FakeSequence> sequence;
  {
    std::lock_guard lock(mutex_);
    if (refusal_) return *refusal_;
    sequence = std::make_shared<FakeSequence>(std::move(request));
    sequences_.push_back(sequence);
  }
  submitted_.notify_all();
  for (engine::Event& event : reply_(sequence->request())) sequence->Push(std::move(event));
  return std::unique_ptr<engine::RequestHandle>(std::make_unique<FakeHandle>(sequence));
}

engine::EngineStats FakeEngine::Stats() const {
  engine::EngineStats stats;
  stats.running = 3;
  stats.queued = 2;
  stats.pages_total = 10;
  stats.pages_in_use = 5;
  stats.prompt_tokens = 100;
  stats.cached_prompt_tokens = 40;
  stats.generated_tokens = 7;
  return stats;
}

void FakeEngine::Refuse(Error error) {
  std::lock_guard lock(mutex_);
  refusal_ = std::move(error);
}

std::shared_ptr<FakeSequence> FakeEngine::WaitSequence(size_t index) {
  std::unique_lock lock(mutex_);
  submitted_.wait_for(lock, kPatience, [&] { return sequences_.size() > index; });
  return sequences_.size() > index ? sequences_[index] : nullptr;
}

size_t FakeEngine::num_sequences() const {
  std::lock_guard lock(mutex_);
  return sequences_.size();
}

TestServer::TestServer(FakeEngine::Reply reply, ServerOptions options, bool ready)
    : tokenizer_(MakeByteTokenizer()), engine_(std::move(reply)) {
  if (options.version.empty()) options.version = "1.2.3";
  auto started = Server::Start(std::move(options));
  EXPECT_TRUE(started.ok()) << started.error().message();
  server_ = std::move(*started);
  if (ready) SetReady();
}

void TestServer::SetReady() {
  ModelInfo info;
  info.name = "tiny";
  info.fingerprint = "0123456789abcdef";
  info.license = "Apache-2.0";
  info.license_note = "as the note says";
  info.vocab_size = kVocabSize;
  server_->SetReady(&engine_, tokenizer_.get(), MakeChatTemplate(), std::move(info));
}

net::HttpClientOptions TestServer::ClientOptions() const {
  net::HttpClientOptions options;
  options.port = server_->port();
  options.read_timeout = std::chrono::seconds(10);
  return options;
}

net::Response TestServer::Get(std::string target) {
  net::HttpClient client(ClientOptions());
  auto response = client.Get(std::move(target));
  EXPECT_TRUE(response.ok()) << response.error().message();
  return response.ok() ? *response : net::Response{.status = 0};
}

net::Response TestServer::Post(std::string target, std::string body) {
  net::HttpClient client(ClientOptions());
  auto response = client.PostJson(std::move(target), std::move(body));
  EXPECT_TRUE(response.ok()) << response.error().message();
  return response.ok() ? *response : net::Response{.status = 0};
}

json::object TestServer::PostOk(std::string target, std::string body) {
  const net::Response response = Post(std::move(target), std::move(body));
  EXPECT_EQ(response.status, 200) << response.body;
  return ParseOrFail(response.body);
}

json::object TestServer::PostError(std::string target, std::string body, int status) {
  const net::Response response = Post(std::move(target), std::move(body));
  EXPECT_EQ(response.status, status) << response.body;
  json::object document = ParseOrFail(response.body);
  EXPECT_TRUE(document["error"].is_object()) << response.body;
  json::object error =
      document["error"].is_object() ? document["error"].as_object() : json::object();
  for (const char* field : {"message", "type", "param", "code"}) {
    EXPECT_TRUE(error.contains(field)) << field << " in " << response.body;
  }
  return error;
}

std::vector<std::string> TestServer::PostStream(std::string target, std::string body) {
  const net::Response response = Post(std::move(target), std::move(body));
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.Find("Content-Type").value_or(""), "text/event-stream; charset=utf-8");
  return SplitStream(response.body);
}

std::vector<std::string> SplitStream(std::string_view bytes) {
  std::vector<std::string> parts;
  while (!bytes.empty()) {
    const size_t end = bytes.find("\n\n");
    if (end == std::string_view::npos) {
      ADD_FAILURE() << "the stream ends inside an event: " << bytes;
      break;
    }
    std::string_view part = bytes.substr(0, end);
    if (part.starts_with("data: ")) part.remove_prefix(6);
    parts.emplace_back(part);
    bytes.remove_prefix(end + 2);
  }
  return parts;
}

json::object ParseOrFail(std::string_view text) {
  Result<json::object> parsed = json::ParseObject(text);
  EXPECT_TRUE(parsed.ok()) << text;
  return parsed.ok() ? std::move(*parsed) : json::object();
}

TEST(ByteTokenizer, EncodeAndDecode_AreBytes) {
  const auto tokenizer = MakeByteTokenizer();
  const auto ids = tokenizer->Encode("a\xC3\xA9<|im_end|>");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<int32_t>{'a', 0xC3, 0xA9, kEndId}));
  EXPECT_EQ(tokenizer->Decode(*ids, {.skip_special = true}), "a\xC3\xA9");
  EXPECT_EQ(tokenizer->eos_ids(), std::vector<int32_t>{kEndId});
}

}  // namespace halfmoon::serve::testing
