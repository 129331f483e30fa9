// SPDX-License-Identifier: Apache-2.0
#include "hub/fetcher.h"

#include <algorithm>
#include <charconv>
#include <thread>
#include <utility>

namespace halfmoon::hub {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxClients = 8;
// The body of a redirect is read so that its connection stays usable; a longer one ends it.
constexpr size_t kMaxRedirectBodyBytes = 64 << 10;
constexpr int kMaxTextAttempts = 3;
// Sizes are checked by whoever knows them; this only keeps sums in range.
constexpr uint64_t kMaxBodyBytes = uint64_t{1} << 46;
constexpr milliseconds kLongestBackoff{30'000};

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (size_t j = 0; j < 4; ++j) {
      out += j <= count ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

/// "http://user:password@host:port", the scheme may be absent.
Status SetProxy(const std::string& proxy, net::HttpClientOptions* options) {
  std::string url = proxy.find("://") == std::string::npos ? "http://" + proxy : proxy;
  std::string user;
  const size_t scheme = url.find("://") + 3;
  const size_t end = std::min(url.find('/', scheme), url.size());
  if (const size_t at = url.rfind('@', end); at != std::string::npos && at >= scheme) {
    user = url.substr(scheme, at - scheme);
    url.erase(scheme, at + 1 - scheme);
  }
  // What the variable holds may be a password: messages leave it out.
  const auto unusable = [] {
    return Error(ErrorCode::kInvalidArgument,
                 "the proxy variable (https_proxy, http_proxy or all_proxy) is not "
                 "http://[user:password@]host:port");
  };
  const Result<net::HttpClientOptions> parsed = net::ParseUrl(url);
  if (!parsed.ok() || parsed->tls) return unusable();
  options->proxy_host = parsed->host;
  options->proxy_port = parsed->port;
  if (user.empty()) return {};
  const Result<std::string> plain = net::PercentDecode(user);
  if (!plain.ok()) return unusable();
  options->proxy_authorization = "Basic " + Base64(*plain);
  return {};
}

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

struct Fetcher::Origin {
  net::HttpClientOptions options;
  std::string target;

  static Result<Origin> Of(const std::string& url) {
    Origin origin;
    HM_ASSIGN(origin.options, net::ParseUrl(url, &origin.target));
    return origin;
  }
  std::string Key() const {
    return (options.tls ? "https://" : "http://") + options.host + ":" +
           std::to_string(options.port);
  }
  /// Where `location` leads from here.
  std::string Resolve(std::string_view location) const {
    if (location.find("://") != std::string_view::npos) return std::string(location);
    if (location.starts_with("//"))
      return (options.tls ? "https:" : "http:") + std::string(location);
    if (location.starts_with("/")) return Key() + std::string(location);
    const std::string path = target.substr(0, target.find('?'));
    return Key() + path.substr(0, path.rfind('/') + 1) + std::string(location);
  }
};

bool IsTransient(const Error& error) {
  return error.code() == ErrorCode::kUnavailable || error.code() == ErrorCode::kDeadlineExceeded ||
         error.code() == ErrorCode::kCorrupt;  // cut short
}

bool IsTransient(int status) {
  return status == 408 || status == 425 || status == 429 || status == 500 || status == 502 ||
         status == 503 || status == 504;
}

std::optional<seconds> RetryAfter(const net::Headers& headers) {
  const auto field = headers.Find("Retry-After");
  if (!field) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(field->data(), field->data() + field->size(), value);
  if (error != std::errc() || end != field->data() + field->size() || value < 0) {
    return std::nullopt;
  }
  return seconds(value);
}

std::string EntityTag(const net::Headers& headers, std::string_view field) {
  std::string_view tag = headers.Find(field).value_or("");
  if (tag.starts_with("W/")) tag.remove_prefix(2);
  if (tag.size() >= 2 && tag.front() == '"' && tag.back() == '"') {
    tag = tag.substr(1, tag.size() - 2);
  }
  return std::string(tag);
}

Status Backoff::Wait(const Error& error, std::optional<seconds> retry_after) {
  ++failures_;
  if (failures_ >= max_attempts_) {
    return Error(error.code(),
                 error.message() + " (given up after " + std::to_string(failures_) + " attempts)");
  }
  milliseconds pause =
      std::min(options_->first_backoff * (1 << std::min(failures_ - 1, 10)), kLongestBackoff);
  if (retry_after) {
    if (*retry_after > options_->max_retry_after) {
      return Error(error.code(), error.message() + " (it asks to come back in " +
                                     std::to_string(retry_after->count()) + " s)");
    }
    pause = std::max<milliseconds>(pause, *retry_after);
  }
  if (options_->on_retry) {
    options_->on_retry(error.message() + "; trying again in " +
                       std::to_string((pause.count() + 999) / 1000) + " s");
  }
  if (options_->sleep) {
    options_->sleep(pause);
  } else {
    constexpr milliseconds kSlice{100};
    for (milliseconds left = pause; left.count() > 0; left -= kSlice) {
      if (options_->IsInterrupted()) break;
      std::this_thread::sleep_for(std::min(left, kSlice));
    }
  }
  if (options_->IsInterrupted()) {
    return Error(ErrorCode::kCancelled, "interrupted");
  }
  return {};
}

Fetcher::Fetcher(const Environment* environment, FetchOptions options)
    : environment_(environment), options_(std::move(options)) {}
Fetcher::~Fetcher() = default;

Result<net::HttpClient*> Fetcher::ClientFor(const Origin& origin) {
  const std::string key = origin.Key();
  if (const auto found = clients_.find(key); found != clients_.end()) return found->second.get();
  if (clients_.size() >= kMaxClients) clients_.clear();
  net::HttpClientOptions options = origin.options;
  options.connect_timeout = options_.connect_timeout;
  options.read_timeout = options_.read_timeout;
  options.max_body_bytes = kMaxBodyBytes;
  options.interrupted = options_.interrupted;
  const std::string proxy = environment_->ProxyFor(options.tls, options.host);
  if (!proxy.empty()) HM_TRY(SetProxy(proxy, &options));
  return (clients_[key] = std::make_unique<net::HttpClient>(std::move(options))).get();
}

Result<FetchAnswer> Fetcher::Send(const std::string& method, const FetchTarget& target,
                                  Follow follow,
                                  const std::function<bool(const FetchAnswer&)>& on_head,
                                  const std::function<bool(std::string_view)>& on_body) {
  std::string url = target.url;
  bool with_token = !target.token.empty();
  FetchAnswer answer;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HM_ASSIGN(const Origin origin, Origin::Of(url));
    HM_ASSIGN(net::HttpClient* const client, ClientFor(origin));
    net::ClientRequest request;
    request.method = method;
    request.target = origin.target;
    request.headers.Add("User-Agent", options_.user_agent);
    request.headers.Add("Accept", "*/*");
    // Sizes, digests and ranges are those of the file itself.
    request.headers.Add("Accept-Encoding", "identity");
    if (target.begin_byte > 0) {
      request.headers.Add("Range", "bytes=" + std::to_string(target.begin_byte) + "-");
    }
    if (with_token) {
      request.headers.Add("Authorization", "Bearer " + target.token);
      if (target.token_cookie) request.headers.Add("Cookie", "m_session_id=" + target.token);
    }
    bool redirect = false;
    bool wanted = true;
    size_t redirect_bytes = 0;
    const auto head = [&](const net::Response& response) {
      answer.status = response.status;
      answer.headers = response.headers;
      if (hop == 0) answer.first_headers = response.headers;
      redirect = IsRedirect(response.status) && response.headers.Find("Location").has_value();
      if (!redirect && on_head) wanted = on_head(answer);
    };
    const auto body = [&](std::string_view bytes) {
      if (redirect) return (redirect_bytes += bytes.size()) <= kMaxRedirectBodyBytes;
      return wanted && on_body && on_body(bytes);
    };
    const Result<net::Response> response = client->SendStreaming(request, body, head);
    if (!response.ok()) {
      const bool ended_here =
          (!wanted || redirect_bytes > kMaxRedirectBodyBytes) && !options_.IsInterrupted();
      if (!ended_here || response.error().code() != ErrorCode::kCancelled) return response.error();
    }
    if (!redirect) return answer;
    const std::string next = origin.Resolve(*answer.headers.Find("Location"));
    HM_ASSIGN(const Origin onward, Origin::Of(next).WithContext("redirect from " + origin.Key()));
    const bool same = onward.Key() == origin.Key();
    if (follow == Follow::kSameOrigin && !same) return answer;
    if (origin.options.tls && !onward.options.tls) {
      return Error(ErrorCode::kUnsupported,
                   origin.Key() + " redirects to an address without TLS: refused");
    }
    // Once a request has left the hub, nothing that comes after gets the token again.
    with_token = with_token && same;
    url = next;
  }
  return Error(ErrorCode::kInvalidArgument,
               target.url + ": more than " + std::to_string(kMaxRedirects) + " redirects");
}

Result<FetchAnswer> Fetcher::Stream(const FetchTarget& target,
                                    const std::function<bool(const FetchAnswer&)>& on_head,
                                    const std::function<bool(std::string_view)>& on_body) {
  return Send("GET", target, Follow::kEverywhere, on_head, on_body);
}

Result<FetchAnswer> Fetcher::Retried(const std::string& url,
                                     const std::function<Result<FetchAnswer>()>& attempt) {
  Backoff backoff(&options_, std::min(kMaxTextAttempts, options_.max_attempts));
  for (;;) {
    Result<FetchAnswer> answer = attempt();
    if (!answer.ok()) {
      if (!IsTransient(answer.error())) return answer;
      HM_TRY(backoff.Wait(answer.error(), std::nullopt));
    } else if (IsTransient(answer->status)) {
      HM_TRY(backoff.Wait(
          Error(ErrorCode::kUnavailable, url + ": status " + std::to_string(answer->status)),
          RetryAfter(answer->headers)));
    } else {
      return answer;
    }
  }
}

Result<FetchAnswer> Fetcher::Head(const FetchTarget& target) {
  return Retried(target.url, [&] { return Send("HEAD", target, Follow::kSameOrigin, {}, {}); });
}

Result<Fetcher::Text> Fetcher::GetText(const FetchTarget& target, size_t max_bytes) {
  Text text;
  HM_ASSIGN(text.answer, Retried(target.url, [&]() -> Result<FetchAnswer> {
              text.body.clear();
              bool too_large = false;
              Result<FetchAnswer> answer = Stream(
                  target, [](const FetchAnswer&) { return true; },
                  [&](std::string_view bytes) {
                    too_large = text.body.size() + bytes.size() > max_bytes;
                    if (!too_large) text.body.append(bytes);
                    return !too_large;
                  });
              if (!too_large) return answer;
              return Error(ErrorCode::kResourceExhausted, target.url + ": the answer is over " +
                                                              std::to_string(max_bytes) + " bytes");
            }));
  return text;
}

}  // namespace halfmoon::hub
