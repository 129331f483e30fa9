// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_peer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "apps/halfmoon/embedded_files.h"
#include "apps/halfmoon/runtime.h"
#include "base/file.h"
#include "base/topology.h"

namespace halfmoon::app {
namespace {

namespace fs = std::filesystem;

constexpr TimeUs kShownEveryUs = 20'000'000;
constexpr TimeUs kMostInstallUs = TimeUs{7200} * 1'000'000;
constexpr size_t kMaxLogBytes = size_t{256} << 20;

/// The last `count` lines of a log that are not empty.
std::string EndOf(const fs::path& log, size_t count) {
  const Result<std::string> text = ReadTextFile(log, kMaxLogBytes);
  if (!text.ok()) return text.error().message();
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    if (end > begin) lines.push_back(text->substr(begin, end - begin));
    begin = end + 1;
  }
  std::string tail;
  for (size_t i = lines.size() - std::min(count, lines.size()); i < lines.size(); ++i) {
    if (!tail.empty()) tail += "\n";
    tail += lines[i].substr(0, 200);
  }
  return tail;
}

/// Runs one step of the installation with its output in a log.
Status RunLogged(const std::string& title, const std::vector<std::string>& arguments,
                 const fs::path& log,
                 const std::vector<std::pair<std::string, std::string>>& environment) {
  std::fprintf(stderr, "%s ...\n", title.c_str());
  HM_ASSIGN(
      ChildProcess child,
      ChildProcess::Start({.name = title, .log = log, .environment = environment}, arguments));
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  while (true) {
    const Result<int> code = child.Wait(kShownEveryUs);
    const TimeUs gone_us = clock.NowUs() - begin;
    if (code.ok() && *code == 0) return {};
    if (code.ok() || gone_us > kMostInstallUs) {
      return Error(ErrorCode::kIo, title + (code.ok() ? " failed" : " took too long") +
                                       "; the end of " + log.string() + ":\n" + EndOf(log, 15));
    }
    std::fprintf(stderr, "%s, %lld s: %s\n", title.c_str(),
                 static_cast<long long>(gone_us / 1'000'000), EndOf(log, 1).substr(0, 100).c_str());
  }
}

/// Held while a folder is being made; others wait for it.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& file)
      : fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) return;
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
    std::fprintf(stderr, "another process makes this peer; waiting for it ...\n");
    ::flock(fd_, LOCK_EX);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }

 private:
  int fd_;
};

Status Install(const PeerBuild& build, const fs::path& folder) {
  const fs::path log = folder.string() + ".log";
  const std::string venv = "make " + folder.string();
  const Status made =
      RunLogged(venv, {"python3", "-m", "venv", "--clear", folder.string()}, log, {});
  if (!made.ok()) {
    return made.error().WithContext(
        "the peer needs python3 with its venv module (Debian: python3-venv), or an environment "
        "that has it already (--peer-python)");
  }
  const fs::path requirements = folder / "requirements.txt";
  HM_TRY(WriteFileAtomic(requirements, EmbeddedBenchRequirements()));
  // Its wheels are for any processor of a kind; and pip would take one from its own cache that was
  // compiled for another.
  return RunLogged(
      "build llama.cpp (" + build.label + ") from its source distribution",
      {(folder / "bin" / "python").string(), "-m", "pip", "install", "--disable-pip-version-check",
       "--no-input", "--progress-bar", "off", "-v", "--no-cache-dir", "--no-binary",
       "llama-cpp-python", "-r", requirements.string()},
      log,
      {{"CMAKE_ARGS", build.cmake_args},
       {"CMAKE_BUILD_PARALLEL_LEVEL",
        std::to_string(std::max(1u, std::thread::hardware_concurrency()))}});
}

}  // namespace

Result<PeerBuild> FindPeerBuild(std::string_view name) {
  static const std::vector<PeerBuild> builds = {
      {.name = "llama.cpp", .label = "native", .cmake_args = "-DGGML_NATIVE=ON"},
      {.name = "llama.cpp:avx2",
       .label = "avx2",
       .cmake_args = "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON "
                     "-DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX_VNNI=OFF "
                     "-DGGML_AVX512=OFF"}};
  std::string names;
  for (const PeerBuild& build : builds) {
    if (build.name == name) return build;
    names += (names.empty() ? "" : ", ") + build.name;
  }
  return Error(ErrorCode::kInvalidArgument,
               "--compare " + std::string(name) + ": no such peer; known: " + names);
}

Result<std::string> PreparePeer(const PeerBuild& build, const std::string& given,
                                const fs::path& peers) {
  if (!given.empty()) return given;
  const fs::path folder = peers / ("llama.cpp-" + build.label);
  const fs::path python = folder / "bin" / "python";
  const fs::path stamp = folder / "halfmoon-peer.txt";
  const std::string wanted =
      build.cmake_args + "\n" + CpuName() + "\n" + std::string(EmbeddedBenchRequirements());
  const auto is_made = [&] {
    const Result<std::string> found = ReadTextFile(stamp, size_t{1} << 20);
    return found.ok() && *found == wanted && ::access(python.c_str(), X_OK) == 0;
  };
  if (is_made()) return python.string();
  std::error_code error;
  fs::create_directories(peers, error);
  if (error) return Error(ErrorCode::kIo, peers.string() + ": " + error.message());
  const FolderLock lock(folder.string() + ".lock");
  if (is_made()) return python.string();
  HM_TRY(Install(build, folder));
  HM_TRY(WriteFileAtomic(stamp, wanted));
  return python.string();
}

Result<PeerWorker> StartPeerWorker(const ChildOptions& options, const WorkerArguments& arguments,
                                   TimeUs timeout_us) {
  HM_ASSIGN(
      ChildProcess process,
      ChildProcess::Start(
          options, {arguments.python, "-c", std::string(EmbeddedLlamaCppWorker()), arguments.model,
                    std::to_string(arguments.threads), arguments.repack ? "on" : "off"}));
  HM_ASSIGN(const json::object hello, ReadReply(&process, timeout_us));
  Result<std::string> version = json::RequireString(hello, "version");
  if (!version.ok()) return version.error().WithContext(options.name);
  return PeerWorker{.process = std::move(process), .version = std::move(version).value()};
}

Result<json::object> ReadReply(ChildProcess* worker, TimeUs timeout_us) {
  HM_ASSIGN(const std::string line, worker->ReadLine(timeout_us));
  Result<json::object> reply = json::ParseObject(line);
  if (!reply.ok()) {
    constexpr size_t kShownBytes = 200;
    return Error(ErrorCode::kCorrupt, worker->name() + ": expected a line with a JSON object (" +
                                          reply.error().message() +
                                          "), found: " + line.substr(0, kShownBytes));
  }
  HM_ASSIGN(const std::optional<std::string> error, json::FindString(*reply, "error"));
  if (error.has_value()) {
    return Error(ErrorCode::kUnavailable, worker->name() + ": " + *error);
  }
  return reply;
}

Result<json::object> AskWorker(ChildProcess* worker, const json::object& request,
                               TimeUs timeout_us) {
  HM_TRY(worker->WriteLine(json::Serialize(request)));
  return ReadReply(worker, timeout_us);
}

}  // namespace halfmoon::app
