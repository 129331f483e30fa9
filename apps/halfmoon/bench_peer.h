// SPDX-License-Identifier: Apache-2.0
// llama.cpp as something to be measured: made once from its PyPI source distribution, outside of
// our own build, and run as a process that answers lines.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/child_process.h"
#include "base/json.h"
#include "base/result.h"

namespace halfmoon::app {

/// For which processor the peer is compiled.
struct PeerBuild {
  std::string name;        ///< as --compare has it: "llama.cpp", "llama.cpp:avx2"
  std::string label;       ///< "native", "avx2"
  std::string cmake_args;  ///< what decides it
};

/// Errors: kInvalidArgument listing the names.
Result<PeerBuild> FindPeerBuild(std::string_view name);

/// The Python that has the peer: `given`, or that of a virtual environment in
/// `peers`/llama.cpp-LABEL, made where it is missing, older than what this program wants, or made
/// on another processor. That compiles for minutes; progress is on stderr, the whole output in a
/// log beside it. Only one process makes it, others wait. Errors: kNotFound without python3, kIo
/// with the end of the log.
Result<std::string> PreparePeer(const PeerBuild& build, const std::string& given,
                                const std::filesystem::path& peers);

/// The arguments that start a worker on one model file (bench/llama_cpp_worker.py).
struct WorkerArguments {
  std::string python;
  std::string model;
  int threads = 1;
  bool repack = true;  ///< whether llama.cpp may copy weights into layouts of its own
};

/// A worker that has said what it is.
struct PeerWorker {
  ChildProcess process;
  std::string version;  ///< of the package
};
/// Errors: those of ChildProcess and AskWorker.
Result<PeerWorker> StartPeerWorker(const ChildOptions& options, const WorkerArguments& arguments,
                                   TimeUs timeout_us);

/// Reads one line of a worker: an object, and no {"error": ...}. Errors name the worker:
/// kUnavailable with what it says, kCorrupt where that is no such line, and those of
/// ChildProcess::ReadLine.
Result<json::object> ReadReply(ChildProcess* worker, TimeUs timeout_us);

/// Sends a request and reads the reply to it.
Result<json::object> AskWorker(ChildProcess* worker, const json::object& request,
                               TimeUs timeout_us);

}  // namespace halfmoon::app
