// SPDX-License-Identifier: Apache-2.0
// The endpoints that tell about the server. Quick enough for IO threads: none waits or computes.
#pragma once

#include <string>
#include <string_view>

#include "net/http.h"
#include "serve/services.h"

namespace halfmoon::serve {

net::Response HealthPage();
net::Response ReadyPage(const Services& services);
net::Response MetricsPage(const Services& services);
net::Response VersionPage(const Services& services);
net::Response ModelsPage(const Services& services);
/// name: what follows "/v1/models/".
net::Response ModelPage(const Services& services, std::string_view name);
/// Lines to paste. url: where this server listens.
net::Response LandingPage(const Services& services, const std::string& url);

}  // namespace halfmoon::serve
