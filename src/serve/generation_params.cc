// SPDX-License-Identifier: Apache-2.0
#include "serve/generation_params.h"

#include <charconv>
#include <limits>
#include <utility>

#include "serve/limits.h"

namespace halfmoon::serve {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void ReadSampling(FieldReader& reader, engine::SamplingParams& sampling) {
  const auto set = [](float& field, std::optional<double> value) {
    if (value) field = static_cast<float>(*value);
  };
  set(sampling.temperature, reader.Double("temperature", 0, 100));
  if (const auto top_p = reader.Double("top_p", 0, 1)) {
    if (*top_p > 0) {
      sampling.top_p = static_cast<float>(*top_p);
    } else {
      reader.FailField("top_p",
                       "'top_p' has to be above 0 and at most 1; for greedy decoding set "
                       "'temperature' to 0");
    }
  }
  if (const auto top_k = reader.Int("top_k", -1, kMaxInt32)) {
    sampling.top_k = *top_k < 0 ? 0 : static_cast<int32_t>(*top_k);  // -1 is vLLM's word for all
  }
  set(sampling.min_p, reader.Double("min_p", 0, 1));
  set(sampling.repetition_penalty, reader.Double("repetition_penalty", 0.01, 100));
  set(sampling.presence_penalty, reader.Double("presence_penalty", -2, 2));
  set(sampling.frequency_penalty, reader.Double("frequency_penalty", -2, 2));
}

void ReadLogitBias(FieldReader& reader, engine::SamplingParams& sampling) {
  const json::object* biases = reader.Object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kMaxLogitBias) {
    return reader.FailField("logit_bias", "'logit_bias' has " + std::to_string(biases->size()) +
                                              " entries; at most " + std::to_string(kMaxLogitBias) +
                                              " are allowed");
  }
  for (const auto& [key, value] : *biases) {
    const std::string_view digits(key.data(), key.size());
    int32_t id = -1;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (code != std::errc() || end != digits.data() + digits.size() || id < 0) {
      return reader.FailField("logit_bias", "'logit_bias' has the key '" + std::string(digits) +
                                                "', which is not a token id");
    }
    const double bias = value.is_number() ? value.to_number<double>() : 1e9;
    if (!(bias >= -100 && bias <= 100)) {
      return reader.FailField("logit_bias", "'logit_bias' of token " + std::string(digits) +
                                                " has to be a number from -100 to 100");
    }
    sampling.logit_bias.emplace_back(id, static_cast<float>(bias));
  }
}

void AddStop(FieldReader& reader, const json::value& value, std::vector<std::string>& stop) {
  if (!value.is_string() || value.as_string().empty()) {
    return reader.FailField("stop", "'stop' has to be a string or a list of strings, none empty");
  }
  if (value.as_string().size() > kMaxStopBytes) {
    return reader.FailField(
        "stop", "'stop' has a string of " + std::to_string(value.as_string().size()) +
                    " bytes; at most " + std::to_string(kMaxStopBytes) + " are allowed");
  }
  stop.emplace_back(value.as_string());
}

void ReadStop(FieldReader& reader, std::vector<std::string>& stop) {
  const json::value* value = reader.Any("stop");
  if (value == nullptr) return;
  if (!value->is_array()) return AddStop(reader, *value, stop);
  if (value->as_array().size() > kMaxStopStrings) {
    return reader.FailField("stop", "'stop' has " + std::to_string(value->as_array().size()) +
                                        " strings; at most " + std::to_string(kMaxStopStrings) +
                                        " are allowed");
  }
  for (const json::value& element : value->as_array()) AddStop(reader, element, stop);
}

void ReadSeed(FieldReader& reader, std::optional<uint64_t>& seed) {
  // Any 64-bit pattern is a seed; negative numbers count as their two's complement.
  const json::value* value = reader.Any("seed");
  if (value == nullptr) return;
  if (value->is_uint64()) {
    seed = value->as_uint64();
  } else if (const auto number = reader.Int("seed", std::numeric_limits<int64_t>::min(),
                                            std::numeric_limits<int64_t>::max())) {
    seed = static_cast<uint64_t>(*number);
  }
}

void ReadResponseFormat(FieldReader& reader, std::optional<GrammarSpec>& grammar) {
  const json::object* format = reader.Object("response_format");
  if (format == nullptr) return;
  FieldReader fields(*format, "response_format.");
  const std::string type = fields.String("type").value_or("");
  if (type == "json_object") {
    grammar =
        GrammarSpec{text::GrammarKind::kJsonSchema, R"({"type":"object"})", "response_format"};
  } else if (type == "json_schema") {
    const json::object* wrapper = fields.Object("json_schema");
    const json::value* schema = wrapper == nullptr ? nullptr : wrapper->if_contains("schema");
    if (schema == nullptr || !(schema->is_object() || schema->is_bool())) {
      fields.FailField("json_schema",
                       "'response_format.json_schema.schema' has to be a JSON schema");
    } else {
      grammar =
          GrammarSpec{text::GrammarKind::kJsonSchema, json::Serialize(*schema), "response_format"};
    }
  } else if (fields.ok() && type != "text") {
    fields.FailField("type",
                     "'response_format.type' has to be 'text', 'json_object' or "
                     "'json_schema', found '" +
                         type + "'");
  }
  if (!fields.ok()) reader.Fail(*fields.error());
}

void ReadStreamOptions(FieldReader& reader, GenerationParams& params) {
  const json::object* options = reader.Object("stream_options");
  if (options == nullptr) return;
  if (!params.stream) {
    return reader.FailField("stream_options", "'stream_options' needs 'stream': true");
  }
  FieldReader fields(*options, "stream_options.");
  params.include_usage = fields.Bool("include_usage").value_or(false);
  if (!fields.ok()) reader.Fail(*fields.error());
}

/// Fields of OpenAI, vLLM, SGLang and llama.cpp that shape the output and are not honoured here.
/// With the value that asks for nothing they pass.
void RefuseUnsupported(FieldReader& reader) {
  constexpr std::string_view kNo =
      "this server cannot honour it, and ignoring it would change the answer";
  reader.RefuseUnless("min_tokens", "0", kNo);
  reader.RefuseUnless("use_beam_search", "false", kNo);
  reader.RefuseUnless("prompt_logprobs", "", "use 'echo' with 'logprobs' on /v1/completions");
  reader.RefuseUnless("truncate_prompt_tokens", "", "prompts are never cut");
  reader.RefuseUnless("logits_processors", "[]", kNo);
  reader.RefuseUnless("allowed_token_ids", "", kNo);
  reader.RefuseUnless("bad_words", "[]", kNo);
  reader.RefuseUnless("typical_p", "1", kNo);
  reader.RefuseUnless("mirostat", "0", kNo);
  reader.RefuseUnless("dry_multiplier", "0", kNo);
  reader.RefuseUnless("xtc_probability", "0", kNo);
  reader.RefuseUnless("dynatemp_range", "0", kNo);
  for (const std::string_view field :
       {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
        "json_schema", "grammar", "regex", "ebnf", "structural_tag"}) {
    reader.RefuseUnless(field, "", "use 'response_format'");
  }
}

}  // namespace

std::vector<int32_t> ReadTokenIds(FieldReader& reader, const json::array& list,
                                  std::string_view param) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json::value& element : list) {
    if (!element.is_int64() || element.as_int64() < 0 || element.as_int64() > kMaxInt32) {
      reader.FailField(param, "'" + std::string(param) + "' has an element that is not a token id");
      return {};
    }
    ids.push_back(static_cast<int32_t>(element.as_int64()));
  }
  return ids;
}

GenerationParams ReadGenerationParams(FieldReader& reader, const engine::SamplingParams& defaults) {
  GenerationParams params;
  params.sampling = defaults;
  params.model = reader.String("model").value_or("");
  params.stream = reader.Bool("stream").value_or(false);
  ReadStreamOptions(reader, params);
  params.n = static_cast<int>(reader.Int("n", 1, kMaxChoices).value_or(1));
  ReadSampling(reader, params.sampling);
  ReadLogitBias(reader, params.sampling);
  ReadSeed(reader, params.seed);
  ReadStop(reader, params.stop);
  if (const json::array* ids = reader.Array("stop_token_ids")) {
    if (ids->size() > kMaxStopTokenIds) {
      reader.FailField("stop_token_ids", "'stop_token_ids' may have at most " +
                                             std::to_string(kMaxStopTokenIds) + " ids");
    } else {
      params.stop_token_ids = ReadTokenIds(reader, *ids, "stop_token_ids");
    }
  }
  if (const auto max_tokens = reader.Int("max_tokens", 0, kMaxInt32)) {
    params.max_tokens = static_cast<int32_t>(*max_tokens);
  }
  params.ignore_eos = reader.Bool("ignore_eos").value_or(false);
  params.skip_special_tokens = reader.Bool("skip_special_tokens").value_or(true);
  params.include_stop = reader.Bool("include_stop_str_in_output").value_or(false);
  params.return_token_ids = reader.Bool("return_token_ids").value_or(false);
  params.tokens_as_ids = reader.Bool("return_tokens_as_token_ids").value_or(false);
  params.cache_salt = reader.String("cache_salt").value_or("");
  params.service_tier = reader.String("service_tier").value_or("");
  params.priority = static_cast<int32_t>(
      reader.Int("priority", std::numeric_limits<int32_t>::min(), kMaxInt32).value_or(0));
  ReadResponseFormat(reader, params.grammar);
  if (params.grammar && params.ignore_eos) {
    reader.FailField("ignore_eos",
                     "'ignore_eos' cannot go with a 'response_format' that ends the output");
  }
  RefuseUnsupported(reader);
  return params;
}

}  // namespace halfmoon::serve
