// SPDX-License-Identifier: Apache-2.0
// The endpoints that need the model. All run on worker threads.
#pragma once

#include <memory>

#include "base/clock.h"
#include "net/http.h"
#include "serve/exchange.h"
#include "serve/services.h"

namespace halfmoon::serve {

/// Each answers `exchange`, or adds a session that will. arrival_us: when the request came in.
void HandleChat(const Services& services, const net::Request& request,
                const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us);
void HandleCompletion(const Services& services, const net::Request& request,
                      const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us);
void HandleTokenize(const Services& services, const net::Request& request,
                    const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us);
void HandleDetokenize(const Services& services, const net::Request& request,
                      const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us);

}  // namespace halfmoon::serve
