// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

namespace halfmoon {
namespace {

constexpr int kCannotExecute = 127;  // as a shell has it
constexpr int kHighPriority = -19;

/// Both ends of a pipe that no other program inherits.
struct Pipe {
  int read_end = -1;
  int write_end = -1;

  Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    if (read_end >= 0) ::close(read_end);
    if (write_end >= 0) ::close(write_end);
  }
  bool Open() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return false;
    read_end = ends[0];
    write_end = ends[1];
    return true;
  }
};

Error SystemError(const std::string& name, const std::string& what) {
  return Error(ErrorCode::kIo, name + ": " + what + ": " + std::strerror(errno));
}

/// In the child. Neither is worth failing for: the kernel may have no scheduling groups, and only
/// root may raise a priority.
void RaisePriority() {
  ::setsid();
  const int fd = ::open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    const std::string value = std::to_string(kHighPriority);
    [[maybe_unused]] const ssize_t written = ::write(fd, value.data(), value.size());
    ::close(fd);
  }
  ::setpriority(PRIO_PROCESS, 0, kHighPriority);
}

/// Where the child of Start finds the pipe to tell errno by. Closes when the program starts.
constexpr int kReportDescriptor = STDERR_FILENO + 1;

struct ChildDescriptors {
  int in = -1;
  int out = -1;
  int log = -1;     ///< negative: standard error stays
  int report = -1;  ///< negative: none
};

/// In the child, between fork and its work.
void BecomeChild(const ChildOptions& options, pid_t parent, const ChildDescriptors& fds) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kCannotExecute);  // It went before we asked to be told.
  ::dup2(fds.in, STDIN_FILENO);
  ::dup2(fds.out, STDOUT_FILENO);
  if (fds.log >= 0) ::dup2(fds.log, STDERR_FILENO);
  const bool reports = fds.report >= 0;
  if (reports && fds.report != kReportDescriptor) {
    ::dup3(fds.report, kReportDescriptor, O_CLOEXEC);
  }
  // The pipes of other children too: an end that stays open here would hide that they closed.
  ::close_range(reports ? kReportDescriptor + 1 : kReportDescriptor, UINT_MAX, 0);
  if (options.raise_priority) RaisePriority();
  for (const auto& [name, value] : options.environment) {
    ::setenv(name.c_str(), value.c_str(), 1);
  }
}

int RunGuarded(const std::string& name, const std::function<int()>& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
    return EXIT_FAILURE;
  }
}

}  // namespace

Result<ChildProcess> ChildProcess::Launch(const ChildOptions& options, int report,
                                          const std::function<int()>& in_child) {
  Pipe to_child;
  Pipe from_child;
  if (!to_child.Open() || !from_child.Open()) return SystemError(options.name, "cannot make pipes");
  int log = -1;
  if (!options.log.empty()) {
    log = ::open(options.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (log < 0) return SystemError(options.log.string(), "cannot write");
  }
  std::fflush(nullptr);  // Or the child would print what we have buffered once more.
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    BecomeChild(options, parent,
                {.in = to_child.read_end,
                 .out = log >= 0 ? log : from_child.write_end,
                 .log = log,
                 .report = report});
    const int code = RunGuarded(options.name, in_child);
    std::fflush(nullptr);
    ::_exit(code);
  }
  const int fork_error = errno;
  if (log >= 0) ::close(log);
  errno = fork_error;
  if (pid < 0) return SystemError(options.name, "cannot start a process");
  ChildProcess child(options.name);
  child.pid_ = pid;
  child.to_child_ = std::exchange(to_child.write_end, -1);
  child.from_child_ = std::exchange(from_child.read_end, -1);
  return child;
}

Result<ChildProcess> ChildProcess::Fork(const ChildOptions& options,
                                        const std::function<int()>& body) {
  return Launch(options, /*report=*/-1, body);
}

Result<ChildProcess> ChildProcess::Start(const ChildOptions& options,
                                         const std::vector<std::string>& arguments) {
  Pipe report;
  if (!report.Open()) return SystemError(options.name, "cannot make pipes");
  std::vector<std::string> copy = arguments;
  std::vector<char*> argv;
  for (std::string& argument : copy) argv.push_back(argument.data());
  argv.push_back(nullptr);
  HM_ASSIGN(ChildProcess child, Launch(options, report.write_end, [&argv]() -> int {
              ::signal(SIGPIPE, SIG_DFL);
              ::execvp(argv.front(), argv.data());
              const int reason = errno;
              [[maybe_unused]] const ssize_t written =
                  ::write(kReportDescriptor, &reason, sizeof(reason));
              return EXIT_FAILURE;
            }));
  ::close(std::exchange(report.write_end, -1));
  int reason = 0;
  ssize_t count = 0;
  do {
    count = ::read(report.read_end, &reason, sizeof(reason));
  } while (count < 0 && errno == EINTR);
  if (count != static_cast<ssize_t>(sizeof(reason))) return child;
  return Error(reason == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
               options.name + ": cannot run " + arguments.front() + ": " + std::strerror(reason));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(std::exchange(other.pid_, -1)),
      to_child_(std::exchange(other.to_child_, -1)),
      from_child_(std::exchange(other.from_child_, -1)),
      exit_code_(other.exit_code_),
      buffer_(std::move(other.buffer_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this == &other) return *this;
  Close();
  name_ = std::move(other.name_);
  pid_ = std::exchange(other.pid_, -1);
  to_child_ = std::exchange(other.to_child_, -1);
  from_child_ = std::exchange(other.from_child_, -1);
  exit_code_ = other.exit_code_;
  buffer_ = std::move(other.buffer_);
  return *this;
}

ChildProcess::~ChildProcess() { Close(); }

void ChildProcess::Close() {
  if (to_child_ >= 0) ::close(to_child_);
  if (from_child_ >= 0) ::close(from_child_);
  if (pid_ > 0 && exit_code_ < 0) {
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  pid_ = to_child_ = from_child_ = -1;
}

Status ChildProcess::WriteLine(std::string_view line) {
  const std::string text = std::string(line) + "\n";
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t count = ::write(to_child_, text.data() + sent, text.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Ended();
    sent += static_cast<size_t>(count);
  }
  return {};
}

Result<std::string> ChildProcess::ReadLine(TimeUs timeout_us) {
  const MonotonicClock clock;
  const TimeUs deadline = clock.NowUs() + timeout_us;
  while (true) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (buffer_.size() > kMaxLineBytes) {
      return Error(ErrorCode::kResourceExhausted, name_ + ": wrote more than " +
                                                      std::to_string(kMaxLineBytes) +
                                                      " bytes without an end of line");
    }
    const TimeUs left_us = deadline - clock.NowUs();
    if (left_us <= 0) {
      return Error(ErrorCode::kDeadlineExceeded,
                   name_ + ": no answer within " + std::to_string(timeout_us / 1'000'000) + " s");
    }
    pollfd wait{.fd = from_child_, .events = POLLIN};
    // One more millisecond, so that the last wait is no loop of zeros.
    const int ready =
        ::poll(&wait, 1, static_cast<int>(std::min<TimeUs>(left_us / 1000 + 1, 60'000)));
    if (ready <= 0) continue;
    char chunk[4096];
    const ssize_t count = ::read(from_child_, chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Ended();
    buffer_.append(chunk, static_cast<size_t>(count));
  }
}

Error ChildProcess::Ended() {
  constexpr TimeUs kLastWordsUs = 5'000'000;
  const Result<int> code = Wait(kLastWordsUs);
  if (!code.ok()) {
    return Error(ErrorCode::kUnavailable, name_ + ": closed its pipes without an answer");
  }
  return Error(ErrorCode::kUnavailable,
               name_ + ": ended with code " + std::to_string(*code) + " before it had answered");
}

Result<int> ChildProcess::Wait(TimeUs timeout_us) {
  const MonotonicClock clock;
  const TimeUs deadline = clock.NowUs() + timeout_us;
  while (exit_code_ < 0) {
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
    if (ended == pid_) {
      exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      break;
    }
    if (ended < 0 && errno != EINTR) return SystemError(name_, "cannot wait for the process");
    if (clock.NowUs() >= deadline) {
      return Error(ErrorCode::kDeadlineExceeded,
                   name_ + ": did not end within " + std::to_string(timeout_us / 1'000'000) + " s");
    }
    ::usleep(1000);
  }
  return exit_code_;
}

void ChildProcess::Pause() { ::kill(pid_, SIGSTOP); }
void ChildProcess::Resume() { ::kill(pid_, SIGCONT); }

}  // namespace halfmoon
