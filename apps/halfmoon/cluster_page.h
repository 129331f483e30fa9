// SPDX-License-Identifier: Apache-2.0
// What a conductor shows of its cluster: a live page for people, the same as JSON, and metrics.
#pragma once

#include <string>

#include "cluster/front_door.h"

namespace halfmoon::app {

/// HTML that reads /cluster.json every second.
std::string ClusterPage();
/// In the text format of Prometheus.
std::string ClusterMetrics(const cluster::ClusterStatus& status);
std::string ClusterJson(const cluster::ClusterStatus& status, const std::string& membership);

}  // namespace halfmoon::app
