// SPDX-License-Identifier: Apache-2.0
#include "serve/server.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "serve/auth.h"
#include "serve/exchange.h"
#include "serve/generation_api.h"
#include "serve/in_flight.h"
#include "serve/info_api.h"
#include "serve/routes.h"
#include "serve/services.h"
#include "serve/worker_pool.h"

namespace halfmoon::serve {
namespace {

// What readers that are merely slow get to take the end of their answer.
constexpr std::chrono::seconds kFlushGrace{3};

net::ErrorBody OpenAiErrorBody(int status, std::string_view message) {
  return {"application/json", json::Serialize(HttpError(status, std::string(message)).ToJson())};
}

}  // namespace

class Server::Impl {
 public:
  explicit Impl(ServerOptions options)
      : options_(std::move(options)),
        keys_(options_.api_keys),
        cors_(options_.cors_origins),
        state_(&clock_),
        workers_(options_.worker_threads, options_.max_waiting_jobs) {
    services_.options = &options_;
    services_.clock = &clock_;
    services_.metrics = &metrics_;
    services_.state = &state_;
    services_.ids = &ids_;
    services_.sessions = &sessions_;
  }

  Status Listen() {
    net::HttpServerOptions http = options_.http;
    http.error_body = OpenAiErrorBody;
    auto started = net::HttpServer::Start(
        std::move(http), [this](net::Request request, std::shared_ptr<net::Responder> responder) {
          Dispatch(std::move(request), std::move(responder));
        });
    if (!started.ok()) return started.error();
    http_ = std::move(*started);
    std::lock_guard lock(url_mutex_);
    url_ = http_->url();
    return {};
  }

  ServerState& state() { return state_; }
  const net::HttpServer& http() const { return *http_; }

  void Shutdown(std::chrono::milliseconds grace) {
    if (http_ == nullptr) return;
    std::lock_guard lock(shutdown_mutex_);
    state_.BeginDrain();
    if (!in_flight_.WaitIdle(grace) && grace.count() > 0) {
      HM_LOG_INFO("{} requests did not end within the grace period; ending them",
                  in_flight_.count());
    }
    ApiError error = state_.Refusal().value_or(ApiError());
    error.message = "the server is shutting down; this answer is not complete";
    sessions_.AbortAll(std::move(error));
    in_flight_.WaitIdle(kFlushGrace);
    http_->Stop(kFlushGrace);
    workers_.Stop();
    sessions_.Stop();
  }

 private:
  void Dispatch(net::Request request, std::shared_ptr<net::Responder> responder) {
    const TimeUs arrival_us = clock_.NowUs();
    const RouteMatch match = FindRoute(request.method, request.path);
    net::Headers headers = cors_.AnswerHeaders(request.headers);
    headers.Add("X-Request-Id", "req_" + ids_.NextId());
    auto exchange = std::make_shared<Exchange>(std::move(responder), &metrics_, &in_flight_,
                                               std::string(match.label), std::move(headers));
    if (cors_.IsPreflight(request)) return exchange->Send(cors_.PreflightResponse(request));
    if (request.method == "GET" && match.allow.empty()) {
      const auto page = std::ranges::find(options_.pages, request.path, &Page::path);
      if (page != options_.pages.end()) {
        net::Response response;
        response.headers.Set("Content-Type", page->content_type);
        response.body = page->body();
        return exchange->Send(std::move(response));
      }
    }
    if (!match.open && !keys_.Allow(request.headers)) return exchange->Send(Unauthorized());
    if (match.endpoint == Endpoint::kNone) return exchange->Send(NoRouteResponse(request, match));
    if (const auto handler = WorkerHandler(match.endpoint)) {
      return Queue(handler, std::move(request), exchange, arrival_us);
    }
    exchange->Send(Inform(match));
  }

  net::Response Inform(const RouteMatch& match) {
    switch (match.endpoint) {
      case Endpoint::kHealth:
        return HealthPage();
      case Endpoint::kReady:
        return ReadyPage(services_);
      case Endpoint::kMetrics:
        return MetricsPage(services_);
      case Endpoint::kVersion:
        return VersionPage(services_);
      case Endpoint::kModels:
        return ModelsPage(services_);
      case Endpoint::kModel:
        return ModelPage(services_, match.rest);
      default:
        break;
    }
    std::lock_guard lock(url_mutex_);
    return LandingPage(services_, url_);
  }

  using Handler = void (*)(const Services&, const net::Request&, const std::shared_ptr<Exchange>&,
                           TimeUs);
  static Handler WorkerHandler(Endpoint endpoint) {
    switch (endpoint) {
      case Endpoint::kChat:
        return HandleChat;
      case Endpoint::kCompletion:
        return HandleCompletion;
      case Endpoint::kTokenize:
        return HandleTokenize;
      case Endpoint::kDetokenize:
        return HandleDetokenize;
      default:
        return nullptr;
    }
  }

  void Queue(Handler handler, net::Request request, const std::shared_ptr<Exchange>& exchange,
             TimeUs arrival_us) {
    if (const std::optional<ApiError> refusal = state_.Refusal())
      return exchange->SendError(*refusal);
    if (!IsJson(request.headers)) {
      return exchange->SendError(HttpError(
          415, "the body has to be JSON: send the header 'Content-Type: application/json'"));
    }
    // std::function wants its target copyable, and the body need not be copied.
    auto shared_request = std::make_shared<const net::Request>(std::move(request));
    const bool posted = workers_.TryPost([this, handler, shared_request, exchange, arrival_us] {
      handler(services_, *shared_request, exchange, arrival_us);
    });
    if (posted) return;
    ApiError error =
        FromError(Error(ErrorCode::kResourceExhausted, "too many requests are waiting"));
    const std::shared_ptr<const Backend> backend = state_.backend();
    error.retry_after_s =
        backend == nullptr ? 1 : metrics_.RetryAfterSeconds(backend->engine().Stats());
    exchange->SendError(error);
  }

  const ServerOptions options_;
  const MonotonicClock clock_;
  const ApiKeys keys_;
  const Cors cors_;
  Metrics metrics_;
  InFlight in_flight_;
  ServerState state_;
  IdSource ids_;
  Services services_;
  std::mutex shutdown_mutex_;  // one Shutdown at a time; it guards no member
  std::mutex url_mutex_;
  std::string url_;  // GUARDED_BY(url_mutex_): requests may arrive before Listen knows it
  // In this order: the loop's sessions and the workers' jobs refer to what is above.
  SessionLoop sessions_;
  WorkerPool workers_;
  std::unique_ptr<net::HttpServer> http_;
};

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  if (options.worker_threads < 1 || options.max_waiting_jobs < 1) {
    return Error(ErrorCode::kInvalidArgument,
                 "the server needs a worker thread and a place in its queue");
  }
  if (std::ranges::any_of(options.api_keys, &std::string::empty)) {
    return Error(ErrorCode::kInvalidArgument, "an API key is empty");
  }
  auto impl = std::make_unique<Impl>(std::move(options));
  HM_TRY(impl->Listen());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { Shutdown(std::chrono::milliseconds(0)); }

uint16_t Server::port() const { return impl_->http().port(); }

std::string Server::url() const { return impl_->http().url(); }

void Server::SetLoadProgress(size_t done, size_t total) {
  impl_->state().SetLoadProgress(done, total);
}

void Server::SetReady(engine::Engine* engine, const text::Tokenizer* tokenizer,
                      std::optional<text::ChatTemplate> chat_template, ModelInfo info) {
  impl_->state().SetReady(std::make_shared<const Backend>(
      engine, tokenizer, std::move(chat_template), std::move(info)));
}

void Server::SetFailed(const Error& error) { impl_->state().SetFailed(error); }

void Server::BeginDrain() { impl_->state().BeginDrain(); }

void Server::Shutdown(std::chrono::milliseconds grace) { impl_->Shutdown(grace); }

}  // namespace halfmoon::serve
