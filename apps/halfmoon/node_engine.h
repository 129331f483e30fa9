// SPDX-License-Identifier: Apache-2.0
// The engine of this process, as the cluster wants it.
#pragma once

#include <memory>

#include "cluster/engine_handle.h"
#include "engine/engine.h"
#include "serve/backend.h"
#include "store/block_store.h"

namespace halfmoon::app {

/// engine (with local pages) and backend outlive it.
std::unique_ptr<cluster::EngineHandle> MakeNodeEngine(engine::Engine* engine,
                                                      const serve::Backend* backend,
                                                      store::BlockStore* store);

}  // namespace halfmoon::app
