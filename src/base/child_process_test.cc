// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>

#include "base/temporary_folder_for_test.h"

namespace halfmoon {
namespace {

using testing::HasSubstr;

constexpr TimeUs kLongUs = 60'000'000;

ChildProcess Shell(const std::string& script, ChildOptions options = {.name = "shell"}) {
  Result<ChildProcess> child = ChildProcess::Start(options, {"sh", "-c", script});
  if (!child.ok()) throw std::runtime_error(child.error().message());
  return std::move(child).value();
}

TEST(ChildProcess, Lines_GoBothWays) {
  ChildProcess child = Shell("while read line; do echo \"got $line\"; echo again; done; exit 3");
  for (const char* word : {"one", "two words"}) {
    ASSERT_TRUE(child.WriteLine(word).ok());
    EXPECT_EQ(*child.ReadLine(kLongUs), std::string("got ") + word);
    EXPECT_EQ(*child.ReadLine(kLongUs), "again");
  }
}

TEST(ChildProcess, Forked_RunsInACopyOfUs) {
  int seen = 1;
  Result<ChildProcess> child = ChildProcess::Fork({.name = "copy"}, [&seen] {
    std::string line;
    std::getline(std::cin, line);
    seen = 2;
    std::cout << line << " " << ::getppid() << std::endl;
    return 4;
  });
  ASSERT_TRUE(child.ok()) << child.error().message();
  ASSERT_TRUE(child->WriteLine("hello").ok());
  EXPECT_EQ(*child->ReadLine(kLongUs), "hello " + std::to_string(::getpid()));
  EXPECT_EQ(*child->Wait(kLongUs), 4);
  EXPECT_EQ(seen, 1);
}

TEST(ChildProcess, ForkedBodyThrows_EndsWithFailure) {
  Result<ChildProcess> child =
      ChildProcess::Fork({.name = "copy"}, []() -> int { throw std::runtime_error("no good"); });
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(*child->Wait(kLongUs), EXIT_FAILURE);
}

TEST(ChildProcess, NoSuchProgram_NamesIt) {
  const Result<ChildProcess> child =
      ChildProcess::Start({.name = "peer"}, {"/no/such/program", "x"});
  ASSERT_FALSE(child.ok());
  EXPECT_EQ(child.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(child.error().message(), HasSubstr("peer: cannot run /no/such/program"));
}

TEST(ChildProcess, Ends_SaysHow) {
  ChildProcess child = Shell("exit 7");
  const Result<std::string> line = child.ReadLine(kLongUs);
  ASSERT_FALSE(line.ok());
  EXPECT_EQ(line.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(line.error().message(), HasSubstr("shell: ended with code 7"));
  // And a line to it finds nobody, which must not end us.
  ::signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(child.WriteLine("anyone?").error().code(), ErrorCode::kUnavailable);
}

TEST(ChildProcess, Killed_SaysBySignal) {
  ChildProcess child = Shell("kill -9 $$");
  EXPECT_EQ(*child.Wait(kLongUs), 128 + SIGKILL);
}

TEST(ChildProcess, SaysNothing_Deadline) {
  ChildProcess child = Shell("read line");
  const Result<std::string> line = child.ReadLine(20'000);
  ASSERT_FALSE(line.ok());
  EXPECT_EQ(line.error().code(), ErrorCode::kDeadlineExceeded);
  EXPECT_EQ(child.Wait(20'000).error().code(), ErrorCode::kDeadlineExceeded);
}

TEST(ChildProcess, LineWithoutEnd_Refused) {
  ChildProcess child = Shell("head -c 3000000 /dev/zero; read line");
  const Result<std::string> line = child.ReadLine(kLongUs);
  ASSERT_FALSE(line.ok());
  EXPECT_EQ(line.error().code(), ErrorCode::kResourceExhausted);
}

TEST(ChildProcess, Log_TakesOutputAndErrors) {
  const TemporaryFolder folder;
  const std::filesystem::path log = folder.path() / "log";
  ChildProcess child = Shell("echo out; echo err $SAID >&2",
                             {.name = "logged", .log = log, .environment = {{"SAID", "this"}}});
  EXPECT_EQ(*child.Wait(kLongUs), 0);
  EXPECT_EQ(*ReadTextFile(log, 1000), "out\nerr this\n");
}

TEST(ChildProcess, RaisedPriority_SessionOfItsOwn) {
  // The child makes its session before it runs the program, and so before Start returns.
  const ChildProcess own = Shell("read line", {.name = "leader", .raise_priority = true});
  EXPECT_EQ(::getsid(own.pid()), own.pid());
  const ChildProcess shared = Shell("read line");
  EXPECT_EQ(::getsid(shared.pid()), ::getsid(0));
}

TEST(ChildProcess, Paused_AnswersAfterResume) {
  ChildProcess child = Shell("while read line; do echo \"$line\"; done");
  child.Pause();
  ASSERT_TRUE(child.WriteLine("late").ok());
  EXPECT_EQ(child.ReadLine(50'000).error().code(), ErrorCode::kDeadlineExceeded);
  child.Resume();
  EXPECT_EQ(*child.ReadLine(kLongUs), "late");
}

TEST(ChildProcess, Destroyed_KillsEvenWhenPaused) {
  pid_t pid = 0;
  {
    ChildProcess child = Shell("read line");
    pid = child.pid();
    child.Pause();
  }
  EXPECT_EQ(::kill(pid, 0), -1);  // Waited for, so nobody has that number.
}

}  // namespace
}  // namespace halfmoon
