// SPDX-License-Identifier: Apache-2.0
// For tests of this area: a tokenizer of one token a byte, an engine that follows a script, and a
// server around them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/engine.h"
#include "net/http_client.h"
#include "serve/server.h"
#include "text/tokenizer.h"

namespace halfmoon::serve::testing {

inline constexpr int32_t kStartId = 256;  ///< "<|im_start|>"
inline constexpr int32_t kEndId = 257;    ///< "<|im_end|>", end of sequence
inline constexpr int32_t kVocabSize = 258;
inline constexpr int32_t kContext = 200;

/// Token i is byte i.
std::unique_ptr<text::Tokenizer> MakeByteTokenizer();

/// ChatML.
text::ChatTemplate MakeChatTemplate();

/// One token event; with the logprob -0.5 and `num_top` alternatives counted up from its id.
engine::TokenEvent Token(int32_t id, int num_top = 0);

/// What a well-behaved engine sends for `request` when the model says `text` and then ends.
std::vector<engine::Event> Say(const engine::Request& request, std::string_view text);

/// One request inside the fake engine. Thread-safe.
class FakeSequence {
 public:
  explicit FakeSequence(engine::Request request) : request_(std::move(request)) {}
  const engine::Request& request() const { return request_; }

  void Push(engine::Event event);
  /// Waits until the request was cancelled or its handle dropped; false after five seconds.
  bool WaitCancelled();
  size_t num_waiting();

  std::optional<engine::Event> TryNext();
  std::optional<engine::Event> Next();
  void SetNotify(std::function<void()> notify);
  void Cancel();

 private:
  const engine::Request request_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<engine::Event> events_;
  bool finished_ = false;
  bool cancelled_ = false;
  std::mutex notify_mutex_;
  std::function<void()> notify_;
};

/// Answers each request with what `reply` returns; where that is empty, the test pushes events
/// itself.
class FakeEngine final : public engine::Engine {
 public:
  using Reply = std::function<std::vector<engine::Event>(const engine::Request&)>;
  explicit FakeEngine(Reply reply) : reply_(std::move(reply)) {}

  Result<std::unique_ptr<engine::RequestHandle>> Submit(engine::Request request) override;
  engine::EngineStats Stats() const override;
  int32_t max_request_tokens() const override { return kContext; }
  void Drain() override {}
  void Shutdown() override {}

  /// From now on Submit fails with this.
  void Refuse(Error error);
  /// Request number `index`, waited for up to five seconds; null then.
  std::shared_ptr<FakeSequence> WaitSequence(size_t index);
  size_t num_sequences() const;

 private:
  const Reply reply_;
  mutable std::mutex mutex_;
  std::condition_variable submitted_;
  std::vector<std::shared_ptr<FakeSequence>> sequences_;
  std::optional<Error> refusal_;
};

/// A server on a free port, ready unless `ready` is false.
class TestServer {
 public:
  explicit TestServer(FakeEngine::Reply reply, ServerOptions options = {}, bool ready = true);
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  Server& server() { return *server_; }
  FakeEngine& engine() { return engine_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  void SetReady();

  net::HttpClientOptions ClientOptions() const;
  net::Response Get(std::string target);
  net::Response Post(std::string target, std::string body);
  /// The body of a 200 as an object.
  json::object PostOk(std::string target, std::string body);
  /// The "error" of an answer with this status.
  json::object PostError(std::string target, std::string body, int status);
  /// Everything of a stream: the data of each event, comments as ": ...".
  std::vector<std::string> PostStream(std::string target, std::string body);

 private:
  std::unique_ptr<text::Tokenizer> tokenizer_;
  FakeEngine engine_;
  std::unique_ptr<Server> server_;  // ends first: sessions refer to the engine
};

/// Cuts the bytes of a stream into data and comments, in order.
std::vector<std::string> SplitStream(std::string_view bytes);

json::object ParseOrFail(std::string_view text);

}  // namespace halfmoon::serve::testing
