// SPDX-License-Identifier: Apache-2.0
// An etcd for tests: the calls that halfmoon makes, answered as etcd 3.4.23 answers them, and what
// goes wrong with them on demand. Time plays no part: leases end when a test says so.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "cluster/etcd_messages.h"
#include "net/http_server.h"

namespace halfmoon::cluster {

class FakeEtcd {
 public:
  enum class Mood {
    kWell,
    kHanging,    ///< takes requests and never answers
    kNotJson,    ///< answers something else
    kWrongType,  ///< answers JSON of another kind
    kHuge,       ///< answers more than anybody wants
    kFailing,    ///< says that it has no leader
  };

  explicit FakeEtcd(uint16_t port = 0) { Start(port); }

  uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

  /// Ends the process, as it were; what it knows stays.
  void Stop() {
    server_.reset();
    const std::lock_guard lock(mutex_);
    watches_.clear();
    hanging_.clear();
  }
  void StartAgain() { Start(port_); }

  void SetMood(Mood mood) {
    const std::lock_guard lock(mutex_);
    mood_ = mood;
  }

  /// Ends every lease, with the keys on it.
  void EndLeases() {
    const std::lock_guard lock(mutex_);
    leases_.clear();
    for (auto it = keys_.begin(); it != keys_.end();) {
      const std::string key = (it++)->first;
      if (keys_[key].lease != 0) Delete(key);
    }
  }
  void PutKey(const std::string& key, const std::string& value) {
    const std::lock_guard lock(mutex_);
    Put(key, value, 0);
  }
  void DeleteKey(const std::string& key) {
    const std::lock_guard lock(mutex_);
    Delete(key);
  }
  /// Another store at the same place: nothing is known in it.
  void LoseDisk() {
    const std::lock_guard lock(mutex_);
    keys_.clear();
    leases_.clear();
    events_.clear();
    watches_.clear();
    revision_ = 1;
  }
  /// Forgets events up to now and cuts the watches.
  void Compact() {
    const std::lock_guard lock(mutex_);
    compacted_ = revision_;
    watches_.clear();
  }
  /// Watches stay, and say nothing of what happens.
  void SilenceWatches() {
    const std::lock_guard lock(mutex_);
    silent_ = std::exchange(watches_, {});
  }
  void AskForPassword(const std::string& password) {
    const std::lock_guard lock(mutex_);
    password_ = password;
    ++token_;
  }

  std::map<std::string, std::string> keys() const {
    const std::lock_guard lock(mutex_);
    std::map<std::string, std::string> values;
    for (const auto& [key, entry] : keys_) values[key] = entry.value;
    return values;
  }
  size_t num_leases() const {
    const std::lock_guard lock(mutex_);
    return leases_.size();
  }
  /// Waits for `count` more requests to a path.
  void WaitForCalls(const std::string& path, int count) {
    std::unique_lock lock(mutex_);
    const int until = calls_[path] + count;
    ASSERT_TRUE(called_.wait_for(lock, std::chrono::seconds(60), [&] {
      return calls_[path] >= until;
    })) << path;
  }

 private:
  using ResponderPtr = std::shared_ptr<net::Responder>;
  struct Key {
    std::string value;
    int64_t mod_revision = 0;
    int64_t lease = 0;
  };
  struct Watch {
    ResponderPtr responder;
    std::string begin;
    std::string end;
  };
  struct Event {
    int64_t revision = 0;
    std::string key;
    json::object body;
  };

  void Start(uint16_t port) {
    net::HttpServerOptions options;
    options.port = port;
    auto server = net::HttpServer::Start(
        options, [this](net::Request request, ResponderPtr to) { Handle(request, std::move(to)); });
    ASSERT_TRUE(server.ok()) << server.error().message();
    server_ = std::move(server).value();
    port_ = server_->port();
  }

  void Handle(const net::Request& request, ResponderPtr to) {
    const std::lock_guard lock(mutex_);
    ++calls_[request.path];
    called_.notify_all();
    switch (mood_) {
      case Mood::kWell:
        break;
      case Mood::kHanging:
        hanging_.push_back(std::move(to));
        return;
      case Mood::kNotJson:
        to->Send(net::TextResponse(200, "<html>hello</html>\n"));
        return;
      case Mood::kWrongType:
        to->Send(net::JsonResponse(200, R"({"result":{"header":7},"header":[],"ID":{},"kvs":3})"));
        return;
      case Mood::kHuge:
        to->Send(net::JsonResponse(200, std::string(9 << 20, ' ')));
        return;
      case Mood::kFailing:
        SendFailure(*to, 503, 14, "etcdserver: no leader");
        return;
    }
    const auto body = json::ParseObject(request.body);
    if (!body.ok()) {
      SendFailure(*to, 400, 3, body.error().message());
    } else if (request.path == "/v3/auth/authenticate") {
      Authenticate(*body, *to);
    } else if (password_ && request.headers.Find("Authorization") != Token()) {
      SendFailure(*to, 401, 16, "etcdserver: invalid auth token");
    } else {
      Answer(request.path, *body, std::move(to));
    }
  }

  void Answer(const std::string& path, const json::object& body, ResponderPtr to) {
    const int64_t id = Number(body, "ID");
    if (path == "/v3/lease/grant") {
      leases_.insert(++last_lease_);
      Send(*to, {{"ID", std::to_string(last_lease_)}, {"TTL", body.at("TTL")}});
    } else if (path == "/v3/lease/keepalive") {
      json::object result{{"header", Header()}, {"ID", std::to_string(id)}};
      if (leases_.contains(id)) result["TTL"] = "10";
      to->Send(net::JsonResponse(200, json::Serialize(json::object{{"result", result}}) + "\n"));
    } else if (path == "/v3/lease/revoke") {
      Revoke(id, *to);
    } else if (path == "/v3/kv/put") {
      const int64_t lease = Number(body, "lease");
      if (!leases_.contains(lease)) {
        SendFailure(*to, 404, 5, "etcdserver: requested lease not found");
        return;
      }
      Put(Bytes(body, "key"), Bytes(body, "value"), lease);
      Send(*to, {});
    } else if (path == "/v3/kv/range") {
      Range(body, *to);
    } else if (path == "/v3/watch") {
      BeginWatch(body.at("create_request").as_object(), std::move(to));
    } else {
      to->Send(net::TextResponse(404, "Not Found\n"));
    }
  }

  void Authenticate(const json::object& body, net::Responder& to) {
    if (!password_) {
      SendFailure(to, 412, 9, "etcdserver: authentication is not enabled");
    } else if (body.at("password").as_string() != *password_) {
      SendFailure(to, 400, 3, "etcdserver: authentication failed, invalid user ID or password");
    } else {
      Send(to, {{"token", Token()}});
    }
  }

  void Revoke(int64_t id, net::Responder& to) {
    leases_.erase(id);
    std::vector<std::string> gone;
    for (const auto& [key, entry] : keys_) {
      if (entry.lease == id) gone.push_back(key);
    }
    for (const std::string& key : gone) Delete(key);
    Send(to, {});
  }

  void Range(const json::object& body, net::Responder& to) {
    const std::string begin = Bytes(body, "key");
    const std::string end = body.contains("range_end") ? Bytes(body, "range_end") : begin + '\0';
    json::array kvs;
    for (auto it = keys_.lower_bound(begin); it != keys_.lower_bound(end); ++it) {
      kvs.push_back(KeyValueOf(it->first, it->second));
    }
    json::object answer;
    if (!kvs.empty()) answer["kvs"] = kvs;
    Send(to, answer);
  }

  void BeginWatch(const json::object& create, ResponderPtr to) {
    const int64_t start = Number(create, "start_revision");
    to->StartStream({.headers = {{"Content-Type", "application/json"}}});
    WriteLine(*to, {{"header", Header()}, {"created", true}});
    if (start <= compacted_) {
      WriteLine(*to, {{"canceled", true}, {"compact_revision", std::to_string(compacted_ + 1)}});
      to->Finish();
      return;
    }
    Watch watch{.responder = std::move(to),
                .begin = Bytes(create, "key"),
                .end = Bytes(create, "range_end")};
    for (const Event& event : events_) {
      if (event.revision >= start) Tell(watch, event);
    }
    watches_.push_back(std::move(watch));
  }

  void Put(const std::string& key, const std::string& value, int64_t lease) {
    keys_[key] = {.value = value, .mod_revision = ++revision_, .lease = lease};
    Happened({.revision = revision_, .key = key, .body = {{"kv", KeyValueOf(key, keys_[key])}}});
  }
  void Delete(const std::string& key) {
    keys_.erase(key);
    const json::object kv{{"key", etcd::EncodeBase64(key)},
                          {"mod_revision", std::to_string(++revision_)}};
    Happened({.revision = revision_, .key = key, .body = {{"type", "DELETE"}, {"kv", kv}}});
  }
  void Happened(Event event) {
    for (const Watch& watch : watches_) Tell(watch, event);
    events_.push_back(std::move(event));
  }
  void Tell(const Watch& watch, const Event& event) {
    if (event.key < watch.begin || event.key >= watch.end) return;
    WriteLine(*watch.responder, {{"header", Header()}, {"events", json::array{event.body}}});
  }

  static json::object KeyValueOf(const std::string& key, const Key& entry) {
    return {{"key", etcd::EncodeBase64(key)},
            {"value", etcd::EncodeBase64(entry.value)},
            {"mod_revision", std::to_string(entry.mod_revision)},
            {"lease", std::to_string(entry.lease)}};
  }
  static std::string Bytes(const json::object& o, std::string_view key) {
    return etcd::DecodeBase64(json::RequireString(o, key).value()).value();
  }
  static int64_t Number(const json::object& o, std::string_view key) {
    return o.contains(key) ? std::stoll(json::RequireString(o, key).value()) : 0;
  }
  std::string Token() const { return "token." + std::to_string(token_); }
  json::object Header() const {
    return {{"cluster_id", "14841639068965178418"}, {"revision", std::to_string(revision_)}};
  }
  void Send(net::Responder& to, json::object answer) const {
    answer["header"] = Header();
    to.Send(net::JsonResponse(200, json::Serialize(answer)));
  }
  static void SendFailure(net::Responder& to, int status, int code, const std::string& message) {
    to.Send(net::JsonResponse(
        status,
        json::Serialize(json::object{{"error", message}, {"message", message}, {"code", code}})));
  }
  static void WriteLine(net::Responder& to, const json::object& result) {
    to.Write(json::Serialize(json::object{{"result", result}}) + "\n");
  }

  mutable std::mutex mutex_;
  std::condition_variable called_;
  // GUARDED_BY(mutex_) down to the server:
  Mood mood_ = Mood::kWell;
  int64_t revision_ = 1;
  int64_t compacted_ = 0;
  int64_t last_lease_ = 7587848390000000000;  // as large as etcd's are
  int token_ = 0;
  std::optional<std::string> password_;
  std::map<std::string, Key> keys_;
  std::set<int64_t> leases_;
  std::vector<Event> events_;
  std::vector<Watch> watches_;
  std::vector<Watch> silent_;
  std::vector<ResponderPtr> hanging_;
  std::map<std::string, int> calls_;

  uint16_t port_ = 0;
  std::unique_ptr<net::HttpServer> server_;
};

}  // namespace halfmoon::cluster
