// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <string>

namespace halfmoon {

Status InitLogging(std::string_view level) {
  const std::string name(level);
  const spdlog::level::level_enum parsed = spdlog::level::from_str(name);
  // from_str answers "off" for anything it does not know.
  if (parsed == spdlog::level::off && name != "off") {
    return Error(ErrorCode::kInvalidArgument,
                 "log level '" + name + "' is not one of trace, debug, info, warning, error, off");
  }
  // The colour sink writes escapes only when stderr is a terminal.
  auto logger =
      std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(parsed);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

}  // namespace halfmoon
