// SPDX-License-Identifier: Apache-2.0
#include "net/channel.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "net/digest.h"
#include "net/raw_client.h"

namespace halfmoon::net {
namespace {

using std::chrono::milliseconds;

/// What one end of a channel was told, for a test to wait for.
class Log {
 public:
  ChannelHandlers Handlers() {
    return {.on_open = [this] { Change([this] { opened_ = true; }); },
            .on_message =
                [this](uint16_t type, std::string payload) {
                  Change([&] { messages_.emplace_back(type, std::move(payload)); });
                },
            .on_closed = [this](const Error& error) { Change([&] { closed_ = error; }); }};
  }
  bool WaitOpen() {
    return Wait([this] { return opened_ || closed_.has_value(); }) && opened_;
  }
  std::optional<Error> WaitClosed() {
    Wait([this] { return closed_.has_value(); });
    std::lock_guard lock(mutex_);
    return closed_;
  }
  std::vector<std::pair<uint16_t, std::string>> WaitMessages(size_t count) {
    Wait([&] { return messages_.size() >= count; });
    std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  template <typename Function>
  void Change(const Function& function) {
    std::lock_guard lock(mutex_);
    function();
    changed_.notify_all();
  }
  template <typename Condition>
  bool Wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), condition);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool opened_ = false;
  std::vector<std::pair<uint16_t, std::string>> messages_;
  std::optional<Error> closed_;
};

/// A service that echoes every message with type + 1.
class Echo {
 public:
  explicit Echo(ChannelOptions options = {}) {
    if (options.token.empty()) options.token = "secret";
    Result<std::unique_ptr<ChannelService>> started = ChannelService::Create(
        options, [this](const std::shared_ptr<Channel>& channel) -> ChannelHandlers {
          std::lock_guard lock(mutex_);
          channels_.push_back(channel);
          return {
              .on_message = [weak = std::weak_ptr(channel)](uint16_t type, std::string payload) {
                if (const auto alive = weak.lock()) alive->Send(type + 1, std::move(payload));
              }};
        });
    EXPECT_TRUE(started.ok()) << started.error().message();
    service_ = std::move(*started);
    EXPECT_TRUE(service_->Bind().ok());
    service_->Listen();
  }
  uint16_t port() const { return service_->port(); }
  ChannelService& service() { return *service_; }
  size_t num_accepted() {
    std::lock_guard lock(mutex_);
    return channels_.size();
  }
  void CloseAll() {
    std::lock_guard lock(mutex_);
    for (const auto& channel : channels_) channel->Close();
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Channel>> channels_;  // GUARDED_BY(mutex_)
  std::unique_ptr<ChannelService> service_;
};

std::unique_ptr<ChannelService> Dialler(ChannelOptions options = {}) {
  if (options.token.empty()) options.token = "secret";
  Result<std::unique_ptr<ChannelService>> started = ChannelService::Create(options, nullptr);
  EXPECT_TRUE(started.ok());
  return std::move(*started);
}

TEST(Channel, Messages_ArriveWholeAndInOrder) {
  Echo echo;
  Log log;
  const auto dialler = Dialler();
  const auto channel = dialler->Dial("127.0.0.1", echo.port(), log.Handlers());
  std::vector<std::string> sent;
  for (size_t size : {0u, 1u, 70'000u, 3'000'000u, 5u}) {
    sent.push_back(std::string(size, static_cast<char>('a' + sent.size())));
    // Before the channel is open too.
    EXPECT_TRUE(channel->Send(static_cast<uint16_t>(sent.size()), sent.back()));
  }
  const auto got = log.WaitMessages(sent.size());
  ASSERT_EQ(got.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(got[i].first, i + 2);
    EXPECT_EQ(got[i].second, sent[i]);
  }
  EXPECT_TRUE(channel->open());
  channel->Close();
  EXPECT_EQ(log.WaitClosed()->code(), ErrorCode::kCancelled);
  EXPECT_FALSE(channel->Send(1, "late"));
}

TEST(Channel, WrongToken_IsRefusedByBothEnds) {
  Echo echo;
  Log log;
  const auto dialler = Dialler({.token = "another"});
  dialler->Dial("127.0.0.1", echo.port(), log.Handlers());
  const std::optional<Error> error = log.WaitClosed();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(error->message().find("token"), std::string::npos) << error->message();
  EXPECT_EQ(echo.num_accepted(), 0u);
}

TEST(Channel, NobodyThere_IsUnavailable) {
  uint16_t port = 0;
  {
    port = Echo().port();
  }
  Log log;
  const auto dialler = Dialler();
  dialler->Dial("127.0.0.1", port, log.Handlers());
  EXPECT_EQ(log.WaitClosed()->code(), ErrorCode::kUnavailable);
}

TEST(Channel, PeerCloses_IsToldAtOnce) {
  Echo echo;
  Log log;
  const auto dialler = Dialler();
  const auto channel = dialler->Dial("127.0.0.1", echo.port(), log.Handlers());
  channel->Send(1, "x");
  log.WaitMessages(1);
  echo.CloseAll();
  EXPECT_EQ(log.WaitClosed()->code(), ErrorCode::kUnavailable);
}

TEST(Channel, IdleChannel_StaysOpen) {
  const ChannelOptions quick{.heartbeat = milliseconds(20), .dead_after = milliseconds(2'000)};
  Echo echo(quick);
  Log log;
  const auto dialler = Dialler(quick);
  const auto channel = dialler->Dial("127.0.0.1", echo.port(), log.Handlers());
  ASSERT_TRUE(log.WaitOpen());
  std::this_thread::sleep_for(milliseconds(2'500));
  EXPECT_TRUE(channel->Send(1, "still there"));
  EXPECT_EQ(log.WaitMessages(1).size(), 1u);
}

/// Proves itself as the format wants it.
void Greet(RawClient* client) {
  const std::string nonce(32, 'n');
  client->Send("HMCHAN01" + nonce);
  const std::string their_nonce = client->ReadBytes(40).substr(8);
  ASSERT_EQ(their_nonce.size(), 32u);
  client->Send(*HmacSha256("secret", "HMCHAN01dialler" + nonce + their_nonce));
  EXPECT_EQ(client->ReadBytes(32).substr(0, 32),
            *HmacSha256("secret", "HMCHAN01acceptor" + nonce + their_nonce));
}

TEST(Channel, LongMessageOverASlowLink_IsASignOfLife) {
  Echo echo({.heartbeat = milliseconds(100), .dead_after = milliseconds(2'000)});
  RawClient client(echo.port());
  Greet(&client);
  // Takes longer than silence may last, in pieces that do not.
  constexpr int kPieces = 25;
  client.Send(std::string({kPieces, 0, 0, 0, 7, 0, 0, 0}));
  for (int i = 0; i < kPieces; ++i) {
    std::this_thread::sleep_for(milliseconds(100));
    client.Send("x");
  }
  // Among signs of life comes the message with its type and one.
  const std::string answer =
      std::string({kPieces, 0, 0, 0, 8, 0, 0, 0}) + std::string(kPieces, 'x');
  std::string all;
  for (int i = 0; i < 100 && all.find(answer) == std::string::npos; ++i) all += client.ReadBytes(1);
  EXPECT_NE(all.find(answer), std::string::npos);
}

TEST(Channel, SilentPeer_CountsAsGone) {
  // Says hello as the format wants it, and then nothing.
  Echo echo({.heartbeat = milliseconds(20), .dead_after = milliseconds(200)});
  RawClient client(echo.port());
  Greet(&client);
  // Signs of life come until it is given up.
  const std::string rest = client.ReadAll();
  EXPECT_EQ(rest.find("<timeout>"), std::string::npos);
  EXPECT_GE(rest.size(), 8u);
  EXPECT_EQ(echo.num_accepted(), 1u);
}

TEST(Channel, OtherProtocols_AreClosed) {
  Echo echo({.connect_timeout = milliseconds(300)});
  for (const std::string& text :
       {std::string("GET / HTTP/1.1\r\nHost: a\r\n\r\n and more to fill a greeting"),
        std::string("HMCHAN01"), std::string(500, '\0'), std::string()}) {
    RawClient client(echo.port());
    client.Send(text);
    const std::string rest = client.ReadAll();
    EXPECT_EQ(rest.find("<timeout>"), std::string::npos);
    EXPECT_LE(rest.size(), std::string_view("<reset>").size() + 40);
  }
  EXPECT_EQ(echo.num_accepted(), 0u);
}

TEST(Channel, PeerThatDoesNotKeepUp_IsClosed) {
  const ChannelOptions small{.max_message_bytes = 1 << 20, .max_queued_bytes = 4 << 20};
  std::mutex gate;
  std::unique_lock held(gate);
  Result<std::unique_ptr<ChannelService>> slow = ChannelService::Create(
      {.token = "secret"}, [&](const std::shared_ptr<Channel>&) -> ChannelHandlers {
        return {.on_message = [&](uint16_t, const std::string&) { std::lock_guard wait(gate); }};
      });
  ASSERT_TRUE(slow.ok());
  ASSERT_TRUE((*slow)->Bind().ok());
  (*slow)->Listen();
  ChannelOptions options = small;
  Log log;
  const auto dialler = Dialler(options);
  const auto channel = dialler->Dial("127.0.0.1", (*slow)->port(), log.Handlers());
  ASSERT_TRUE(log.WaitOpen());
  bool refused = false;
  for (int i = 0; i < 1000 && !refused; ++i) refused = !channel->Send(1, std::string(1 << 20, 'x'));
  EXPECT_TRUE(refused);
  EXPECT_EQ(log.WaitClosed()->code(), ErrorCode::kUnavailable);
  held.unlock();
}

TEST(Channel, MessageThatIsTooLong_ClosesWithItsSize) {
  Echo echo;
  Log log;
  const auto dialler = Dialler({.max_message_bytes = 1000});
  const auto channel = dialler->Dial("127.0.0.1", echo.port(), log.Handlers());
  ASSERT_TRUE(log.WaitOpen());
  EXPECT_TRUE(channel->Send(1, std::string(1000, 'x')));
  EXPECT_EQ(log.WaitMessages(1).front().second.size(), 1000u);
  EXPECT_FALSE(channel->Send(1, std::string(1001, 'x')));
  const std::optional<Error> closed = log.WaitClosed();
  ASSERT_TRUE(closed.has_value());
  EXPECT_EQ(closed->code(), ErrorCode::kResourceExhausted);
  EXPECT_NE(closed->message().find("1001 bytes"), std::string::npos) << closed->message();
}

TEST(Channel, Shutdown_EndsEveryChannel) {
  Log log;
  auto echo = std::make_unique<Echo>();
  auto dialler = Dialler();
  const auto channel = dialler->Dial("127.0.0.1", echo->port(), log.Handlers());
  ASSERT_TRUE(log.WaitOpen());
  dialler->Shutdown();
  EXPECT_EQ(log.WaitClosed()->code(), ErrorCode::kCancelled);
  dialler.reset();
  EXPECT_FALSE(channel->Send(1, "x"));
}

TEST(HostPort, Parses_NamesAddressesAndNothingElse) {
  EXPECT_EQ(ParseHostPort("node-1:7000")->host, "node-1");
  EXPECT_EQ(ParseHostPort("node-1:7000")->port, 7000);
  EXPECT_EQ(ParseHostPort("[::1]:7000")->host, "::1");
  for (const char* wrong :
       {"", "a", ":1", "a:", "a:0", "a:65536", "a:1x", "::1:7", "[]:7", "a:-1"}) {
    EXPECT_FALSE(ParseHostPort(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace halfmoon::net
