// SPDX-License-Identifier: Apache-2.0
#include "serve/services.h"

#include <algorithm>
#include <memory>

namespace halfmoon::serve {

std::vector<std::string> Services::ModelNames() const {
  if (!options->served_model_names.empty()) return options->served_model_names;
  const std::shared_ptr<const Backend> backend = state->backend();
  return backend == nullptr ? std::vector<std::string>()
                            : std::vector<std::string>{backend->info().name};
}

std::optional<ApiError> Services::ResolveModel(std::string_view wanted, std::string& name) const {
  const std::vector<std::string> names = ModelNames();
  if (wanted.empty() && !names.empty()) {
    name = names.front();
    return std::nullopt;
  }
  if (std::ranges::find(names, wanted) != names.end()) {
    name = wanted;
    return std::nullopt;
  }
  std::string served;
  for (const std::string& known : names) served += (served.empty() ? "`" : ", `") + known + "`";
  ApiError error;
  error.status = 404;
  error.message = "the model `" + std::string(wanted.substr(0, 200)) +
                  "` does not exist; served here: " + (served.empty() ? "none yet" : served);
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

std::optional<ApiError> Services::ResolveClass(std::string_view tier,
                                               ServiceClass& service_class) const {
  const Result<const ServiceClass*> found = FindServiceClass(options->classes, tier);
  if (!found.ok()) return InvalidField("service_tier", found.error().message());
  service_class = **found;
  return std::nullopt;
}

}  // namespace halfmoon::serve
