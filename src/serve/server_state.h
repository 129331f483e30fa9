// SPDX-License-Identifier: Apache-2.0
// Whether requests can be answered, and by what.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/json.h"
#include "serve/api_error.h"
#include "serve/backend.h"

namespace halfmoon::serve {

enum class Phase { kLoading, kReady, kFailed, kDraining };

/// Thread-safe.
class ServerState {
 public:
  /// clock outlives the state.
  explicit ServerState(const Clock* clock);

  void SetLoadProgress(size_t done, size_t total);
  void SetReady(std::shared_ptr<const Backend> backend);
  void SetFailed(const Error& error);
  void BeginDrain();

  Phase phase() const;
  /// What was given to SetReady, also while draining; null before.
  std::shared_ptr<const Backend> backend() const;

  /// nullopt when requests are taken; else the 503 that says why not, and when to come back.
  std::optional<ApiError> Refusal() const;

  /// The document of /ready: status, and progress or error.
  json::object Describe() const;

 private:
  double FractionLocked() const;

  const Clock* const clock_;
  const TimeUs start_us_;
  mutable std::mutex mutex_;
  Phase phase_ = Phase::kLoading;           // GUARDED_BY(mutex_)
  size_t done_ = 0;                         // GUARDED_BY(mutex_)
  size_t total_ = 0;                        // GUARDED_BY(mutex_)
  std::string failure_;                     // GUARDED_BY(mutex_)
  std::shared_ptr<const Backend> backend_;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::serve
