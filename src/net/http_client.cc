// SPDX-License-Identifier: Apache-2.0
#include "net/http_client.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <exception>
#include <optional>
#include <utility>

#include "net/asio.h"
#include "net/message_parser.h"
#include "net/transport.h"

namespace halfmoon::net {
namespace {

using SteadyClock = std::chrono::steady_clock;

// How often HttpClientOptions::interrupted is asked.
constexpr std::chrono::milliseconds kInterruptInterval{100};

std::string Authority(const HttpClientOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos && !options.host.starts_with('[');
  return (v6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.port);
}

// The default port is left out: signed URLs of object stores sign the host as browsers write it.
std::string HostField(const HttpClientOptions& options) {
  std::string authority = Authority(options);
  if (options.port == (options.tls ? 443 : 80)) authority.resize(authority.rfind(':'));
  return authority;
}

std::string SerializeRequest(const ClientRequest& request, const HttpClientOptions& options) {
  const bool through_proxy = !options.proxy_host.empty() && !options.tls;
  std::string out = request.method + " " +
                    (through_proxy ? "http://" + HostField(options) : std::string()) +
                    request.target + " HTTP/1.1\r\n";
  if (!request.headers.Find("Host")) out += "Host: " + HostField(options) + "\r\n";
  if (through_proxy && !options.proxy_authorization.empty()) {
    out += "Proxy-Authorization: " + options.proxy_authorization + "\r\n";
  }
  if (!request.headers.Find("User-Agent")) out += "User-Agent: halfmoon\r\n";
  const bool has_framing =
      request.headers.Find("Content-Length") || request.headers.Find("Transfer-Encoding");
  if (!has_framing &&
      (!request.body.empty() || request.method == "POST" || request.method == "PUT")) {
    out += "Content-Length: " + std::to_string(request.body.size()) + "\r\n";
  }
  for (const Headers::Field& field : request.headers) {
    out += field.name + ": " + field.value + "\r\n";
  }
  return out + "\r\n" + request.body;
}

Status CheckRequest(const ClientRequest& request) {
  const bool target_ok = !request.target.empty() &&
                         std::none_of(request.target.begin(), request.target.end(), [](char c) {
                           return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f;
                         });
  if (!target_ok) {
    return Error(ErrorCode::kInvalidArgument,
                 "request target is empty or holds a space or control");
  }
  if (!IsValidHeader(request.method, "")) {
    return Error(ErrorCode::kInvalidArgument, "request method is not a token");
  }
  for (const Headers::Field& field : request.headers) {
    if (!IsValidHeader(field.name, field.value)) {
      return Error(ErrorCode::kInvalidArgument, "request header '" + field.name + "' is malformed");
    }
  }
  return {};
}

}  // namespace

class HttpClient::Impl {
 public:
  explicit Impl(HttpClientOptions options) : options_(std::move(options)) {
    if (options_.host.starts_with('[') && options_.host.ends_with(']')) {
      options_.host = options_.host.substr(1, options_.host.size() - 2);
    }
    where_ = options_.host + " port " + std::to_string(options_.port);
    if (!options_.proxy_host.empty()) {
      where_ +=
          " through proxy " + options_.proxy_host + " port " + std::to_string(options_.proxy_port);
    }
  }

  ~Impl() { Close(); }

  Result<Response> Send(const ClientRequest& request,
                        const std::function<bool(std::string_view)>& on_body,
                        const std::function<void(const Response&)>& on_head) {
    HM_TRY(CheckRequest(request));
    cancelled_ = false;
    const bool reused = transport_ && !IsStale();
    Result<Response> response = SendOnce(request, on_body, on_head);
    // The server may have closed the old connection while the request was on its way. Only requests
    // that change nothing are safe to send twice.
    if (!response.ok() && reused && !got_bytes_ &&
        response.error().code() == ErrorCode::kUnavailable &&
        (request.method == "GET" || request.method == "HEAD")) {
      response = SendOnce(request, on_body, on_head);
    }
    return response;
  }

  void Cancel() {
    cancelled_ = true;
    asio::post(io_, [] {});  // Wakes the loop, which then looks at the flag.
  }

  void Close() {
    if (transport_) transport_->Close();
    // What was under way ends with an error now; it refers to buffers and the transport.
    io_.restart();
    io_.run();
    transport_.reset();
  }

 private:
  enum class Wait { kDone, kDeadline, kCancelled };

  // Runs the loop until `done` or the deadline, which is read anew after each event.
  Wait RunUntil(const std::function<bool()>& done,
                const std::function<SteadyClock::time_point()>& deadline) {
    for (;;) {
      if (done()) return Wait::kDone;
      if (cancelled_ || (options_.interrupted && options_.interrupted())) return Wait::kCancelled;
      const auto until = deadline();
      const auto now = SteadyClock::now();
      if (now >= until) return Wait::kDeadline;
      io_.restart();
      io_.run_one_until(options_.interrupted ? std::min(until, now + kInterruptInterval) : until);
    }
  }

  Error WaitError(Wait wait, std::string_view doing) {
    Close();
    if (wait == Wait::kCancelled) return Error(ErrorCode::kCancelled, "request cancelled");
    return Error(ErrorCode::kDeadlineExceeded, where_ + ": timed out " + std::string(doing));
  }

  // The server closed, or sent something that nobody asked for.
  bool IsStale() {
    std::array<char, 1> byte;
    error_code error;
    tcp::socket& socket = transport_->socket();
    socket.non_blocking(true, error);
    if (!error) socket.receive(asio::buffer(byte), tcp::socket::message_peek, error);
    if (error == asio::error::would_block) return false;
    Close();
    return true;
  }

  Status Connect() {
    const auto deadline = SteadyClock::now() + options_.connect_timeout;
    HM_ASSIGN(const std::vector<tcp::endpoint> endpoints, Resolve(deadline));
    std::optional<error_code> result;
    tcp::socket socket(io_);
    for (const tcp::endpoint& endpoint : endpoints) {
      result.reset();
      error_code ignored;
      socket.close(ignored);
      socket.async_connect(endpoint, [&](const error_code& error) { result = error; });
      const Wait wait = RunUntil([&] { return result.has_value(); }, [&] { return deadline; });
      if (wait != Wait::kDone) {
        socket.close(ignored);
        return WaitError(wait, "connecting");
      }
      if (!*result) break;
    }
    if (*result) {
      return Error(ErrorCode::kUnavailable, where_ + ": cannot connect: " + result->message());
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    if (!options_.tls) {
      transport_ = MakePlainTransport(std::move(socket));
      return {};
    }
    if (!options_.proxy_host.empty()) {
      HM_ASSIGN(socket, OpenTunnel(std::move(socket), deadline));
    }
    if (!tls_) {
      HM_ASSIGN(tls_, MakeClientTls(options_.tls_ca_file, options_.tls_verify));
    }
    HM_ASSIGN(transport_, MakeTlsTransport(std::move(socket), *tls_, TlsRole::kClient,
                                           options_.tls_verify ? options_.host : ""));
    result.reset();
    transport_->AsyncHandshake([&](const error_code& error, size_t) { result = error; });
    const Wait wait = RunUntil([&] { return result.has_value(); }, [&] { return deadline; });
    if (wait != Wait::kDone) return WaitError(wait, "in the TLS handshake");
    if (*result) {
      Close();
      return Error(ErrorCode::kUnavailable,
                   where_ + ": TLS handshake failed: " + result->message());
    }
    return {};
  }

  // Asks the proxy for a byte stream to the server. What TLS sends comes after the proxy's answer,
  // and a server speaks only when spoken to, so nothing of the tunnel is read here.
  Result<tcp::socket> OpenTunnel(tcp::socket to_proxy, SteadyClock::time_point deadline) {
    transport_ = MakePlainTransport(std::move(to_proxy));
    outgoing_ =
        "CONNECT " + Authority(options_) + " HTTP/1.1\r\nHost: " + Authority(options_) + "\r\n";
    if (!options_.proxy_authorization.empty()) {
      outgoing_ += "Proxy-Authorization: " + options_.proxy_authorization + "\r\n";
    }
    outgoing_ += "\r\n";
    write_done_ = read_done_ = false;
    transport_->AsyncWrite(asio::buffer(outgoing_),
                           [this](const error_code&, size_t) { write_done_ = true; });
    StartRead();
    ResponseParser parser({.max_header_bytes = options_.max_header_bytes}, /*to_head=*/true);
    for (ParseState state = ParseState::kHead; state != ParseState::kDone;) {
      const Wait wait =
          RunUntil([this] { return read_done_ && write_done_; }, [&] { return deadline; });
      if (wait != Wait::kDone) return WaitError(wait, "waiting for the proxy");
      read_done_ = false;
      if (read_error_) {
        return TunnelError("the proxy closed the connection: " + read_error_.message());
      }
      parser.Append({read_buffer_.data(), read_count_});
      state = parser.Advance();
      if (state == ParseState::kFailed) {
        return TunnelError("the proxy: " + parser.failure().message());
      }
      if (state != ParseState::kDone) StartRead();
    }
    if (parser.head().status / 100 != 2) {
      return TunnelError("the proxy refused with status " + std::to_string(parser.head().status));
    }
    if (parser.buffered_bytes() != 0) return TunnelError("the proxy sends more than its answer");
    tcp::socket socket = std::move(transport_->socket());
    transport_.reset();
    return socket;
  }

  Error TunnelError(const std::string& what) {
    Close();
    return Error(ErrorCode::kUnavailable, where_ + ": " + what);
  }

  Result<std::vector<tcp::endpoint>> Resolve(SteadyClock::time_point deadline) {
    const bool proxy = !options_.proxy_host.empty();
    const std::string& host = proxy ? options_.proxy_host : options_.host;
    const uint16_t port = proxy ? options_.proxy_port : options_.port;
    error_code error;
    const asio::ip::address address = asio::ip::make_address(host, error);
    if (!error) return std::vector<tcp::endpoint>{tcp::endpoint(address, port)};
    tcp::resolver resolver(io_);
    std::optional<error_code> result;
    std::vector<tcp::endpoint> endpoints;
    resolver.async_resolve(
        host, std::to_string(port),
        [&](const error_code& failure, const tcp::resolver::results_type& found) {
          result = failure;
          for (const auto& entry : found) endpoints.push_back(entry.endpoint());
        });
    const Wait wait = RunUntil([&] { return result.has_value(); }, [&] { return deadline; });
    if (wait != Wait::kDone) {
      resolver.cancel();
      return WaitError(wait, "looking up the name");
    }
    if (*result || endpoints.empty()) {
      return Error(ErrorCode::kUnavailable, where_ + ": unknown host: " + result->message());
    }
    return endpoints;
  }

  Result<Response> SendOnce(const ClientRequest& request,
                            const std::function<bool(std::string_view)>& on_body,
                            const std::function<void(const Response&)>& on_head) {
    got_bytes_ = false;
    if (!transport_) HM_TRY(Connect());
    Result<Response> response = Exchange(request, on_body, on_head);
    if (!response.ok() || !reusable_) Close();
    return response;
  }

  void StartRead() {
    transport_->AsyncReadSome(asio::buffer(read_buffer_),
                              [this](const error_code& error, size_t count) {
                                read_count_ = count;
                                read_error_ = error;
                                read_done_ = true;
                              });
  }

  Result<Response> Exchange(const ClientRequest& request,
                            const std::function<bool(std::string_view)>& on_body,
                            const std::function<void(const Response&)>& on_head) {
    ResponseParser parser(
        {.max_header_bytes = options_.max_header_bytes, .max_body_bytes = options_.max_body_bytes},
        request.method == "HEAD");
    outgoing_ = SerializeRequest(request, options_);
    write_done_ = read_done_ = reusable_ = false;
    auto last_event = SteadyClock::now();
    transport_->AsyncWrite(asio::buffer(outgoing_), [this](const error_code&, size_t) {
      // A failed write is no verdict: the server may have answered early. What was read decides.
      write_done_ = true;
    });
    StartRead();
    const auto write_deadline = last_event + options_.write_timeout;
    bool was_writing = true;
    const auto deadline = [&] {
      if (!write_done_) return write_deadline;
      if (was_writing) last_event = SteadyClock::now();
      was_writing = false;
      return last_event + options_.read_timeout;
    };
    Response response;
    bool saw_head = false;
    for (;;) {
      const Wait wait = RunUntil([this] { return read_done_; }, deadline);
      if (wait != Wait::kDone) return WaitError(wait, write_done_ ? "reading" : "writing");
      last_event = SteadyClock::now();
      read_done_ = false;
      ParseState state;
      if (read_error_) {
        state = parser.Eof();
      } else {
        got_bytes_ = true;
        parser.Append({read_buffer_.data(), read_count_});
        state = parser.Advance();
      }
      if (state == ParseState::kFailed) {
        if (!got_bytes_) {
          return Error(ErrorCode::kUnavailable, where_ + ": " + read_error_.message());
        }
        return parser.failure().WithContext(where_);
      }
      if (!saw_head && (state == ParseState::kBody || state == ParseState::kDone)) {
        saw_head = true;
        response = parser.head();
        if (on_head) on_head(response);
      }
      const std::string content = parser.TakeBody();
      if (!on_body) {
        response.body.append(content);
      } else if (!content.empty() && !on_body(content)) {
        return Error(ErrorCode::kCancelled, "request cancelled by its reader");
      }
      if (state == ParseState::kDone) {
        reusable_ =
            !read_error_ && write_done_ && parser.keep_alive() && parser.buffered_bytes() == 0;
        return response;
      }
      StartRead();
    }
  }

  HttpClientOptions options_;
  std::string where_;
  asio::io_context io_{1};
  std::shared_ptr<asio::ssl::context> tls_;
  std::unique_ptr<Transport> transport_;
  std::atomic<bool> cancelled_{false};

  // Of the request under way; handlers refer to them.
  std::string outgoing_;
  std::array<char, 16 << 10> read_buffer_;
  size_t read_count_ = 0;
  error_code read_error_;
  bool read_done_ = false;
  bool write_done_ = false;
  bool got_bytes_ = false;
  bool reusable_ = false;
};

Result<HttpClientOptions> ParseUrl(std::string_view url, std::string* target) {
  const auto invalid = [&](std::string_view why) {
    return Error(ErrorCode::kInvalidArgument,
                 "URL '" + std::string(url) + "': " + std::string(why));
  };
  HttpClientOptions options;
  std::string_view rest = url;
  if (EqualsIgnoreCase(rest.substr(0, 8), "https://")) {
    options.tls = true;
    options.port = 443;
    rest.remove_prefix(8);
  } else if (EqualsIgnoreCase(rest.substr(0, 7), "http://")) {
    rest.remove_prefix(7);
  } else {
    return invalid("begins with neither http:// nor https://");
  }
  const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  rest.remove_prefix(authority.size());
  if (authority.find('@') != std::string_view::npos) return invalid("user names are not taken");
  const size_t bracket = authority.rfind(']');
  const size_t colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  options.host = authority.substr(0, colon);
  if (options.host.empty()) return invalid("names no host");
  // Hosts of redirects are a server's to choose, and they are written into message heads.
  const bool host_ok = std::all_of(options.host.begin(), options.host.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("-._[]:%").find(c) != std::string_view::npos;
  });
  if (!host_ok) return invalid("holds a character that no host name has");
  if (colon != std::string_view::npos) {
    const std::string_view port = authority.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), options.port);
    if (error != std::errc() || end != port.data() + port.size() || options.port == 0) {
      return invalid("port is not a number from 1 to 65535");
    }
  }
  if (target != nullptr) {
    rest = rest.substr(0, rest.find('#'));
    *target = rest.starts_with('/') ? std::string(rest) : "/" + std::string(rest);
  }
  return options;
}

HttpClient::HttpClient(HttpClientOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
HttpClient::~HttpClient() = default;

Result<Response> HttpClient::Send(const ClientRequest& request) {
  return SendStreaming(request, {});
}

Result<Response> HttpClient::Get(std::string target) { return Send({.target = std::move(target)}); }

Result<Response> HttpClient::PostJson(std::string target, std::string body) {
  return Send({.method = "POST",
               .target = std::move(target),
               .headers = {{"Content-Type", "application/json"}},
               .body = std::move(body)});
}

Result<Response> HttpClient::SendStreaming(const ClientRequest& request,
                                           const std::function<bool(std::string_view)>& on_body,
                                           const std::function<void(const Response&)>& on_head) {
  try {
    return impl_->Send(request, on_body, on_head);
  } catch (const std::exception& e) {
    impl_->Close();
    return Error(ErrorCode::kInternal, std::string("HTTP client: ") + e.what());
  }
}

void HttpClient::Cancel() { impl_->Cancel(); }
void HttpClient::Close() { impl_->Close(); }

}  // namespace halfmoon::net
