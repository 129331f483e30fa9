// SPDX-License-Identifier: Apache-2.0
// The cluster as an engine: what the HTTP API of a conductor stands on.
#pragma once

#include <memory>

#include "cluster/front_door.h"
#include "engine/engine.h"

namespace halfmoon::app {

/// The front door outlives it.
std::unique_ptr<engine::Engine> MakeClusterEngine(cluster::FrontDoor* door);

}  // namespace halfmoon::app
