// SPDX-License-Identifier: Apache-2.0
#include "serve/prepare.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace halfmoon::serve {
namespace {

std::optional<ApiError> CheckIds(const Backend& backend, const GenerationParams& params) {
  const int32_t vocab_size = std::max(backend.info().vocab_size, backend.tokenizer().vocab_size());
  const auto outside = [&](int32_t id, const char* field) {
    return InvalidField(field, "'" + std::string(field) + "' has the token id " +
                                   std::to_string(id) + "; the vocabulary has " +
                                   std::to_string(vocab_size) + " tokens");
  };
  for (const auto& [id, bias] : params.sampling.logit_bias) {
    if (id >= vocab_size) return outside(id, "logit_bias");
  }
  for (const int32_t id : params.stop_token_ids) {
    if (id >= vocab_size) return outside(id, "stop_token_ids");
  }
  return std::nullopt;
}

ApiError TooLong(const std::string& param, size_t prompt_tokens, bool output_wanted,
                 int32_t max_tokens) {
  ApiError error = InvalidField(
      param, "the prompt has " + std::to_string(prompt_tokens) + " tokens" +
                 (output_wanted ? ", and at least one more is needed for the output" : "") +
                 ", but this model's maximum context length is " + std::to_string(max_tokens) +
                 " tokens");
  error.code = "context_length_exceeded";
  return error;
}

/// Adds the n choices of one prompt to `plan`.
std::optional<ApiError> AddChoices(const Backend& backend, const PrepareOptions& options,
                                   const GenerationParams& params, const std::string& param,
                                   const std::vector<int32_t>& prompt_ids, const ChoicePlan& base,
                                   GenerationPlan& plan) {
  if (prompt_ids.empty()) return InvalidField(param, "the prompt has no tokens");
  const int32_t context = backend.engine().max_request_tokens();
  const bool output_wanted = params.max_tokens != 0;
  if (static_cast<int64_t>(prompt_ids.size()) + (output_wanted ? 1 : 0) > context) {
    return TooLong(param, prompt_ids.size(), output_wanted, context);
  }
  const int32_t rest = context - static_cast<int32_t>(prompt_ids.size());
  int32_t limit = std::min(rest, params.max_tokens.value_or(rest));
  if (options.max_output_tokens > 0) limit = std::min(limit, options.max_output_tokens);

  for (int i = 0; i < params.n; ++i) {
    ChoicePlan choice = base;
    engine::Request& request = choice.options.request;
    request.prompt_ids = prompt_ids;
    request.max_tokens = limit;
    // The first choice draws as a request with n = 1 would; the others get streams of their own.
    if (i > 0) request.sampling.seed = MixBits(request.sampling.seed, static_cast<uint64_t>(i));
    if (params.grammar) {
      Result<std::shared_ptr<GrammarState>> grammar =
          backend.CompileGrammar(params.grammar->kind, params.grammar->source, request.stop_ids);
      if (!grammar.ok()) {
        ApiError error = FromError(grammar.error());
        error.param = params.grammar->param;
        return error;
      }
      choice.grammar = std::move(*grammar);
      GrammarState::Attach(choice.grammar, request);
      request.grammar = engine::GrammarSource{.kind = params.grammar->kind,
                                              .source = params.grammar->source,
                                              .eos_ids = request.stop_ids};
    }
    plan.choices.push_back(std::move(choice));
  }
  return std::nullopt;
}

/// What all choices of a request share.
ChoicePlan BaseChoice(const Backend& backend, const PrepareOptions& options, IdSource& ids,
                      const GenerationParams& params) {
  ChoicePlan choice;
  choice.options.stop = params.stop;
  choice.options.include_stop = params.include_stop;
  choice.options.skip_special = params.skip_special_tokens;
  engine::Request& request = choice.options.request;
  request.sampling = params.sampling;
  request.sampling.seed = params.seed.value_or(ids.NextRandom());
  request.num_logprobs = params.num_logprobs;
  request.cache_salt = params.cache_salt;
  request.service = ServiceOf(options.service_class, params.priority);
  if (!params.ignore_eos) request.stop_ids = backend.tokenizer().eos_ids();
  request.stop_ids.insert(request.stop_ids.end(), params.stop_token_ids.begin(),
                          params.stop_token_ids.end());
  return choice;
}

ResponseContext MakeContext(const Backend& backend, const PrepareOptions& options, std::string id,
                            const GenerationParams& params, const ChoicePlan& base) {
  ResponseContext context;
  context.id = std::move(id);
  context.created = UnixTimeSeconds();
  context.model = options.model;
  context.fingerprint = "fp_" + backend.info().fingerprint.substr(0, 12);
  context.tokenizer = &backend.tokenizer();
  if (!params.service_tier.empty()) context.service_tier = options.service_class.name;
  context.stream = params.stream;
  context.logprobs = params.num_logprobs >= 0;
  context.return_token_ids = params.return_token_ids;
  context.tokens_as_ids = params.tokens_as_ids;
  context.skip_special = params.skip_special_tokens;
  context.stop_ids = base.options.request.stop_ids;
  return context;
}

/// Cuts what the template printed after the last message, so that the model goes on with it.
std::optional<ApiError> CutAfterLastMessage(const ChatPrompt& prompt, std::string& rendered) {
  const json::object& last = prompt.messages.back().get_object();
  std::string_view content = last.at("content").get_string();
  constexpr std::string_view kSpace = " \t\r\n";
  // Templates trim content, so white space around it cannot be looked for.
  const size_t begin = content.find_first_not_of(kSpace);
  if (begin != std::string_view::npos) {
    content = content.substr(begin, content.find_last_not_of(kSpace) + 1 - begin);
    const size_t found = rendered.rfind(content);
    if (found != std::string::npos) {
      rendered.resize(found + content.size());
      return std::nullopt;
    }
  }
  return InvalidField(
      "continue_final_message",
      "the chat template does not print the last message as it is, so it cannot be continued");
}

}  // namespace

std::optional<ApiError> TokenizeChat(const Backend& backend, const ChatPrompt& prompt,
                                     std::vector<int32_t>& ids) {
  const text::ChatTemplate* chat_template = backend.chat_template();
  if (chat_template == nullptr) {
    ApiError error =
        InvalidField("messages", "this model has no chat template; use /v1/completions");
    error.code = "no_chat_template";
    return error;
  }
  const std::string messages = json::Serialize(prompt.messages);
  const std::string tools = prompt.tools.empty() ? "" : json::Serialize(prompt.tools);
  const std::string kwargs =
      prompt.template_kwargs.empty() ? "" : json::Serialize(prompt.template_kwargs);
  text::ChatInput input;
  input.messages_json = messages;
  input.tools_json = tools;
  input.add_generation_prompt = prompt.add_generation_prompt;
  input.bos_token = backend.tokenizer().bos_token();
  input.eos_token = backend.tokenizer().eos_token();
  input.extra_json = kwargs;
  input.now_unix_s = UnixTimeSeconds();
  Result<std::string> rendered = chat_template->Render(input);
  if (!rendered.ok()) {
    // Also where a bound of the renderer is met: trying again would end in the same.
    ApiError error = FromError(
        Error(ErrorCode::kInvalidArgument, "chat template: " + rendered.error().message()));
    error.param = "messages";
    return error;
  }
  if (prompt.continue_final_message) {
    if (auto error = CutAfterLastMessage(prompt, *rendered)) return error;
  }
  Result<std::vector<int32_t>> encoded = backend.tokenizer().Encode(
      *rendered, {.add_special_tokens = prompt.add_special_tokens, .parse_special = true});
  if (!encoded.ok()) return FromError(encoded.error());
  ids = std::move(*encoded);
  return std::nullopt;
}

std::optional<ApiError> PrepareChat(const Backend& backend, const PrepareOptions& options,
                                    IdSource& ids, const ChatRequest& request,
                                    GenerationPlan& plan) {
  const GenerationParams& params = request.params;
  if (auto error = CheckIds(backend, params)) return error;
  std::vector<int32_t> prompt_ids;
  if (auto error = TokenizeChat(backend, request.prompt, prompt_ids)) return error;
  const ChoicePlan base = BaseChoice(backend, options, ids, params);
  plan.choices_per_prompt = params.n;
  plan.include_usage = params.include_usage;
  plan.format =
      MakeChatFormat(MakeContext(backend, options, "chatcmpl-" + ids.NextId(), params, base));
  return AddChoices(backend, options, params, "messages", prompt_ids, base, plan);
}

std::optional<ApiError> PrepareCompletion(const Backend& backend, const PrepareOptions& options,
                                          IdSource& ids, CompletionRequest request,
                                          GenerationPlan& plan) {
  const GenerationParams& params = request.params;
  if (auto error = CheckIds(backend, params)) return error;
  const ChoicePlan base = BaseChoice(backend, options, ids, params);
  plan.choices_per_prompt = params.n;
  plan.include_usage = params.include_usage;
  const int num_choices = static_cast<int>(request.prompts.size()) * params.n;
  plan.format = MakeCompletionFormat(
      MakeContext(backend, options, "cmpl-" + ids.NextId(), params, base), num_choices);

  for (CompletionPrompt& prompt : request.prompts) {
    ChoicePlan choice = base;
    std::vector<int32_t> prompt_ids;
    if (auto* text = std::get_if<std::string>(&prompt)) {
      Result<std::vector<int32_t>> encoded = backend.tokenizer().Encode(
          *text, {.add_special_tokens = request.add_special_tokens, .parse_special = true});
      if (!encoded.ok()) return FromError(encoded.error());
      prompt_ids = std::move(*encoded);
      if (request.echo) choice.echo_text = std::move(*text);
    } else {
      prompt_ids = std::move(std::get<std::vector<int32_t>>(prompt));
      if (request.echo) {
        choice.echo_text =
            backend.tokenizer().Decode(prompt_ids, {.skip_special = params.skip_special_tokens});
      }
    }
    choice.echo_logprobs = request.echo && params.num_logprobs >= 0;
    choice.options.request.prompt_logprobs = choice.echo_logprobs;
    if (auto error = AddChoices(backend, options, params, "prompt", prompt_ids, choice, plan)) {
      return error;
    }
  }
  return std::nullopt;
}

}  // namespace halfmoon::serve
