// SPDX-License-Identifier: Apache-2.0
// Where caches, endpoints, tokens and proxies are, from the variables that the hubs' own tools
// read.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace halfmoon::hub {

/// Value of a variable; nullopt where it is not set. An empty value counts as not set.
using GetVariable = std::function<std::optional<std::string>(const char* name)>;

/// Plain data; immutable by convention once made.
struct Environment {
  /// HF_HUB_CACHE > HUGGINGFACE_HUB_CACHE > $HF_HOME/hub > $XDG_CACHE_HOME/huggingface/hub >
  /// ~/.cache/huggingface/hub.
  std::filesystem::path hf_cache;
  /// $MODELSCOPE_CACHE or ~/.cache/modelscope.
  std::filesystem::path modelscope_cache;
  /// $OLLAMA_MODELS, or those of ~/.ollama/models and /usr/share/ollama/.ollama/models.
  std::vector<std::filesystem::path> ollama_models;

  std::string hf_endpoint;  ///< HF_ENDPOINT or https://huggingface.co; no slash at the end
  std::string hf_token;     ///< HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file HF_TOKEN_PATH
  bool offline = false;     ///< HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is 1, on, yes or true
  std::string modelscope_endpoint;  ///< MODELSCOPE_ENDPOINT, MODELSCOPE_DOMAIN or the hub itself
  std::string modelscope_token;     ///< MODELSCOPE_API_TOKEN

  std::string http_proxy;             ///< http_proxy, all_proxy: URL; empty: none
  std::string https_proxy;            ///< https_proxy, all_proxy
  std::vector<std::string> no_proxy;  ///< no_proxy: hosts, ".domains", or "*"

  static Environment From(const GetVariable& get);
  /// From the variables of this process.
  static Environment FromProcess();

  /// The proxy for a URL of that kind and host; empty where none is to be used.
  std::string ProxyFor(bool tls, std::string_view host) const;
};

}  // namespace halfmoon::hub
