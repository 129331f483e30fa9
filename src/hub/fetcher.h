// SPDX-License-Identifier: Apache-2.0
// HTTP as hubs need it: redirects to other hosts without the token, proxies, bounded retries that
// honour Retry-After, an interrupt that is noticed while waiting.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "hub/environment.h"
#include "net/http_client.h"

namespace halfmoon::hub {

struct FetchOptions {
  std::string user_agent = "halfmoon";
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds read_timeout{30'000};  ///< between two arrivals of bytes
  /// Failures in a row, nothing arriving between them, before giving up.
  int max_attempts = 6;
  std::chrono::milliseconds first_backoff{1'000};  ///< doubled each time, at most 30 s
  /// A hub that asks for a longer pause is taken at its word: the fetch ends and says so.
  std::chrono::seconds max_retry_after{300};
  /// True ends whatever waits with kCancelled. May be empty.
  std::function<bool()> interrupted;
  /// Waits; empty: the real clock, in slices that look at `interrupted`.
  std::function<void(std::chrono::milliseconds)> sleep;
  /// Told of each retry, one sentence. May be empty.
  std::function<void(const std::string& message)> on_retry;

  bool IsInterrupted() const { return interrupted && interrupted(); }
};

/// Who is asked, and as whom.
struct FetchTarget {
  std::string url;
  std::string token;          ///< sent as bearer to this URL's origin only; empty: none
  bool token_cookie = false;  ///< ModelScope reads the token from a cookie too
  uint64_t begin_byte = 0;    ///< above 0: asks for the rest from there on
};

/// An answer, whatever its status.
struct FetchAnswer {
  int status = 0;
  net::Headers headers;        ///< of the last host
  net::Headers first_headers;  ///< of the first, which names commit, digest and size
};

/// Counts failures in a row and waits between attempts. Not thread-safe.
class Backoff {
 public:
  /// `options` outlive it.
  Backoff(const FetchOptions* options, int max_attempts)
      : options_(options), max_attempts_(max_attempts) {}
  /// Bytes arrived: the count begins again.
  void Progress() { failures_ = 0; }
  /// Waits before the next attempt; returns `error` where there is to be none.
  Status Wait(const Error& error, std::optional<std::chrono::seconds> retry_after);

 private:
  const FetchOptions* const options_;
  const int max_attempts_;
  int failures_ = 0;
};

/// True for what may go well a moment later: no connection, time-out, cut short.
bool IsTransient(const Error& error);
bool IsTransient(int status);
/// Seconds of a Retry-After field; nullopt where there is none or it is a date.
std::optional<std::chrono::seconds> RetryAfter(const net::Headers& headers);
/// An entity tag without quotes and weakness mark; empty where the field is absent.
std::string EntityTag(const net::Headers& headers, std::string_view field);

/// Not thread-safe. Keeps connections open between requests to the same origin.
class Fetcher {
 public:
  /// `environment` outlives it.
  Fetcher(const Environment* environment, FetchOptions options);
  ~Fetcher();

  /// One attempt. Follows at most ten redirects; from https to http never. `on_head` sees the final
  /// head and says whether the body is wanted; `on_body` takes it in pieces, false ends with
  /// kCancelled. Errors: as net::HttpClient; kInvalidArgument and kUnsupported for redirects that
  /// are not followed.
  Result<FetchAnswer> Stream(const FetchTarget& target,
                             const std::function<bool(const FetchAnswer&)>& on_head,
                             const std::function<bool(std::string_view)>& on_body);
  /// HEAD, with the retries of GetText; redirects to the same origin only: what the hub itself
  /// says.
  Result<FetchAnswer> Head(const FetchTarget& target);

  struct Text {
    FetchAnswer answer;
    std::string body;
  };
  /// With retries, fewer than for a download: somebody waits for a first word. Any status that is
  /// not transient is a success here. Errors: as Stream; kResourceExhausted over `max_bytes`.
  Result<Text> GetText(const FetchTarget& target, size_t max_bytes);

  const FetchOptions& options() const { return options_; }

 private:
  struct Origin;
  enum class Follow { kEverywhere, kSameOrigin };
  Result<net::HttpClient*> ClientFor(const Origin& origin);
  Result<FetchAnswer> Retried(const std::string& url,
                              const std::function<Result<FetchAnswer>()>& attempt);
  Result<FetchAnswer> Send(const std::string& method, const FetchTarget& target, Follow follow,
                           const std::function<bool(const FetchAnswer&)>& on_head,
                           const std::function<bool(std::string_view)>& on_body);

  const Environment* const environment_;
  const FetchOptions options_;
  std::map<std::string, std::unique_ptr<net::HttpClient>> clients_;  // by origin
};

}  // namespace halfmoon::hub
