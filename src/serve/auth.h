// SPDX-License-Identifier: Apache-2.0
// Who may use the server.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/http.h"

namespace halfmoon::serve {

/// The API keys. Without any, everyone is let in. Immutable.
class ApiKeys {
 public:
  explicit ApiKeys(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  bool empty() const { return keys_.empty(); }

  /// Whether the "Authorization: Bearer" field carries one of the keys. Takes the same time for
  /// every wrong key of one length.
  bool Allow(const net::Headers& headers) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace halfmoon::serve
