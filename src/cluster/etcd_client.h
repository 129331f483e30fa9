// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: calls to one etcd by its JSON gateway, whichever of its members answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/etcd_messages.h"
#include "net/http_client.h"

namespace halfmoon::cluster::etcd {

struct Endpoint {
  std::string host;
  uint16_t port = 2379;
  bool tls = false;
  std::string user;  ///< empty: none
  std::string password;

  std::string url() const;  ///< without user and password
};

/// "http://user:password@host:2379,https://...". Errors: kInvalidArgument, without passwords.
Result<std::vector<Endpoint>> ParseEndpoints(std::string_view url_list);

struct ClientOptions {
  std::vector<Endpoint> endpoints;  ///< of one etcd; at least one
  std::string tls_ca_file;
  TimeUs call_timeout_us = 2'500'000;  ///< of a call on one endpoint
  const Clock* clock = nullptr;
  /// Asked about ten times a second; true ends a call or watch with kCancelled.
  std::function<bool()> ended;
};

/// Asks the endpoint that answered last, and the others in their order after it fails. Not
/// thread-safe.
class Client {
 public:
  explicit Client(ClientOptions options);
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client();

  /// The body of the answer. Errors: kNotFound (no such lease), kInvalidArgument (etcd refuses:
  /// rights, password), kUnavailable (no endpoint answers; names each one and why), kCancelled.
  Result<std::string> Call(std::string_view path, std::string body);

  /// Hands every line of a watch to `on_line`; its error ends the watch and is returned. Never ok.
  /// A watch that is silent for 15 minutes ends: etcd says every 10 that it is there. The next one
  /// goes to the next endpoint.
  Error Watch(std::string body, const std::function<Status(std::string_view)>& on_line);

  /// Endpoints that failed so far, each time anew.
  uint64_t num_failures() const { return num_failures_; }

 private:
  struct Member;

  /// One try, with as much as one renewal of the token.
  Result<std::string> CallMember(Member* member, std::string_view path, const std::string& body);
  Status Authenticate(Member* member);
  Result<net::Response> Send(Member* member, std::string_view path, const std::string& body,
                             TimeUs timeout_us);
  Status WatchMember(Member* member, const std::string& body,
                     const std::function<Status(std::string_view)>& on_line);
  void NextMember();

  const ClientOptions options_;
  std::vector<std::unique_ptr<Member>> members_;
  size_t current_ = 0;
  uint64_t num_failures_ = 0;
  TimeUs deadline_us_ = 0;  ///< of what is under way
};

}  // namespace halfmoon::cluster::etcd
