// SPDX-License-Identifier: Apache-2.0
// Classes of requests: who goes first, and what each class is promised.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"

namespace halfmoon::serve {

/// Requests name theirs in "service_tier".
struct ServiceClass {
  std::string name = "default";
  int32_t priority = 0;  ///< smaller ones go first
  TimeUs ttft_us = 0;    ///< limit of the time to the first token; 0: none
  TimeUs tbt_us = 0;     ///< limit of the time between tokens; 0: none
};

/// Reads "NAME[,priority=N][,ttft=SECONDS][,tbt=MILLISECONDS]". Errors: kInvalidArgument.
Result<ServiceClass> ParseServiceClass(std::string_view text);

/// The class that a request asks for. The first is that of requests that name none, and of the
/// tiers that OpenAI's clients know ("auto", "default", "flex", "priority", "scale",
/// "standard_only") where no class has such a name. Errors: kNotFound, naming the classes there
/// are. Requires a class.
Result<const ServiceClass*> FindServiceClass(std::span<const ServiceClass> classes,
                                             std::string_view tier);

/// What the engine is told of a request of the class. Its own priority orders it among those of
/// classes with the same priority.
engine::Service ServiceOf(const ServiceClass& service_class, int32_t priority);

}  // namespace halfmoon::serve
