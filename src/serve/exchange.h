// SPDX-License-Identifier: Apache-2.0
// One HTTP exchange as the handlers see it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "net/http_server.h"
#include "serve/api_error.h"
#include "serve/in_flight.h"
#include "serve/metrics.h"

namespace halfmoon::serve {

/// Where the answer to one request goes: net's responder, plus what every answer of this server has
/// (CORS fields, a request id) and is counted by. Handed from thread to thread, used by one at a
/// time. Dropping it unanswered gives the client a 500.
class Exchange {
 public:
  /// metrics and in_flight outlive the exchange. route: for metrics. headers: added to every
  /// answer.
  Exchange(std::shared_ptr<net::Responder> responder, Metrics* metrics, InFlight* in_flight,
           std::string route, net::Headers headers);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange();

  void Send(net::Response response);
  void SendJson(int status, const json::object& body);
  void SendError(const ApiError& error);

  /// Begins a stream of server-sent events.
  void StartEvents();
  net::WriteResult Write(std::string_view chunk) { return responder_->Write(chunk); }
  void Finish() { responder_->Finish(); }

  /// As Responder's.
  void OnDrained(std::function<void()> callback) { responder_->OnDrained(std::move(callback)); }
  void OnDisconnect(std::function<void()> callback) {
    responder_->OnDisconnect(std::move(callback));
  }
  bool disconnected() const { return responder_->disconnected(); }

 private:
  const std::shared_ptr<net::Responder> responder_;
  Metrics* const metrics_;
  InFlight* const in_flight_;
  const std::string route_;
  const net::Headers headers_;
};

/// The response to an error, with Retry-After where it has one.
net::Response ErrorResponse(const ApiError& error);

}  // namespace halfmoon::serve
