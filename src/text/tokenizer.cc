// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "text/stream_decoder.h"
#include "text/textcore_bridge.h"

namespace halfmoon::text {
namespace {

// The largest published tokenizer.json is below 40 MB.
constexpr size_t kMaxFileBytes = 256u << 20;

// A file that may be missing: empty then.
Result<std::string> ReadOptional(const std::filesystem::path& path) {
  Result<std::string> text = ReadTextFile(path, kMaxFileBytes);
  if (!text.ok() && text.error().code() == ErrorCode::kNotFound) return std::string();
  return text;
}

// bos_token and eos_token are a string or an added-token object.
Result<std::optional<std::string>> FindTokenContent(const json::object& config,
                                                    std::string_view key) {
  const json::value* token = config.if_contains(key);
  if (token != nullptr && token->is_object())
    return json::FindString(token->get_object(), "content");
  return json::FindString(config, key);
}

textcore_tokenizer* Raw(void* handle) { return static_cast<textcore_tokenizer*>(handle); }

std::vector<textcore_view> ToViews(const std::vector<std::string>& strings) {
  std::vector<textcore_view> views;
  views.reserve(strings.size());
  for (const std::string& s : strings) views.push_back(ToView(s));
  return views;
}

}  // namespace

void Tokenizer::HandleDeleter::operator()(Handle* handle) const {
  textcore_tokenizer_free(Raw(handle));
}

Tokenizer::~Tokenizer() = default;

Tokenizer::Tokenizer(HandlePtr handle) : handle_(std::move(handle)) {
  textcore_table table;
  textcore_tokenizer_table(Raw(handle_.get()), &table);
  offsets_ = {table.offsets, table.count + 1};
  flags_ = {table.flags, table.count};
  table_ = {table.bytes, offsets_.back()};
  strip_leading_space_ = table.strip_leading_space;
  prefix_ids_.assign(table.prefix, table.prefix + table.prefix_count);
  suffix_ids_.assign(table.suffix, table.suffix + table.suffix_count);
  default_add_bos_ = table.add_bos;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json,
                                                       std::string_view tokenizer_config_json) {
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_tokenizer>([&](auto** out, textcore_bytes* error) {
              return textcore_tokenizer_from_json(ToView(tokenizer_json), out, error);
            })));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(handle)));
  HM_TRY(tokenizer->ApplyConfig(tokenizer_config_json));
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromTiktoken(std::string_view ranks,
                                                           std::string_view tokenizer_config_json,
                                                           std::string_view pattern_json) {
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_tokenizer>([&](auto** out, textcore_bytes* error) {
              return textcore_tokenizer_from_tiktoken(ToView(ranks), ToView(tokenizer_config_json),
                                                      ToView(pattern_json), out, error);
            })));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(handle)));
  HM_TRY(tokenizer->ApplyConfig(tokenizer_config_json));
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::LoadFromFolder(const std::filesystem::path& folder) {
  HM_ASSIGN(const std::string config, ReadOptional(folder / "tokenizer_config.json"));
  HM_ASSIGN(const std::string generation, ReadOptional(folder / "generation_config.json"));
  std::filesystem::path source = folder / "tokenizer.json";
  HM_ASSIGN(std::string text, ReadOptional(source));
  const bool is_tiktoken = text.empty();
  std::string pattern;
  if (is_tiktoken) {
    source = folder / "tiktoken.model";
    HM_ASSIGN(text, ReadOptional(source));
    if (text.empty()) {
      return Error(ErrorCode::kNotFound,
                   folder.string() + ": neither tokenizer.json nor tiktoken.model");
    }
    HM_ASSIGN(pattern, ReadOptional(folder / "tiktoken_pattern.json"));
  }
  HM_ASSIGN(std::unique_ptr<Tokenizer> tokenizer,
            (is_tiktoken ? FromTiktoken(text, config, pattern) : FromJson(text, config))
                .WithContext(source.string()));
  HM_TRY(tokenizer->AddGenerationEos(generation)
             .WithContext((folder / "generation_config.json").string()));
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufTokenizerSpec& spec) {
  const std::vector<textcore_view> tokens = ToViews(spec.tokens);
  const std::vector<textcore_view> merges = ToViews(spec.merges);
  const auto in_vocabulary = [&](const std::optional<int64_t>& id) {
    return !id || (*id >= 0 && *id < static_cast<int64_t>(spec.tokens.size()));
  };
  for (const auto& [name, id] : {std::pair("bos", spec.bos_id), std::pair("eos", spec.eos_id),
                                 std::pair("unknown", spec.unknown_id)}) {
    if (!in_vocabulary(id)) {
      return Error(ErrorCode::kCorrupt, std::string("tokenizer.ggml.") + name + "_token_id " +
                                            std::to_string(*id) + " is outside the vocabulary of " +
                                            std::to_string(spec.tokens.size()));
    }
  }
  textcore_gguf_vocabulary vocabulary = {};
  vocabulary.model = ToView(spec.model);
  vocabulary.pre = ToView(spec.pre);
  vocabulary.tokens = tokens.data();
  vocabulary.token_count = tokens.size();
  vocabulary.merges = merges.data();
  vocabulary.merge_count = merges.size();
  vocabulary.scores = spec.scores.data();
  vocabulary.score_count = spec.scores.size();
  vocabulary.token_types = spec.token_types.data();
  vocabulary.token_type_count = spec.token_types.size();
  vocabulary.unknown_id = static_cast<int32_t>(spec.unknown_id.value_or(0));
  vocabulary.has_unknown_id = spec.unknown_id.has_value();
  vocabulary.add_space_prefix = spec.add_space_prefix.value_or(true);
  HM_ASSIGN(HandlePtr handle,
            (Make<HandlePtr, textcore_tokenizer>([&](auto** out, textcore_bytes* error) {
              return textcore_tokenizer_from_gguf(&vocabulary, out, error);
            })));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(handle)));
  if (spec.bos_id) {
    tokenizer->bos_id_ = static_cast<int32_t>(*spec.bos_id);
    tokenizer->bos_token_ = spec.tokens[static_cast<size_t>(*spec.bos_id)];
  }
  if (spec.eos_id) {
    tokenizer->AddEosId(static_cast<int32_t>(*spec.eos_id));
    tokenizer->eos_token_ = spec.tokens[static_cast<size_t>(*spec.eos_id)];
  }
  tokenizer->SetAddBos(spec.add_bos.value_or(tokenizer->default_add_bos_));
  tokenizer->SetAddEos(spec.add_eos.value_or(false));
  return tokenizer;
}

Status Tokenizer::ApplyConfig(std::string_view tokenizer_config_json) {
  if (tokenizer_config_json.empty()) return {};
  constexpr std::string_view kFile = "tokenizer_config.json";
  HM_ASSIGN(const json::object config, json::ParseObject(tokenizer_config_json).WithContext(kFile));
  HM_ASSIGN(const auto bos, FindTokenContent(config, "bos_token").WithContext(kFile));
  HM_ASSIGN(const auto eos, FindTokenContent(config, "eos_token").WithContext(kFile));
  HM_ASSIGN(const auto add_bos, json::FindBool(config, "add_bos_token").WithContext(kFile));
  HM_ASSIGN(const auto add_eos, json::FindBool(config, "add_eos_token").WithContext(kFile));
  if (bos) {
    bos_token_ = *bos;
    bos_id_ = TokenId(*bos);
  }
  if (eos) {
    eos_token_ = *eos;
    if (const std::optional<int32_t> id = TokenId(*eos)) AddEosId(*id);
  }
  // What is written in the configuration overrides the post-processor of tokenizer.json, as in
  // transformers.
  if (add_bos) SetAddBos(*add_bos);
  if (add_eos) SetAddEos(*add_eos);
  return {};
}

Status Tokenizer::AddGenerationEos(std::string_view generation_config_json) {
  if (generation_config_json.empty()) return {};
  HM_ASSIGN(const json::object config, json::ParseObject(generation_config_json));
  const auto add = [&](const json::value& id) -> Status {
    boost::system::error_code failed;
    const int32_t number = id.to_number<int32_t>(failed);
    if (failed || number < 0) {
      return Error(ErrorCode::kCorrupt, "eos_token_id is not a token id or a list of them");
    }
    AddEosId(number);
    return {};
  };
  const json::value* eos = config.if_contains("eos_token_id");
  if (eos == nullptr || eos->is_null()) return {};
  if (!eos->is_array()) return add(*eos);
  for (const json::value& id : eos->get_array()) HM_TRY(add(id));
  return {};
}

void Tokenizer::SetAddBos(bool add) {
  if (!bos_id_) return;
  const bool has = !prefix_ids_.empty() && prefix_ids_.front() == *bos_id_;
  if (add && !has) prefix_ids_.insert(prefix_ids_.begin(), *bos_id_);
  if (!add && has) prefix_ids_.erase(prefix_ids_.begin());
}

void Tokenizer::SetAddEos(bool add) {
  const std::optional<int32_t> eos = TokenId(eos_token_);
  if (!eos) return;
  const bool has = !suffix_ids_.empty() && suffix_ids_.back() == *eos;
  if (add && !has) suffix_ids_.push_back(*eos);
  if (!add && has) suffix_ids_.pop_back();
}

void Tokenizer::AddEosId(int32_t id) {
  const auto at = std::lower_bound(eos_ids_.begin(), eos_ids_.end(), id);
  if (at == eos_ids_.end() || *at != id) eos_ids_.insert(at, id);
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  textcore_ids ids = {nullptr, 0};
  OwnedBytes error;
  const textcore_status status = textcore_tokenizer_encode(
      Raw(handle_.get()), ToView(text), options.parse_special, &ids, error.out());
  if (status != TEXTCORE_OK) return ToError(status, error);
  std::vector<int32_t> result;
  result.reserve(prefix_ids_.size() + ids.size + suffix_ids_.size());
  if (options.add_special_tokens) result = prefix_ids_;
  result.insert(result.end(), ids.data, ids.data + ids.size);
  textcore_ids_free(ids);
  if (options.add_special_tokens) {
    result.insert(result.end(), suffix_ids_.begin(), suffix_ids_.end());
  }
  return result;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, DecodeOptions options) const {
  // The incremental decoder is the definition: two ways to decode would be two chances to differ.
  StreamDecoder decoder(*this, options);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= flags_.size()) return {};
  const size_t i = static_cast<size_t>(id);
  return table_.substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view content) const {
  int32_t id = 0;
  if (!textcore_tokenizer_token_id(Raw(handle_.get()), ToView(content), &id)) return std::nullopt;
  return id;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < flags_.size() &&
         (flags_[static_cast<size_t>(id)] & TEXTCORE_TOKEN_SPECIAL) != 0;
}

}  // namespace halfmoon::text
