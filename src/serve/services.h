// SPDX-License-Identifier: Apache-2.0
// What handlers work with: the parts of one server, built by it and outlived by it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "serve/id_source.h"
#include "serve/metrics.h"
#include "serve/server_options.h"
#include "serve/server_state.h"
#include "serve/session_loop.h"

namespace halfmoon::serve {

struct Services {
  const ServerOptions* options = nullptr;
  const Clock* clock = nullptr;
  Metrics* metrics = nullptr;
  ServerState* state = nullptr;
  IdSource* ids = nullptr;
  SessionLoop* sessions = nullptr;

  /// Names the model goes by, the default first; none while it is not known.
  std::vector<std::string> ModelNames() const;

  /// The name to answer with, or 404 model_not_found. An empty `wanted` is the default.
  std::optional<ApiError> ResolveModel(std::string_view wanted, std::string& name) const;

  /// The class that a request asks for, or 400.
  std::optional<ApiError> ResolveClass(std::string_view tier, ServiceClass& service_class) const;
};

}  // namespace halfmoon::serve
