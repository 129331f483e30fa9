// SPDX-License-Identifier: Apache-2.0
#include "serve/exchange.h"

#include <chrono>
#include <utility>

#include "net/sse.h"

namespace halfmoon::serve {
namespace {

// Below the idle timeouts of common proxies (60 s).
constexpr std::chrono::seconds kHeartbeatInterval{15};

}  // namespace

Exchange::Exchange(std::shared_ptr<net::Responder> responder, Metrics* metrics, InFlight* in_flight,
                   std::string route, net::Headers headers)
    : responder_(std::move(responder)),
      metrics_(metrics),
      in_flight_(in_flight),
      route_(std::move(route)),
      headers_(std::move(headers)) {
  in_flight_->Begin();
}

Exchange::~Exchange() { in_flight_->End(); }

void Exchange::Send(net::Response response) {
  for (const net::Headers::Field& field : headers_) response.headers.Add(field.name, field.value);
  metrics_->CountHttp(route_, response.status);
  responder_->Send(std::move(response));
}

void Exchange::SendJson(int status, const json::object& body) {
  Send(net::JsonResponse(status, json::Serialize(body)));
}

void Exchange::SendError(const ApiError& error) { Send(ErrorResponse(error)); }

void Exchange::StartEvents() {
  net::StreamHead head;
  head.headers = headers_;
  head.headers.Set("Content-Type", "text/event-stream; charset=utf-8");
  head.headers.Set("Cache-Control", "no-cache");
  head.headers.Set("X-Accel-Buffering", "no");  // asks nginx not to collect the stream
  head.heartbeat = net::SseComment("");
  head.heartbeat_interval = kHeartbeatInterval;
  metrics_->CountHttp(route_, head.status);
  responder_->StartStream(std::move(head));
}

net::Response ErrorResponse(const ApiError& error) {
  net::Response response = net::JsonResponse(error.status, json::Serialize(error.ToJson()));
  if (error.retry_after_s) {
    response.headers.Set("Retry-After", std::to_string(*error.retry_after_s));
  }
  return response;
}

}  // namespace halfmoon::serve
