// SPDX-License-Identifier: Apache-2.0
#include "serve/service_class.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

namespace halfmoon::serve {
namespace {

constexpr std::array<std::string_view, 6> kKnownTiers = {"auto",     "default", "flex",
                                                         "priority", "scale",   "standard_only"};
// More than any wait that somebody would promise, and far from overflow.
constexpr double kMostSeconds = 1e7;

Error Malformed(std::string_view text, const std::string& what) {
  return Error(ErrorCode::kInvalidArgument,
               "the class \"" + std::string(text) + "\": " + what +
                   "; it has to be NAME[,priority=N][,ttft=SECONDS][,tbt=MILLISECONDS]");
}

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<TimeUs> Limit(std::string_view text, double unit_us) {
  const std::optional<double> value = Number<double>(text);
  if (!value.has_value() || !(*value >= 0.0 && *value <= kMostSeconds)) return std::nullopt;
  return static_cast<TimeUs>(*value * unit_us);
}

bool ReadSetting(std::string_view key, std::string_view value, ServiceClass* made) {
  if (key == "priority") {
    const std::optional<int32_t> priority = Number<int32_t>(value);
    made->priority = priority.value_or(0);
    return priority.has_value();
  }
  if (key != "ttft" && key != "tbt") return false;
  const std::optional<TimeUs> limit = Limit(value, key == "ttft" ? 1e6 : 1e3);
  (key == "ttft" ? made->ttft_us : made->tbt_us) = limit.value_or(0);
  return limit.has_value();
}

}  // namespace

Result<ServiceClass> ParseServiceClass(std::string_view text) {
  ServiceClass made;
  const size_t name_end = std::min(text.find(','), text.size());
  made.name = text.substr(0, name_end);
  if (made.name.empty()) return Malformed(text, "it has no name");
  for (size_t at = name_end; at < text.size();) {
    const size_t end = std::min(text.find(',', at + 1), text.size());
    const std::string_view setting = text.substr(at + 1, end - at - 1);
    const size_t equals = std::min(setting.find('='), setting.size());
    const std::string_view value = setting.substr(std::min(equals + 1, setting.size()));
    if (!ReadSetting(setting.substr(0, equals), value, &made)) {
      return Malformed(text, "\"" + std::string(setting) + "\" is no setting");
    }
    at = end;
  }
  return made;
}

Result<const ServiceClass*> FindServiceClass(std::span<const ServiceClass> classes,
                                             std::string_view tier) {
  const auto named = std::ranges::find(classes, tier, &ServiceClass::name);
  if (named != classes.end()) return &*named;
  if (tier.empty() || std::ranges::find(kKnownTiers, tier) != kKnownTiers.end()) {
    return &classes.front();
  }
  std::string known;
  for (const ServiceClass& each : classes) known += (known.empty() ? "'" : ", '") + each.name + "'";
  return Error(ErrorCode::kNotFound, "there is no class '" + std::string(tier.substr(0, 200)) +
                                         "' here; there are: " + known);
}

engine::Service ServiceOf(const ServiceClass& service_class, int32_t priority) {
  constexpr int64_t kAbovePriorities = int64_t{1} << 32;
  return {.priority = service_class.priority * kAbovePriorities + priority,
          .ttft_limit_us = service_class.ttft_us,
          .tbt_limit_us = service_class.tbt_us};
}

}  // namespace halfmoon::serve
