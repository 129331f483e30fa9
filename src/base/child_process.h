// SPDX-License-Identifier: Apache-2.0
// Another process that answers lines with lines: a worker of ours, or a foreign program.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace halfmoon {

struct ChildOptions {
  std::string name;  ///< in messages: "llama.cpp, repack on"
  /// A session, and so a scheduling group, of its own, at the highest priority that the system
  /// allows us.
  bool raise_priority = false;
  /// Standard output and error go to this file instead of to us; empty: output is a pipe that
  /// ReadLine reads, errors go where ours go.
  std::filesystem::path log;
  std::vector<std::pair<std::string, std::string>> environment;  ///< set beside what we have
};

/// A running process with pipes to its standard input and from its standard output. It is killed
/// when the object goes, and by the system when we end. Move-only; used by one thread.
class ChildProcess {
 public:
  /// Longest line that is read.
  static constexpr size_t kMaxLineBytes = size_t{1} << 20;

  /// Runs a program; arguments[0] is a path, or a name to be found on PATH. Errors: kNotFound,
  /// kIo naming the program.
  static Result<ChildProcess> Start(const ChildOptions& options,
                                    const std::vector<std::string>& arguments);
  /// Runs `body` in a copy of this process, which ends with what it returns. Requires that this
  /// process has no other thread. Errors: kIo.
  static Result<ChildProcess> Fork(const ChildOptions& options, const std::function<int()>& body);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }

  /// Errors: kUnavailable naming the process where it no longer reads.
  Status WriteLine(std::string_view line);
  /// The next line, without its end. Errors, naming the process: kDeadlineExceeded;
  /// kUnavailable where it has ended (and how); kResourceExhausted for a line that is too long.
  Result<std::string> ReadLine(TimeUs timeout_us);
  /// Waits for the end: the exit code, or 128 + the signal's number. Errors: kDeadlineExceeded.
  Result<int> Wait(TimeUs timeout_us);

  /// Halts all of its threads, so that none that still spins takes part in what is measured.
  void Pause();
  void Resume();

 private:
  explicit ChildProcess(std::string name) : name_(std::move(name)) {}
  static Result<ChildProcess> Launch(const ChildOptions& options, int report,
                                     const std::function<int()>& in_child);
  void Close();
  Error Ended();

  std::string name_;
  pid_t pid_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
  int exit_code_ = -1;  ///< negative: still running
  std::string buffer_;  ///< read and not yet asked for
};

}  // namespace halfmoon
