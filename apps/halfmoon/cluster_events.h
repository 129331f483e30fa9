// SPDX-License-Identifier: Apache-2.0
// Requests and events of the engine as those of the cluster, and back: the two areas do not know
// each other.
#pragma once

#include "cluster/messages.h"
#include "engine/engine.h"

namespace halfmoon::app {

/// All but hooks, export and source, which stay in their process.
cluster::GenerateRequest ToCluster(const engine::Request& request);
engine::Request ToEngine(const cluster::GenerateRequest& request);
engine::Service ServiceOf(const cluster::Turn& turn);

cluster::Event ToCluster(engine::Event event);
engine::Event ToEngine(cluster::Event event);

}  // namespace halfmoon::app
