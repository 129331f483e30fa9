// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_client.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

namespace halfmoon::cluster::etcd {
namespace {

// 4096 nodes are about 2 MiB of JSON. Also the bound of one line of a watch.
constexpr size_t kMaxAnswerBytes = 8 << 20;
// What is kept of an answer that is no watch.
constexpr size_t kMaxFailureBytes = 64 << 10;
constexpr std::chrono::minutes kSilence{15};
// etcd hashes passwords slowly on purpose: 0.1 s on a quiet machine, seconds on a busy one.
constexpr TimeUs kAuthenticateTimeoutUs = 10'000'000;
constexpr size_t kMaxEndpoints = 16;

Error Invalid(std::string_view url, std::string_view why) {
  return Error(ErrorCode::kInvalidArgument,
               "etcd endpoint '" + std::string(url) + "': " + std::string(why));
}

Result<Endpoint> ParseEndpoint(std::string_view url) {
  const size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) {
    // What comes before an '@' may be a password.
    return Invalid(url.substr(url.rfind('@') + 1), "begins with neither http:// nor https://");
  }
  std::string_view rest = url.substr(scheme + 3);
  // Wherever it stands: a password with a '/' is not to end up in a message about a path.
  const size_t at = rest.rfind('@');
  Endpoint endpoint;
  std::string_view user;
  if (at != std::string_view::npos) {
    user = rest.substr(0, at);
    rest.remove_prefix(at + 1);
  }
  const std::string shown = std::string(url.substr(0, scheme + 3)) + std::string(rest);
  std::string target;
  HM_ASSIGN(const net::HttpClientOptions parsed, net::ParseUrl(shown, &target));
  if (target != "/") return Invalid(shown, "has a path; it ends with host and port");
  endpoint.host = parsed.host;
  endpoint.tls = parsed.tls;
  const std::string_view authority = rest.substr(0, rest.find('/'));
  const bool has_port = !authority.ends_with(']') &&
                        authority.find(':', authority.rfind(']') + 1) != std::string_view::npos;
  if (has_port) endpoint.port = parsed.port;
  if (at == std::string_view::npos) return endpoint;
  const size_t colon = user.find(':');
  if (colon == std::string_view::npos || colon == 0) {
    return Invalid(shown, "what stands before the '@' is not user:password");
  }
  const auto name = net::PercentDecode(user.substr(0, colon));
  const auto password = net::PercentDecode(user.substr(colon + 1));
  if (!name.ok() || !password.ok()) {
    return Invalid(shown, "user or password has a '%' that is not followed by two hex digits");
  }
  endpoint.user = *name;
  endpoint.password = *password;
  return endpoint;
}

}  // namespace

std::string Endpoint::url() const {
  const bool v6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return (tls ? "https://" : "http://") + (v6 ? "[" + host + "]" : host) + ":" +
         std::to_string(port);
}

Result<std::vector<Endpoint>> ParseEndpoints(std::string_view url_list) {
  std::vector<Endpoint> endpoints;
  for (size_t begin = 0; begin <= url_list.size();) {
    const size_t end = std::min(url_list.find(',', begin), url_list.size());
    std::string_view url = url_list.substr(begin, end - begin);
    begin = end + 1;
    while (url.starts_with(' ')) url.remove_prefix(1);
    while (url.ends_with(' ')) url.remove_suffix(1);
    if (url.empty()) {
      return Error(ErrorCode::kInvalidArgument, "list of etcd endpoints: one of them is empty");
    }
    if (endpoints.size() == kMaxEndpoints) {
      return Error(ErrorCode::kInvalidArgument, "list of etcd endpoints: more than 16");
    }
    HM_ASSIGN(Endpoint endpoint, ParseEndpoint(url));
    endpoints.push_back(std::move(endpoint));
  }
  return endpoints;
}

struct Client::Member {
  Member(Endpoint named, net::HttpClientOptions http_options)
      : endpoint(std::move(named)), http(std::move(http_options)) {}

  const Endpoint endpoint;
  net::HttpClient http;
  std::string token;
  bool authenticated = false;  ///< the token, which is empty where etcd asks for none, is good
};

Client::Client(ClientOptions options) : options_(std::move(options)) {
  for (const Endpoint& endpoint : options_.endpoints) {
    net::HttpClientOptions http;
    http.host = endpoint.host;
    http.port = endpoint.port;
    http.tls = endpoint.tls;
    http.tls_ca_file = options_.tls_ca_file;
    http.connect_timeout = std::chrono::ceil<std::chrono::milliseconds>(
        std::chrono::microseconds(options_.call_timeout_us));
    http.write_timeout = http.connect_timeout;
    http.read_timeout = kSilence;  // calls have a deadline of their own
    http.interrupted = [this] {
      return options_.ended() || options_.clock->NowUs() >= deadline_us_;
    };
    members_.push_back(std::make_unique<Member>(endpoint, std::move(http)));
  }
}

Client::~Client() = default;

void Client::NextMember() {
  ++num_failures_;
  current_ = (current_ + 1) % members_.size();
}

Result<std::string> Client::Call(std::string_view path, std::string body) {
  std::string failures;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member* const member = members_[current_].get();
    Result<std::string> answer = CallMember(member, path, body);
    if (answer.ok()) return answer;
    const ErrorCode code = answer.error().code();
    if (code == ErrorCode::kNotFound || code == ErrorCode::kInvalidArgument ||
        code == ErrorCode::kCancelled) {
      return answer.error().WithContext(member->endpoint.url());
    }
    failures += (i == 0 ? "" : "; ") + member->endpoint.url() + ": " + answer.error().message();
    NextMember();
  }
  return Error(ErrorCode::kUnavailable, failures);
}

Result<std::string> Client::CallMember(Member* member, std::string_view path,
                                       const std::string& body) {
  for (int attempt = 0;; ++attempt) {
    if (!member->authenticated) HM_TRY(Authenticate(member));
    HM_ASSIGN(net::Response response, Send(member, path, body, options_.call_timeout_us));
    if (response.status == 200) return std::move(response.body);
    Failure failure = ParseFailure(response.status, response.body);
    if (failure.kind == Failure::Kind::kToken && attempt == 0) {
      member->authenticated = false;
      continue;
    }
    switch (failure.kind) {
      case Failure::Kind::kNotFound:
        return Error(ErrorCode::kNotFound, std::move(failure.message));
      case Failure::Kind::kMember:
        return Error(ErrorCode::kUnavailable, std::move(failure.message));
      case Failure::Kind::kToken:
      case Failure::Kind::kNoUsers:
      case Failure::Kind::kRefused:
        // Users may have been made after the last token was asked for.
        member->authenticated = false;
        return Error(ErrorCode::kInvalidArgument, std::move(failure.message));
    }
  }
}

Status Client::Authenticate(Member* member) {
  member->token.clear();
  if (!member->endpoint.user.empty()) {
    HM_ASSIGN(const net::Response response,
              Send(member, "/v3/auth/authenticate",
                   AuthenticateRequest(member->endpoint.user, member->endpoint.password),
                   std::max(options_.call_timeout_us, kAuthenticateTimeoutUs)));
    if (response.status == 200) {
      HM_ASSIGN(member->token, ParseToken(response.body));
      if (!net::IsValidHeader("Authorization", member->token)) {
        member->token.clear();
        return Error(ErrorCode::kCorrupt, "field 'token' has control characters");
      }
    } else {
      Failure failure = ParseFailure(response.status, response.body);
      const bool refused = failure.kind == Failure::Kind::kRefused;
      if (failure.kind != Failure::Kind::kNoUsers) {
        return Error(refused ? ErrorCode::kInvalidArgument : ErrorCode::kUnavailable,
                     "user " + member->endpoint.user + ": " + failure.message);
      }
    }
  }
  member->authenticated = true;
  return {};
}

Result<net::Response> Client::Send(Member* member, std::string_view path, const std::string& body,
                                   TimeUs timeout_us) {
  net::ClientRequest request{.method = "POST",
                             .target = std::string(path),
                             .headers = {{"Content-Type", "application/json"}},
                             .body = body};
  if (!member->token.empty()) request.headers.Set("Authorization", member->token);
  deadline_us_ = options_.clock->NowUs() + timeout_us;
  net::Response whole;
  bool too_large = false;
  auto response = member->http.SendStreaming(request, [&](std::string_view piece) {
    too_large = whole.body.size() + piece.size() > kMaxAnswerBytes;
    if (!too_large) whole.body += piece;
    return !too_large;
  });
  if (response.ok()) {
    response->body = std::move(whole.body);
    return response;
  }
  member->http.Close();
  if (too_large) return Error(ErrorCode::kCorrupt, "an answer of more than 8 MiB");
  if (response.error().code() == ErrorCode::kCancelled && !options_.ended()) {
    return Error(ErrorCode::kDeadlineExceeded,
                 "no whole answer within " + std::to_string(timeout_us / 1000) + " ms");
  }
  return response.error();
}

Error Client::Watch(std::string body, const std::function<Status(std::string_view)>& on_line) {
  Member* const member = members_[current_].get();
  const Status status = WatchMember(member, body, on_line);
  NextMember();
  return status.error().WithContext(member->endpoint.url());
}

Status Client::WatchMember(Member* member, const std::string& body,
                           const std::function<Status(std::string_view)>& on_line) {
  if (!member->authenticated) HM_TRY(Authenticate(member));
  net::ClientRequest request{.method = "POST",
                             .target = "/v3/watch",
                             .headers = {{"Content-Type", "application/json"}},
                             .body = body};
  if (!member->token.empty()) request.headers.Set("Authorization", member->token);
  deadline_us_ = std::numeric_limits<TimeUs>::max();
  int status = 0;
  std::string buffer;
  std::optional<Error> error;
  const auto take = [&](std::string_view piece) {
    buffer += piece;
    if (status != 200) return buffer.size() < kMaxFailureBytes;
    for (size_t end; !error && (end = buffer.find('\n')) != std::string::npos;) {
      if (const Status taken = on_line(std::string_view(buffer).substr(0, end)); !taken.ok()) {
        error = taken.error();
      }
      buffer.erase(0, end + 1);
    }
    if (!error && buffer.size() > kMaxAnswerBytes) {
      error = Error(ErrorCode::kCorrupt, "a line of more than 8 MiB");
    }
    return !error;
  };
  const auto response = member->http.SendStreaming(
      request, take, [&](const net::Response& head) { status = head.status; });
  member->http.Close();
  // The next watch asks for a token anew, which costs little: watches last.
  member->authenticated = false;
  if (error) return *error;
  if (status != 0 && status != 200) {
    return Error(ErrorCode::kUnavailable, ParseFailure(status, buffer).message);
  }
  if (!response.ok()) return response.error();
  return Error(ErrorCode::kUnavailable, "the watch ended");
}

}  // namespace halfmoon::cluster::etcd
