// SPDX-License-Identifier: Apache-2.0
#include "serve/generation_api.h"

#include <optional>
#include <utility>
#include <variant>

#include "serve/generation_session.h"
#include "serve/openai_request.h"
#include "serve/prepare.h"

namespace halfmoon::serve {
namespace {

/// The backend to work with; null when the request was refused.
std::shared_ptr<const Backend> Admit(const Services& services, Exchange& exchange) {
  if (exchange.disconnected()) return nullptr;
  // What was taken in before a shutdown began still runs.
  const Phase phase = services.state->phase();
  std::shared_ptr<const Backend> backend = services.state->backend();
  if (backend != nullptr && (phase == Phase::kReady || phase == Phase::kDraining)) return backend;
  if (const std::optional<ApiError> refusal = services.state->Refusal())
    exchange.SendError(*refusal);
  return nullptr;
}

template <typename RequestType, typename Prepare>
void Generate(const Services& services, const Backend& backend, RequestType request,
              const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us,
              const Prepare& prepare) {
  PrepareOptions options;
  options.max_output_tokens = services.options->max_output_tokens;
  if (const auto error = services.ResolveModel(request.params.model, options.model)) {
    return exchange->SendError(*error);
  }
  if (const auto error =
          services.ResolveClass(request.params.service_tier, options.service_class)) {
    return exchange->SendError(*error);
  }
  GenerationPlan plan;
  if (const auto error = prepare(backend, options, *services.ids, std::move(request), plan)) {
    return exchange->SendError(*error);
  }
  if (exchange->disconnected()) return;
  const SessionId id = services.sessions->NextId();
  std::unique_ptr<GenerationSession> session;
  if (const auto error =
          GenerationSession::Start(backend, std::move(plan), exchange, services.sessions->Waker(id),
                                   services.metrics, services.clock, arrival_us, session)) {
    return exchange->SendError(*error);
  }
  services.sessions->Add(id, std::move(session));
}

}  // namespace

void HandleChat(const Services& services, const net::Request& request,
                const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us) {
  const std::shared_ptr<const Backend> backend = Admit(services, *exchange);
  if (backend == nullptr) return;
  ChatRequest parsed;
  if (const auto error = ParseChatRequest(request.body, backend->info().sampling, parsed)) {
    return exchange->SendError(*error);
  }
  Generate(services, *backend, std::move(parsed), exchange, arrival_us, PrepareChat);
}

void HandleCompletion(const Services& services, const net::Request& request,
                      const std::shared_ptr<Exchange>& exchange, TimeUs arrival_us) {
  const std::shared_ptr<const Backend> backend = Admit(services, *exchange);
  if (backend == nullptr) return;
  CompletionRequest parsed;
  if (const auto error = ParseCompletionRequest(request.body, backend->info().sampling, parsed)) {
    return exchange->SendError(*error);
  }
  Generate(services, *backend, std::move(parsed), exchange, arrival_us, PrepareCompletion);
}

void HandleTokenize(const Services& services, const net::Request& request,
                    const std::shared_ptr<Exchange>& exchange, TimeUs) {
  const std::shared_ptr<const Backend> backend = Admit(services, *exchange);
  if (backend == nullptr) return;
  TokenizeRequest parsed;
  std::string model;
  std::optional<ApiError> error = ParseTokenizeRequest(request.body, parsed);
  if (!error) error = services.ResolveModel(parsed.model, model);
  if (error) return exchange->SendError(*error);

  const text::Tokenizer& tokenizer = backend->tokenizer();
  std::vector<int32_t> ids;
  if (const ChatPrompt* chat = std::get_if<ChatPrompt>(&parsed.prompt)) {
    if ((error = TokenizeChat(*backend, *chat, ids))) return exchange->SendError(*error);
  } else {
    Result<std::vector<int32_t>> encoded =
        tokenizer.Encode(std::get<std::string>(parsed.prompt),
                         {.add_special_tokens = parsed.add_special_tokens, .parse_special = true});
    if (!encoded.ok()) return exchange->SendError(FromError(encoded.error()));
    ids = std::move(*encoded);
  }
  json::object answer;
  answer["count"] = ids.size();
  answer["max_model_len"] = backend->engine().max_request_tokens();
  answer["tokens"] = json::array(ids.begin(), ids.end());
  if (parsed.return_token_strs) {
    json::array texts;
    for (const int32_t id : ids) texts.emplace_back(TokenText(tokenizer, id));
    answer["token_strs"] = std::move(texts);
  }
  exchange->SendJson(200, answer);
}

void HandleDetokenize(const Services& services, const net::Request& request,
                      const std::shared_ptr<Exchange>& exchange, TimeUs) {
  const std::shared_ptr<const Backend> backend = Admit(services, *exchange);
  if (backend == nullptr) return;
  DetokenizeRequest parsed;
  std::string model;
  std::optional<ApiError> error = ParseDetokenizeRequest(request.body, parsed);
  if (!error) error = services.ResolveModel(parsed.model, model);
  if (error) return exchange->SendError(*error);
  json::object answer;
  answer["prompt"] = backend->tokenizer().Decode(parsed.tokens);
  exchange->SendJson(200, answer);
}

}  // namespace halfmoon::serve
