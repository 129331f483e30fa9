// SPDX-License-Identifier: Apache-2.0
// Logging to stderr through spdlog; stdout belongs to answers. Thread-safe.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

#include "base/result.h"

namespace halfmoon {

/// Sends logs to stderr in halfmoon's pattern. Call once, first thing in main.
/// level: trace, debug, info, warning, error or off.
Status InitLogging(std::string_view level);

}  // namespace halfmoon

#define HM_LOG_DEBUG(...) ::spdlog::debug(__VA_ARGS__)
#define HM_LOG_INFO(...) ::spdlog::info(__VA_ARGS__)
#define HM_LOG_WARN(...) ::spdlog::warn(__VA_ARGS__)
#define HM_LOG_ERROR(...) ::spdlog::error(__VA_ARGS__)
