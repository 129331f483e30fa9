// SPDX-License-Identifier: Apache-2.0
// Pulls from a hub in this process: what tests/e2e/test_hub.py cannot arrange from outside.
#include "hub/pull.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>

#include "base/file.h"
#include "base/json.h"
#include "base/temporary_folder_for_test.h"
#include "net/digest.h"
#include "net/http_server.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::string kCommit(40, 'c');

std::string Sha256(const std::string& content) {
  auto digest = net::Digest::Start(net::DigestKind::kSha256);
  digest->Update(content);
  return digest->Finish();
}

/// Hugging Face with one repository; each file can have an answer of its own.
class PullTest : public ::testing::Test {
 protected:
  using Answer = std::function<void(const net::Request&, std::shared_ptr<net::Responder>)>;

  PullTest() {
    auto server = net::HttpServer::Start(
        {.max_stream_buffer_bytes = 8 << 20},
        [this](net::Request request, std::shared_ptr<net::Responder> responder) {
          Serve(request, std::move(responder));
        });
    HM_CHECK(server.ok());
    server_ = std::move(server).value();
    environment_.hf_cache = folder_.path() / "hf";
    environment_.modelscope_cache = folder_.path() / "ms";
    environment_.ollama_models = {folder_.path() / "ollama"};
    environment_.hf_endpoint = server_->url();
    options_.fetch.max_attempts = 3;
    options_.fetch.sleep = [this](std::chrono::milliseconds pause) { slept_.push_back(pause); };
    files_ = {{"config.json", "{}"}, {"model.safetensors", std::string(3 << 20, 'w')}};
  }

  void Serve(const net::Request& request, std::shared_ptr<net::Responder> responder) {
    if (request.path.starts_with("/api/")) {
      responder->Send(net::JsonResponse(200, Listing()));
      return;
    }
    ++requests_;
    const std::string path = request.path.substr(request.path.rfind('/') + 1);
    if (const auto own = answers_.find(path); own != answers_.end()) {
      own->second(request, std::move(responder));
    } else {
      responder->Send(net::TextResponse(200, files_.at(path)));
    }
  }

  std::string Listing() const {
    json::array siblings;
    for (const auto& [path, content] : files_) {
      siblings.push_back(json::object{{"rfilename", path},
                                      {"size", content.size()},
                                      {"lfs", json::object{{"sha256", Sha256(content)}}}});
    }
    return json::Serialize(
        json::object{{"id", "org/name"}, {"sha", kCommit}, {"siblings", std::move(siblings)}});
  }

  Status Pull(const std::function<void(const PullProgress&)>& progress = {}) {
    Puller puller(&environment_, options_);
    HM_ASSIGN(const PullPlan plan, puller.Plan(*ModelName::Parse("org/name")));
    plan_ = plan;
    return puller.Run(plan, progress);
  }

  fs::path Blob(const std::string& path) const {
    return folder_.path() / "hf/models--org--name/blobs" / Sha256(files_.at(path));
  }

  TemporaryFolder folder_;
  std::map<std::string, std::string> files_;
  std::map<std::string, Answer> answers_;
  std::atomic<int> requests_{0};
  std::vector<std::chrono::milliseconds> slept_;
  Environment environment_;
  PullOptions options_;
  PullPlan plan_;
  std::unique_ptr<net::HttpServer> server_;  // Last: its threads use what is above.
};

TEST_F(PullTest, Progress_GoesFromNothingToAll) {
  std::vector<uint64_t> seen;
  ASSERT_TRUE(Pull([&](const PullProgress& p) { seen.push_back(p.done_bytes); }).ok());
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.front(), 0u);
  EXPECT_EQ(seen.back(), plan_.total_bytes);
  EXPECT_EQ(plan_.total_bytes, (uint64_t{3} << 20) + 2);
  EXPECT_EQ(plan_.fetch_bytes, plan_.total_bytes);
  EXPECT_EQ(ReadTextFile(Blob("model.safetensors"), 4 << 20).value(), files_["model.safetensors"]);
}

TEST_F(PullTest, DiskTooSmall_IsSaidBeforeAnythingIsWritten) {
  options_.free_bytes = [](const fs::path&) { return Result<uint64_t>(5 << 20); };
  const Status status = Pull();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kResourceExhausted);
  EXPECT_THAT(
      status.error().message(),
      ::testing::AllOf(HasSubstr("67.0 MiB"), HasSubstr("5.0 MiB"), HasSubstr("HF_HUB_CACHE")));
  EXPECT_FALSE(fs::exists(environment_.hf_cache));
  EXPECT_EQ(requests_, 0);
}

TEST_F(PullTest, FreeDisk_IsAskedWhereTheCacheWillBe) {
  options_.free_bytes = [&](const fs::path& folder) {
    EXPECT_EQ(folder, folder_.path());  // The nearest that exists.
    return Result<uint64_t>(uint64_t{1} << 40);
  };
  EXPECT_TRUE(Pull().ok());
  options_.free_bytes = [](const fs::path&) -> Result<uint64_t> {
    return Error(ErrorCode::kIo, "no such disk");
  };
  EXPECT_THAT(Pull().error().message(), HasSubstr("no such disk"));
}

TEST_F(PullTest, ConnectionThatAlwaysBreaks_IsGivenUp) {
  // Ignores Range, so that no attempt gets further than the one before.
  answers_["model.safetensors"] = [&](const net::Request&,
                                      std::shared_ptr<net::Responder> responder) {
    responder->StartStream({});
    responder->Write(std::string(1000, 'w'));
  };
  const Status status = Pull();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message(), HasSubstr("given up after 3 attempts"));
  EXPECT_EQ(requests_, 1 + 3);
  EXPECT_EQ(slept_.size(), 2u);
  EXPECT_EQ(slept_[1], 2 * slept_[0]);
  EXPECT_FALSE(fs::exists(Blob("model.safetensors")));
}

TEST_F(PullTest, AttemptsThatGetFurther_AreNotCountedTogether) {
  // 1 MiB and a byte each time, for which three attempts would not do if they were.
  files_["model.safetensors"] = std::string(6 << 20, 'w');
  answers_["model.safetensors"] = [&](const net::Request& request,
                                      std::shared_ptr<net::Responder> responder) {
    const auto range = request.headers.Find("Range");
    const size_t begin = range ? std::stoul(std::string(range->substr(6))) : 0;
    const size_t total = files_["model.safetensors"].size();
    const size_t count = std::min<size_t>((1 << 20) + 1, total - begin);
    responder->StartStream({.status = range ? 206 : 200,
                            .headers = {{"Content-Range", "bytes " + std::to_string(begin) + "-" +
                                                              std::to_string(total - 1) + "/" +
                                                              std::to_string(total)}}});
    EXPECT_EQ(responder->Write(std::string(count, 'w')), net::WriteResult::kOk);
    if (begin + count == total) responder->Finish();
  };
  const Status status = Pull();
  EXPECT_TRUE(status.ok()) << status.error().message();
  EXPECT_GE(requests_, 1 + 6);
}

TEST_F(PullTest, PartThatWasNotAskedFor_IsNotPutIn) {
  fs::create_directories(Blob("config.json").parent_path());
  ASSERT_TRUE(
      WriteFileAtomic(Blob("model.safetensors").string() + ".incomplete", std::string(1000, 'w'))
          .ok());
  answers_["model.safetensors"] = [&](const net::Request& request,
                                      std::shared_ptr<net::Responder> responder) {
    net::Response response = net::TextResponse(200, files_["model.safetensors"]);
    if (request.headers.Find("Range")) {
      response.status = 206;
      response.headers.Set("Content-Range", "bytes 0-9/10");
    }
    responder->Send(std::move(response));
  };
  const Status status = Pull();
  EXPECT_TRUE(status.ok()) << status.error().message();
  EXPECT_EQ(requests_, 1 + 2);
}

TEST_F(PullTest, HubThatContradictsItsList_IsRefused) {
  answers_["model.safetensors"] = [&](const net::Request&,
                                      std::shared_ptr<net::Responder> responder) {
    net::Response response = net::TextResponse(200, files_["model.safetensors"]);
    response.headers.Set("X-Linked-Etag", "\"" + std::string(64, '0') + "\"");
    responder->Send(std::move(response));
  };
  EXPECT_THAT(Pull().error().message(), HasSubstr("the hub's list says sha256"));
  answers_["model.safetensors"] = [&](const net::Request&,
                                      std::shared_ptr<net::Responder> responder) {
    net::Response response = net::TextResponse(200, files_["model.safetensors"]);
    response.headers.Set("X-Linked-Size", "5");
    responder->Send(std::move(response));
  };
  EXPECT_THAT(Pull().error().message(), HasSubstr("its answer 5"));
}

TEST_F(PullTest, Redirects_AreBoundedAndCheckedAndTakeNoTokenAlong) {
  environment_.hf_token = "secret";
  std::string location = server_->url() + "/again/model.safetensors";
  answers_["model.safetensors"] = [&](const net::Request&,
                                      std::shared_ptr<net::Responder> responder) {
    responder->Send({.status = 302, .headers = {{"Location", location}}});
  };
  EXPECT_THAT(Pull().error().message(), HasSubstr("more than 10 redirects"));
  location = "ftp://elsewhere/x";
  EXPECT_THAT(Pull().error().message(), HasSubstr("redirect from"));
  // The same machine under another name is another origin.
  std::atomic<int> with_token{0};
  answers_["elsewhere"] = [&](const net::Request& request,
                              std::shared_ptr<net::Responder> responder) {
    if (request.headers.Find("Authorization")) ++with_token;
    responder->Send(net::TextResponse(200, files_["model.safetensors"]));
  };
  location = "http://localhost:" + std::to_string(server_->port()) + "/elsewhere";
  EXPECT_TRUE(Pull().ok());
  EXPECT_EQ(with_token, 0);
}

TEST_F(PullTest, RetryAfter_IsHonouredUpToABound) {
  std::atomic<int> refusals{1};
  std::string pause = "7";
  answers_["config.json"] = [&](const net::Request&, std::shared_ptr<net::Responder> responder) {
    if (refusals-- <= 0) {
      responder->Send(net::TextResponse(200, "{}"));
    } else {
      responder->Send({.status = 429, .headers = {{"Retry-After", pause}}});
    }
  };
  EXPECT_TRUE(Pull().ok());
  EXPECT_EQ(slept_, (std::vector<std::chrono::milliseconds>{std::chrono::seconds(7)}));
  fs::remove_all(environment_.hf_cache);
  refusals = 1;
  pause = "999999999999";
  EXPECT_THAT(Pull().error().message(), HasSubstr("come back in 999999999999 s"));
}

TEST_F(PullTest, RaisedFlag_EndsAPullAtOnceAndKeepsWhatArrived) {
  bool raised = false;
  options_.fetch.interrupted = [&] { return raised; };
  const Status status = Pull([&](const PullProgress& p) { raised = p.done_bytes > 100'000; });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kCancelled);
  const uint64_t kept = fs::file_size(Blob("model.safetensors").string() + ".incomplete");
  EXPECT_GT(kept, 100'000u);
  EXPECT_FALSE(fs::exists(folder_.path() / "hf/models--org--name/refs/main"));
}

TEST_F(PullTest, ContentOfAnotherCache_IsCheckedAndLinked) {
  const std::string digest = Sha256(files_["model.safetensors"]);
  const fs::path right =
      folder_.Write("ollama/blobs/sha256-" + digest, files_["model.safetensors"]);
  ASSERT_TRUE(Pull().ok());
  EXPECT_EQ(plan_.files[1].state, FileState::kElsewhere);
  EXPECT_EQ(requests_, 1);  // config.json
  EXPECT_TRUE(fs::equivalent(right, Blob("model.safetensors")));

  // One that only claims to be it is passed over.
  fs::remove_all(environment_.hf_cache);
  folder_.Write("ollama/blobs/sha256-" + digest, std::string(3 << 20, 'x'));
  ASSERT_TRUE(Pull().ok());
  EXPECT_EQ(requests_, 1 + 2);
  EXPECT_EQ(ReadTextFile(Blob("model.safetensors"), 4 << 20).value(), files_["model.safetensors"]);
}

TEST_F(PullTest, LinksInTheCache_AreNotWrittenThrough) {
  const fs::path outside = folder_.Write("outside", "precious");
  fs::create_directories(Blob("config.json").parent_path());
  fs::create_symlink(outside, Blob("model.safetensors").string() + ".incomplete");
  EXPECT_FALSE(Pull().ok());
  EXPECT_EQ(ReadTextFile(outside, 100).value(), "precious");

  fs::remove_all(environment_.hf_cache);
  fs::create_directories(folder_.path() / "hf/models--org--name");
  fs::create_directory_symlink(folder_.path(), folder_.path() / "hf/models--org--name/snapshots");
  const Status status = Pull();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message(), HasSubstr("not followed"));
}

TEST_F(PullTest, Offline_AsksNobody) {
  environment_.offline = true;
  EXPECT_THAT(Pull().error().message(), HasSubstr("HF_HUB_OFFLINE"));
}

TEST_F(PullTest, ProxyThatIsNone_IsRefusedWithoutItsPassword) {
  environment_.http_proxy = "https://user:secret@proxy";
  const Status status = Pull();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message(), HasSubstr("proxy"));
  EXPECT_EQ(status.error().message().find("secret"), std::string::npos);
}

TEST_F(PullTest, Proxy_IsUsedWithItsPassword) {
  // The server itself plays the proxy: it is asked for the whole URL.
  std::mutex mutex;
  std::string authorization;
  answers_["config.json"] = [&](const net::Request& request,
                                std::shared_ptr<net::Responder> responder) {
    const std::lock_guard lock(mutex);
    authorization = request.headers.Find("Proxy-Authorization").value_or("");
    responder->Send(net::TextResponse(200, "{}"));
  };
  environment_.http_proxy = "http://user:pass%20word@127.0.0.1:" + std::to_string(server_->port());
  environment_.hf_endpoint = "http://hub.example";
  ASSERT_TRUE(Pull().ok());
  const std::lock_guard lock(mutex);
  EXPECT_EQ(authorization, "Basic dXNlcjpwYXNzIHdvcmQ=");
}

}  // namespace
}  // namespace halfmoon::hub
