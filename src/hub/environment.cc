// SPDX-License-Identifier: Apache-2.0
#include "hub/environment.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/file.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

std::string Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool IsTrue(const std::string& value) {
  const std::string lower = Lower(value);
  return lower == "1" || lower == "on" || lower == "yes" || lower == "true";
}

std::string WithoutSlash(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  return url;
}

/// Reads variables with the home folder put in for a leading "~".
class Variables {
 public:
  explicit Variables(const GetVariable& get) : get_(get), home_(Value("HOME")) {
    if (home_.empty()) home_ = "/";
  }

  std::string Value(const char* name) const { return Trimmed(get_(name).value_or("")); }

  /// The first that is set.
  std::string First(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (std::string value = Value(name); !value.empty()) return value;
    }
    return "";
  }

  fs::path Path(std::initializer_list<const char*> names, const fs::path& otherwise) const {
    const std::string value = First(names);
    if (value.empty()) return otherwise;
    if (value == "~" || value.starts_with("~/"))
      return home() / value.substr(std::min<size_t>(2, value.size()));
    return value;
  }

  fs::path home() const { return home_; }

 private:
  const GetVariable& get_;
  std::string home_;
};

std::vector<std::string> SplitHosts(const std::string& list) {
  std::vector<std::string> hosts;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (std::string host = Lower(Trimmed(list.substr(begin, end - begin))); !host.empty()) {
      hosts.push_back(std::move(host));
    }
    begin = end + 1;
  }
  return hosts;
}

}  // namespace

Environment Environment::From(const GetVariable& get) {
  const Variables variables(get);
  Environment e;
  const fs::path caches = variables.Path({"XDG_CACHE_HOME"}, variables.home() / ".cache");
  const fs::path hf_home = variables.Path({"HF_HOME"}, caches / "huggingface");
  e.hf_cache = variables.Path({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}, hf_home / "hub");
  e.modelscope_cache =
      variables.Path({"MODELSCOPE_CACHE"}, variables.home() / ".cache" / "modelscope");
  const fs::path ollama = variables.Path({"OLLAMA_MODELS"}, "");
  if (!ollama.empty()) {
    e.ollama_models = {ollama};
  } else {
    e.ollama_models = {variables.home() / ".ollama" / "models", "/usr/share/ollama/.ollama/models"};
  }

  e.hf_endpoint = WithoutSlash(variables.Value("HF_ENDPOINT"));
  if (e.hf_endpoint.empty()) e.hf_endpoint = "https://huggingface.co";
  e.hf_token = variables.First({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  if (e.hf_token.empty()) {
    constexpr size_t kMaxTokenBytes = 4096;
    const Result<std::string> stored =
        ReadTextFile(variables.Path({"HF_TOKEN_PATH"}, hf_home / "token"), kMaxTokenBytes);
    if (stored.ok()) e.hf_token = Trimmed(*stored);
  }
  e.offline = IsTrue(variables.First({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  e.modelscope_endpoint =
      WithoutSlash(variables.First({"MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"}));
  if (e.modelscope_endpoint.empty()) e.modelscope_endpoint = "https://modelscope.cn";
  if (e.modelscope_endpoint.find("://") == std::string::npos) {
    e.modelscope_endpoint = "https://" + e.modelscope_endpoint;
  }
  e.modelscope_token = variables.Value("MODELSCOPE_API_TOKEN");

  // HTTP_PROXY in capitals is left alone, as curl does: a CGI server sets it from a request.
  e.http_proxy = variables.First({"http_proxy", "all_proxy", "ALL_PROXY"});
  e.https_proxy = variables.First({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"});
  e.no_proxy = SplitHosts(variables.First({"no_proxy", "NO_PROXY"}));
  return e;
}

Environment Environment::FromProcess() {
  return From([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

std::string Environment::ProxyFor(bool tls, std::string_view host) const {
  const std::string& proxy = tls ? https_proxy : http_proxy;
  if (proxy.empty()) return "";
  const std::string lower = Lower(std::string(host));
  for (const std::string& entry : no_proxy) {
    if (entry == "*" || entry == lower) return "";
    const std::string domain = entry.starts_with('.') ? entry : "." + entry;
    if (lower.ends_with(domain)) return "";
  }
  return proxy;
}

}  // namespace halfmoon::hub
