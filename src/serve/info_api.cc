// SPDX-License-Identifier: Apache-2.0
#include "serve/info_api.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "serve/exchange.h"

namespace halfmoon::serve {
namespace {

net::Response Json(int status, const json::object& document) {
  return net::JsonResponse(status, json::Serialize(document));
}

json::object ModelJson(const Services& services, const std::string& name) {
  json::object model;
  model["id"] = name;
  model["object"] = "model";
  model["owned_by"] = "halfmoon";
  const std::shared_ptr<const Backend> backend = services.state->backend();
  model["created"] = backend == nullptr ? 0 : backend->ready_unix_s();
  if (backend != nullptr) {
    const ModelInfo& info = backend->info();
    model["root"] = info.name;
    model["max_model_len"] = backend->engine().max_request_tokens();
    if (!info.license.empty()) model["license"] = info.license;
    if (!info.license_note.empty()) model["license_note"] = info.license_note;
  }
  return model;
}

}  // namespace

net::Response HealthPage() {
  json::object document;
  document["status"] = "ok";
  return Json(200, document);
}

net::Response ReadyPage(const Services& services) {
  net::Response response =
      Json(services.state->phase() == Phase::kReady ? 200 : 503, services.state->Describe());
  if (const std::optional<ApiError> refusal = services.state->Refusal();
      refusal && refusal->retry_after_s) {
    response.headers.Set("Retry-After", std::to_string(*refusal->retry_after_s));
  }
  return response;
}

net::Response MetricsPage(const Services& services) {
  std::optional<engine::EngineStats> stats;
  if (const std::shared_ptr<const Backend> backend = services.state->backend()) {
    stats = backend->engine().Stats();
  }
  const std::vector<std::string> names = services.ModelNames();
  net::Response response =
      net::TextResponse(200, services.metrics->Print(stats, names.empty() ? "" : names.front()));
  if (services.options->more_metrics) response.body += services.options->more_metrics();
  response.headers.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  return response;
}

net::Response VersionPage(const Services& services) {
  json::object document;
  document["version"] = services.options->version;
  return Json(200, document);
}

net::Response ModelsPage(const Services& services) {
  json::array models;
  for (const std::string& name : services.ModelNames()) models.push_back(ModelJson(services, name));
  json::object document;
  document["object"] = "list";
  document["data"] = std::move(models);
  return Json(200, document);
}

net::Response ModelPage(const Services& services, std::string_view name) {
  std::string resolved;
  if (const std::optional<ApiError> error = services.ResolveModel(name, resolved)) {
    return ErrorResponse(*error);
  }
  return Json(200, ModelJson(services, resolved));
}

net::Response LandingPage(const Services& services, const std::string& url) {
  const bool keys = !services.options->api_keys.empty();
  const std::vector<std::string> names = services.ModelNames();
  // With keys, the name of the model is for those who have one.
  const std::string model = keys || names.empty() ? "MODEL" : names.front();
  json::object message;
  message["role"] = "user";
  message["content"] = "Hello!";
  json::object body;
  body["model"] = model;
  body["messages"] = json::array{std::move(message)};
  std::string text = "halfmoon " + services.options->version + "\n\n";
  text += "  model   " + model + "\n  API     " + url + "/v1  (OpenAI)\n";
  text += "  ready?  " + url + "/ready    metrics  " + url + "/metrics\n\n";
  text +=
      "curl:\n\n  curl " + url + "/v1/chat/completions -H 'Content-Type: application/json' \\\n";
  if (keys) text += "    -H 'Authorization: Bearer YOUR_KEY' \\\n";
  text += "    -d '" + json::Serialize(body) + "'\n\n";
  text += "Python (pip install openai):\n\n  from openai import OpenAI\n";
  text += "  client = OpenAI(base_url=\"" + url + "/v1\", api_key=\"" +
          (keys ? "YOUR_KEY" : "none") + "\")\n";
  text += "  stream = client.chat.completions.create(\n      model=" +
          json::Serialize(json::value(model)) +
          ", messages=[{\"role\": \"user\", \"content\": \"Hello!\"}], stream=True)\n";
  text += "  for chunk in stream:\n      print(chunk.choices[0].delta.content or \"\", end=\"\")\n";
  return net::TextResponse(200, std::move(text));
}

}  // namespace halfmoon::serve
