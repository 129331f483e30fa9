// SPDX-License-Identifier: Apache-2.0
// A front door and nodes in one process, over real channels, with engines that count instead of
// compute: for what happens between their threads when nodes come and go.
#include "cluster/front_door.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/hash.h"
#include "cluster/idle_engine_for_test.h"
#include "cluster/node_server.h"

namespace halfmoon::cluster {
namespace {

using std::chrono::milliseconds;

constexpr int32_t kBlock = 4;
constexpr int32_t kVocab = 1000;
constexpr size_t kPageBytes = 64;
constexpr size_t kMaxMessageBytes = 8 << 10;  // that a node sends or takes

int32_t NextToken(std::span<const int32_t> ids) {
  return static_cast<int32_t>(Checksum(std::as_bytes(ids)) % kVocab);
}

template <typename Condition>
bool Eventually(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return true;
}

/// A token for every sequence now and then, from a thread of its own.
class FakeEngine final : public IdleEngine {
 public:
  FakeEngine() : memory_(16 * kPageBytes), thread_([this] { Run(); }) {}
  FakeEngine(const FakeEngine&) = delete;
  FakeEngine& operator=(const FakeEngine&) = delete;
  ~FakeEngine() override {
    stop_ = true;
    thread_.join();
    EXPECT_TRUE(sequences_.empty());
  }

  class Made final : public ExportSequence {
   public:
    Made(FakeEngine* engine, GenerateRequest request)
        : engine_(engine),
          ids_(std::move(request.prompt_ids)),
          left_(request.max_tokens - request.resumed_tokens),
          num_prompt_logprobs_(request.prompt_logprobs ? ids_.size() : 0),
          num_logprobs_(static_cast<size_t>(std::max(0, request.num_logprobs))) {
      std::lock_guard lock(engine_->mutex_);
      engine_->sequences_.insert(this);
    }
    Made(const Made&) = delete;
    Made& operator=(const Made&) = delete;
    ~Made() override {
      std::lock_guard lock(engine_->mutex_);
      engine_->sequences_.erase(this);
    }
    std::optional<Event> TryNext() override {
      std::lock_guard lock(engine_->mutex_);
      if (finished_ || steps_ == 0) return std::nullopt;
      --steps_;
      if (!std::exchange(told_prompt_, true)) {
        return PromptEvent{.prompt_logprobs = std::vector<TokenEvent>(num_prompt_logprobs_)};
      }
      if (left_ == 0) {
        finished_ = true;
        return FinishEvent{.reason = FinishReason::kLength};
      }
      --left_;
      ids_.push_back(NextToken(ids_));
      return TokenEvent{.id = ids_.back(), .top = std::vector<Logprob>(num_logprobs_)};
    }
    void SetNotify(std::function<void()> notify) override {
      std::lock_guard lock(engine_->mutex_);
      notify_ = std::move(notify);
    }
    void Step() {
      if (steps_ < 64) ++steps_;
      if (notify_) notify_();
    }

   private:
    FakeEngine* const engine_;
    std::vector<int32_t> ids_;
    int32_t left_ = 0;
    const size_t num_prompt_logprobs_;
    const size_t num_logprobs_;
    int steps_ = 0;
    bool told_prompt_ = false;
    bool finished_ = false;
    std::function<void()> notify_;
  };

  Result<std::unique_ptr<Sequence>> Submit(GenerateRequest request,
                                           std::shared_ptr<store::BlockSource>) override {
    if (request.resumed_tokens >= request.max_tokens) {
      return Error(ErrorCode::kInvalidArgument, "nothing is left to generate");
    }
    if (request.grammar.has_value()) {
      ++compiling;
      const bool opened = Eventually([&] { return compiler_open.load(); });
      --compiling;
      if (!opened || request.grammar->source == "wrong") {
        return Error(ErrorCode::kInvalidArgument, "no such grammar");
      }
    }
    return std::unique_ptr<Sequence>(std::make_unique<Made>(this, std::move(request)));
  }
  Result<std::unique_ptr<ExportSequence>> StartExport(
      const Export& request, std::shared_ptr<store::BlockSource>,
      std::function<void(const KvPages&)> on_ready) override {
    const std::vector<int32_t> pages(static_cast<size_t>(request.num_blocks), 3);
    on_ready({.pages = pages, .end_layer = 1});
    ++exports;
    return std::unique_ptr<ExportSequence>(
        std::make_unique<Made>(this, GenerateRequest{.prompt_ids = request.prompt_ids}));
  }
  PageMemory pages() override {
    return {.bytes = memory_, .page_bytes = kPageBytes, .layer_bytes = kPageBytes, .num_layers = 1};
  }

  size_t num_sequences() {
    std::lock_guard lock(mutex_);
    return sequences_.size();
  }
  std::atomic<int> exports{0};
  std::atomic<int> compiling{0};  // grammars, until:
  std::atomic<bool> compiler_open{false};

 private:
  void Run() {
    while (!stop_) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      std::lock_guard lock(mutex_);
      for (Made* sequence : sequences_) sequence->Step();
    }
  }

  std::vector<std::byte> memory_;
  std::mutex mutex_;
  std::set<Made*> sequences_;  // GUARDED_BY(mutex_)
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// A process, as far as the others see.
class Node {
 public:
  Node(const std::string& name, Role role, uint16_t join, const Clock* clock,
       const std::string& fingerprint) {
    Result<std::unique_ptr<transfer::TransferEngine>> transfers =
        transfer::StartTransfer({.token = "secret"});
    EXPECT_TRUE(transfers.ok());
    transfers_ = std::move(*transfers);
    NodeServerOptions options;
    options.channel.token = "secret";
    options.channel.max_message_bytes = kMaxMessageBytes;
    options.join = {"127.0.0.1:" + std::to_string(join)};
    options.description = {.name = name,
                           .model = "counts",
                           .fingerprint = fingerprint,
                           .block_size = kBlock,
                           .max_request_tokens = 1 << 20,
                           .vocab_size = kVocab,
                           .info = {.role = role}};
    Result<std::unique_ptr<NodeServer>> server =
        NodeServer::Start(std::move(options), &engine_, transfers_.get(), clock);
    EXPECT_TRUE(server.ok());
    server_ = std::move(*server);
  }
  FakeEngine& engine() { return engine_; }

 private:
  FakeEngine engine_;
  std::unique_ptr<transfer::TransferEngine> transfers_;
  std::unique_ptr<NodeServer> server_;
};

class FrontDoorTest : public testing::Test {
 protected:
  void Open(TimeUs wait_us = 30'000'000) {
    FrontDoorOptions options;
    options.channel.token = "secret";
    options.conductor.policy = *FindPolicy("global");
    options.wait_for_nodes_us = wait_us;
    options.max_attempts = 1000;
    options.stream_events = 16;
    Result<std::unique_ptr<FrontDoor>> door = FrontDoor::Start(options, &clock_);
    ASSERT_TRUE(door.ok());
    door_ = std::move(*door);
  }
  std::unique_ptr<Node> Join(const std::string& name, Role role,
                             const std::string& fingerprint = "bits") {
    return std::make_unique<Node>(name, role, door_->port(), &clock_, fingerprint);
  }
  int NumConnected() const {
    int count = 0;
    for (const NodeStatus& node : door_->Describe().nodes) count += node.connected ? 1 : 0;
    return count;
  }
  bool WaitConnected(int count) {
    return Eventually([&] { return NumConnected() == count; });
  }

  static GenerateRequest Ask(int32_t salt, int32_t max_tokens) {
    GenerateRequest request{.max_tokens = max_tokens};
    for (int32_t i = 0; i < 21; ++i) request.prompt_ids.push_back((salt * 31 + i) % kVocab);
    return request;
  }
  /// All tokens, and how it ended.
  static std::pair<std::vector<int32_t>, FinishEvent> Read(Sequence* sequence) {
    std::mutex mutex;
    std::condition_variable arrived;
    bool notified = false;
    sequence->SetNotify([&] {
      std::lock_guard lock(mutex);
      notified = true;
      arrived.notify_all();
    });
    std::vector<int32_t> tokens;
    int prompts = 0;
    while (true) {
      while (std::optional<Event> event = sequence->TryNext()) {
        if (const auto* token = std::get_if<TokenEvent>(&*event)) tokens.push_back(token->id);
        prompts += std::holds_alternative<PromptEvent>(*event) ? 1 : 0;
        if (auto* finish = std::get_if<FinishEvent>(&*event)) {
          sequence->SetNotify(nullptr);
          EXPECT_LE(prompts, 1);
          return {std::move(tokens), std::move(*finish)};
        }
      }
      std::unique_lock lock(mutex);
      if (!arrived.wait_for(lock, std::chrono::seconds(30), [&] { return notified; })) {
        ADD_FAILURE() << "nothing comes any more after " << tokens.size() << " tokens";
        lock.unlock();
        sequence->SetNotify(nullptr);
        return {};
      }
      notified = false;
    }
  }
  static std::vector<int32_t> Expected(const GenerateRequest& request) {
    std::vector<int32_t> ids = request.prompt_ids;
    for (int32_t i = 0; i < request.max_tokens; ++i) ids.push_back(NextToken(ids));
    return {ids.begin() + static_cast<ptrdiff_t>(request.prompt_ids.size()), ids.end()};
  }

  MonotonicClock clock_;
  std::unique_ptr<FrontDoor> door_;
};

TEST_F(FrontDoorTest, NodesComeAndGo_StreamsHaveNoGapAndNoRepeat) {
  Open();
  std::vector<std::unique_ptr<Node>> nodes;
  nodes.push_back(Join("p", Role::kPrefill));
  nodes.push_back(Join("a", Role::kDecode));
  nodes.push_back(Join("b", Role::kDecode));
  ASSERT_TRUE(WaitConnected(3));
  std::vector<std::thread> readers;
  std::atomic<int> done{0};
  for (int32_t salt = 0; salt < 6; ++salt) {
    readers.emplace_back([&, salt] {
      const GenerateRequest request = Ask(salt, 1500);
      Result<std::unique_ptr<Sequence>> sequence = door_->Submit(request);
      if (!sequence.ok()) {
        ADD_FAILURE() << sequence.error().message();
      } else {
        const auto [tokens, finish] = Read(sequence->get());
        EXPECT_EQ(tokens, Expected(request));
        EXPECT_EQ(finish.reason, FinishReason::kLength);
      }
      ++done;
    });
  }
  ASSERT_TRUE(Eventually([&] { return door_->Describe().requests == 6 || done == 6; }));
  for (int round = 0; round < 9 && done < 6; ++round) {
    std::this_thread::sleep_for(milliseconds(30));
    const auto index = static_cast<size_t>(round) % nodes.size();
    nodes[index].reset();
    const std::string name = index == 0 ? "p" : index == 1 ? "a" : "b";
    nodes[index] = Join(name, index == 0 ? Role::kPrefill : Role::kDecode);
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_TRUE(Eventually([&] { return door_->Describe().requests == 0; }));
  EXPECT_GT(door_->Describe().moved, 0u);
  for (const auto& node : nodes) {
    EXPECT_TRUE(Eventually([&] { return node->engine().num_sequences() == 0; })) << "left behind";
  }
}

TEST_F(FrontDoorTest, PromptLogprobsBeyondAMessage_FailThatRequestAlone) {
  Open();
  const auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  GenerateRequest request = Ask(1, 5);
  request.prompt_ids.resize(1000, 7);
  request.prompt_logprobs = true;
  Result<std::unique_ptr<Sequence>> sequence = door_->Submit(request);
  ASSERT_TRUE(sequence.ok());
  const FinishEvent finish = Read(sequence->get()).second;
  EXPECT_EQ(finish.reason, FinishReason::kError);
  ASSERT_TRUE(finish.error.has_value());
  EXPECT_EQ(finish.error->code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(finish.error->message().find("logprobs of the prompt"), std::string::npos);
  EXPECT_TRUE(Eventually([&] { return node->engine().num_sequences() == 0; }));
  // The node is as it was.
  Result<std::unique_ptr<Sequence>> next = door_->Submit(Ask(2, 5));
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(Read(next->get()).first, Expected(Ask(2, 5)));
  EXPECT_EQ(door_->Describe().moved, 0u);
}

TEST_F(FrontDoorTest, SlowGrammar_HoldsUpNeitherTheNodeNorOthers) {
  Open();
  const auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  GenerateRequest slow = Ask(1, 5);
  slow.grammar = GrammarSpec{.source = "slow"};
  Result<std::unique_ptr<Sequence>> compiled = door_->Submit(slow);
  ASSERT_TRUE(compiled.ok());
  GenerateRequest wrong = Ask(2, 5);
  wrong.grammar = GrammarSpec{.source = "wrong"};
  Result<std::unique_ptr<Sequence>> refused = door_->Submit(wrong);
  ASSERT_TRUE(refused.ok());
  ASSERT_TRUE(Eventually([&] { return node->engine().compiling == 2; }));
  {
    // One that waits for a thread, and whose client does not wait for it.
    Result<std::unique_ptr<Sequence>> dropped = door_->Submit(slow);
    ASSERT_TRUE(dropped.ok());
    std::this_thread::sleep_for(milliseconds(20));
  }
  Result<std::unique_ptr<Sequence>> plain = door_->Submit(Ask(3, 5));
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(Read(plain->get()).first, Expected(Ask(3, 5)));
  EXPECT_EQ(node->engine().compiling, 2);
  node->engine().compiler_open = true;
  EXPECT_EQ(Read(compiled->get()).first, Expected(slow));
  const FinishEvent finish = Read(refused->get()).second;
  ASSERT_TRUE(finish.error.has_value());
  EXPECT_EQ(finish.error->message(), "no such grammar");
  EXPECT_TRUE(Eventually([&] { return node->engine().num_sequences() == 0; }));
  EXPECT_TRUE(Eventually([&] { return door_->Describe().requests == 0; }));
}

TEST_F(FrontDoorTest, NodeThatGoesWhileItCompiles_LeavesNothing) {
  Open(50'000);
  auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  GenerateRequest request = Ask(1, 5);
  request.grammar = GrammarSpec{.source = "slow"};
  Result<std::unique_ptr<Sequence>> sequence = door_->Submit(request);
  ASSERT_TRUE(sequence.ok());
  ASSERT_TRUE(Eventually([&] { return node->engine().compiling == 1; }));
  std::thread opener([&engine = node->engine()] {
    std::this_thread::sleep_for(milliseconds(50));
    engine.compiler_open = true;
  });
  node.reset();
  opener.join();
  EXPECT_EQ(Read(sequence->get()).second.reason, FinishReason::kError);
}

TEST_F(FrontDoorTest, EventsBeyondAMessage_ComeInSeveral) {
  Open();
  const auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  GenerateRequest request = Ask(1, 60);
  request.num_logprobs = 500;  // two tokens fill a message; up to 16 come at once
  Result<std::unique_ptr<Sequence>> sequence = door_->Submit(request);
  ASSERT_TRUE(sequence.ok());
  std::this_thread::sleep_for(milliseconds(50));
  const auto [tokens, finish] = Read(sequence->get());
  EXPECT_EQ(tokens, Expected(request));
  EXPECT_EQ(finish.reason, FinishReason::kLength);
}

TEST_F(FrontDoorTest, Dropped_IsCancelledOnEveryNode) {
  Open();
  const auto prefill = Join("p", Role::kPrefill);
  const auto decode = Join("d", Role::kDecode);
  ASSERT_TRUE(WaitConnected(2));
  for (int32_t i = 0; i < 30; ++i) {
    Result<std::unique_ptr<Sequence>> sequence = door_->Submit(Ask(i, 100'000));
    ASSERT_TRUE(sequence.ok());
    // At any moment of its life.
    std::this_thread::sleep_for(std::chrono::microseconds(200 * i));
  }
  EXPECT_TRUE(Eventually([&] { return decode->engine().num_sequences() == 0; }));
  EXPECT_TRUE(Eventually([&] { return prefill->engine().num_sequences() == 0; }));
  EXPECT_TRUE(Eventually([&] { return door_->Describe().requests == 0; }));
}

TEST_F(FrontDoorTest, LastNodeGone_FailsInTimeAndRefusesMore) {
  Open(50'000);
  auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  Result<std::unique_ptr<Sequence>> sequence = door_->Submit(Ask(1, 100'000));
  ASSERT_TRUE(sequence.ok());
  node.reset();
  const auto [tokens, finish] = Read(sequence->get());
  EXPECT_EQ(finish.reason, FinishReason::kError);
  ASSERT_TRUE(finish.error.has_value());
  EXPECT_EQ(finish.error->code(), ErrorCode::kUnavailable);
  EXPECT_EQ(door_->Submit(Ask(2, 5)).error().code(), ErrorCode::kUnavailable);
  node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  EXPECT_TRUE(door_->Submit(Ask(3, 5)).ok());
}

TEST_F(FrontDoorTest, OtherBits_AreRefusedAlsoWhenNobodyElseIsThere) {
  Open();
  auto node = Join("a", Role::kBoth);
  ASSERT_TRUE(WaitConnected(1));
  node.reset();
  ASSERT_TRUE(WaitConnected(0));
  node = Join("b", Role::kBoth, "other bits");
  ASSERT_TRUE(Eventually([&] {
    const ClusterStatus status = door_->Describe();
    return !status.nodes.empty() &&
           status.nodes.front().error.find("computes other bits") != std::string::npos;
  }));
  EXPECT_EQ(NumConnected(), 0);
}

}  // namespace
}  // namespace halfmoon::cluster
