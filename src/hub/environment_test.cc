// SPDX-License-Identifier: Apache-2.0
#include "hub/environment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "base/temporary_folder_for_test.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

Environment Of(std::map<std::string, std::string> variables) {
  variables.emplace("HOME", "/h");
  return Environment::From([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

TEST(Environment, HuggingFaceCache_FollowsItsVariablesInOrder) {
  EXPECT_EQ(Of({}).hf_cache, "/h/.cache/huggingface/hub");
  std::map<std::string, std::string> set = {{"XDG_CACHE_HOME", "/xdg"}};
  EXPECT_EQ(Of(set).hf_cache, "/xdg/huggingface/hub");
  set["HF_HOME"] = "~/hf";
  EXPECT_EQ(Of(set).hf_cache, "/h/hf/hub");
  set["HUGGINGFACE_HUB_CACHE"] = "/old";
  EXPECT_EQ(Of(set).hf_cache, "/old");
  set["HF_HUB_CACHE"] = "/new";
  EXPECT_EQ(Of(set).hf_cache, "/new");
  set["HF_HUB_CACHE"] = " ";  // Empty counts as not set.
  EXPECT_EQ(Of(set).hf_cache, "/old");
}

TEST(Environment, OtherCaches_HaveTheirPlaces) {
  EXPECT_EQ(Of({}).modelscope_cache, "/h/.cache/modelscope");
  EXPECT_EQ(Of({{"MODELSCOPE_CACHE", "/ms"}}).modelscope_cache, "/ms");
  EXPECT_EQ(Of({}).ollama_models,
            (std::vector<fs::path>{"/h/.ollama/models", "/usr/share/ollama/.ollama/models"}));
  EXPECT_EQ(Of({{"OLLAMA_MODELS", "/o"}}).ollama_models, (std::vector<fs::path>{"/o"}));
}

TEST(Environment, Endpoints_LoseTheirSlashAndGetAScheme) {
  EXPECT_EQ(Of({}).hf_endpoint, "https://huggingface.co");
  EXPECT_EQ(Of({{"HF_ENDPOINT", "http://mirror:80/"}}).hf_endpoint, "http://mirror:80");
  EXPECT_EQ(Of({}).modelscope_endpoint, "https://modelscope.cn");
  EXPECT_EQ(Of({{"MODELSCOPE_DOMAIN", "www.modelscope.cn"}}).modelscope_endpoint,
            "https://www.modelscope.cn");
  EXPECT_EQ(
      Of({{"MODELSCOPE_DOMAIN", "a"}, {"MODELSCOPE_ENDPOINT", "http://b"}}).modelscope_endpoint,
      "http://b");
}

TEST(Environment, Token_ComesFromVariableElseFromTheFileOfTheHubsTools) {
  const TemporaryFolder folder;
  const std::string home = folder.path();
  EXPECT_EQ(Of({{"HF_HOME", home}}).hf_token, "");
  folder.Write("token", " hf_file\n");
  EXPECT_EQ(Of({{"HF_HOME", home}}).hf_token, "hf_file");
  EXPECT_EQ(Of({{"HF_TOKEN_PATH", home + "/token"}}).hf_token, "hf_file");
  EXPECT_EQ(Of({{"HF_HOME", home}, {"HF_TOKEN", "hf_variable"}}).hf_token, "hf_variable");
}

TEST(Environment, Offline_IsWhatTheHubsToolsTakeForYes) {
  for (const char* yes : {"1", "ON", "Yes", "true"}) {
    EXPECT_TRUE(Of({{"HF_HUB_OFFLINE", yes}}).offline) << yes;
  }
  for (const char* no : {"", "0", "off", "no"}) {
    EXPECT_FALSE(Of({{"HF_HUB_OFFLINE", no}}).offline) << no;
  }
  EXPECT_TRUE(Of({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
}

TEST(Environment, Proxy_IsChosenByKindAndHost) {
  const Environment e = Of({{"https_proxy", "http://p:1"},
                            {"no_proxy", "localhost, .corp.example,exact.example"},
                            {"HTTP_PROXY", "http://cgi:1"}});
  EXPECT_EQ(e.ProxyFor(true, "hub.example"), "http://p:1");
  EXPECT_EQ(e.ProxyFor(false, "hub.example"), "");
  for (const char* host : {"localhost", "A.corp.example", "exact.example", "sub.exact.example"}) {
    EXPECT_EQ(e.ProxyFor(true, host), "") << host;
  }
  EXPECT_EQ(e.ProxyFor(true, "notexact.example"), "http://p:1");
  EXPECT_EQ(Of({{"all_proxy", "http://p"}, {"no_proxy", "*"}}).ProxyFor(false, "h"), "");
}

TEST(Environment, OfThisProcess_IsRead) {
  ::setenv("HF_HUB_CACHE", "/of/this/process", 1);
  EXPECT_EQ(Environment::FromProcess().hf_cache, "/of/this/process");
  ::unsetenv("HF_HUB_CACHE");
}

}  // namespace
}  // namespace halfmoon::hub
