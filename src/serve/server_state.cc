// SPDX-License-Identifier: Apache-2.0
#include "serve/server_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace halfmoon::serve {

ServerState::ServerState(const Clock* clock) : clock_(clock), start_us_(clock->NowUs()) {}

void ServerState::SetLoadProgress(size_t done, size_t total) {
  std::lock_guard lock(mutex_);
  done_ = done;
  total_ = total;
}

void ServerState::SetReady(std::shared_ptr<const Backend> backend) {
  std::lock_guard lock(mutex_);
  backend_ = std::move(backend);
  // A shutdown that began during the load stays one.
  if (phase_ != Phase::kDraining) phase_ = Phase::kReady;
}

void ServerState::SetFailed(const Error& error) {
  std::lock_guard lock(mutex_);
  failure_ = error.message();
  if (phase_ != Phase::kDraining) phase_ = Phase::kFailed;
}

void ServerState::BeginDrain() {
  std::lock_guard lock(mutex_);
  phase_ = Phase::kDraining;
}

Phase ServerState::phase() const {
  std::lock_guard lock(mutex_);
  return phase_;
}

std::shared_ptr<const Backend> ServerState::backend() const {
  std::lock_guard lock(mutex_);
  return backend_;
}

double ServerState::FractionLocked() const {
  return total_ == 0 ? 0 : std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
}

std::optional<ApiError> ServerState::Refusal() const {
  std::lock_guard lock(mutex_);
  ApiError error;
  error.status = 503;
  error.type = "server_error";
  switch (phase_) {
    case Phase::kReady:
      return std::nullopt;
    case Phase::kLoading: {
      const double fraction = FractionLocked();
      const double elapsed_s = static_cast<double>(clock_->NowUs() - start_us_) * 1e-6;
      // As long again as the missing part needs at the speed so far.
      const double rest_s = fraction > 0 ? elapsed_s * (1 - fraction) / fraction : 1;
      error.retry_after_s = static_cast<int>(std::clamp(std::ceil(rest_s), 1.0, 120.0));
      error.message = "the model is loading (" + std::to_string(static_cast<int>(fraction * 100)) +
                      " %); try again in " + std::to_string(*error.retry_after_s) + " s";
      error.code = "model_loading";
      return error;
    }
    case Phase::kFailed:
      error.message = "the model could not be loaded: " + failure_;
      error.code = "model_failed";
      return error;
    case Phase::kDraining:
      error.retry_after_s = 1;
      error.message = "the server is shutting down";
      error.code = "shutting_down";
      return error;
  }
  return error;
}

json::object ServerState::Describe() const {
  std::lock_guard lock(mutex_);
  json::object document;
  switch (phase_) {
    case Phase::kReady:
      document["status"] = "ready";
      break;
    case Phase::kLoading: {
      json::object progress;
      progress["done"] = done_;
      progress["total"] = total_;
      progress["fraction"] = FractionLocked();
      document["status"] = "loading";
      document["progress"] = std::move(progress);
      break;
    }
    case Phase::kFailed:
      document["status"] = "failed";
      document["error"] = failure_;
      break;
    case Phase::kDraining:
      document["status"] = "draining";
      break;
  }
  return document;
}

}  // namespace halfmoon::serve
