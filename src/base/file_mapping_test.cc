// SPDX-License-Identifier: Apache-2.0
#include "base/file_mapping.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <string>

#include "base/file.h"
#include "base/temporary_folder_for_test.h"

namespace halfmoon {
namespace {

using testing::HasSubstr;

constexpr FileArenaOptions kRoom{.capacity_bytes = size_t{1} << 30, .max_bytes = uint64_t{1} << 30};

void Fill(std::span<std::byte> memory, char value) {
  std::memset(memory.data(), value, memory.size());
}

TEST(FileArena, Commit_LeavesWhatWasWrittenUnderItsName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file";
  {
    auto arena = FileArena::Create(path, kRoom);
    ASSERT_TRUE(arena.ok()) << arena.error().message();
    auto first = (*arena)->Allocate(10);
    auto second = (*arena)->Allocate(100);
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(second->data() - first->data(), 64);
    EXPECT_EQ((*second)[99], std::byte{0});
    Fill(*first, 'a');
    Fill(*second, 'b');
    (*arena)->MakeReadOnly();
    ASSERT_TRUE((*arena)->WriteAt(164, std::as_bytes(std::span("end", 3))).ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE((*arena)->Commit(167, {}).ok());
    EXPECT_EQ((*first)[0], std::byte{'a'});
  }
  const auto text = ReadTextFile(path, 1 << 20);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, std::string(10, 'a') + std::string(54, '\0') + std::string(100, 'b') + "end");
  EXPECT_EQ(folder.NumFiles(), 1u);
}

TEST(FileArena, WithoutCommitOrGivenUp_LeavesNothing) {
  const TemporaryFolder folder;
  for (const bool commit : {false, true}) {
    auto arena = FileArena::Create(folder.path() / "file", kRoom);
    ASSERT_TRUE(arena.ok());
    ASSERT_TRUE((*arena)->Allocate(4096).ok());
    EXPECT_EQ(folder.NumFiles(), 1u);
    if (!commit) continue;
    const Status given_up = (*arena)->Commit(4096, [] { return true; });
    ASSERT_FALSE(given_up.ok());
    EXPECT_EQ(given_up.error().code(), ErrorCode::kCancelled);
  }
  EXPECT_EQ(folder.NumFiles(), 0u);
}

TEST(FileArena, SecondWriterOfAFile_IsTurnedAway) {
  const TemporaryFolder folder;
  auto first = FileArena::Create(folder.path() / "file", kRoom);
  ASSERT_TRUE(first.ok());
  const auto second = FileArena::Create(folder.path() / "file", kRoom);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("another process writes it"));
}

TEST(FileArena, WhatAKilledWriterLeft_IsReused) {
  const TemporaryFolder folder;
  folder.Write("file.tmp", "half of something");
  auto arena = FileArena::Create(folder.path() / "file", kRoom);
  ASSERT_TRUE(arena.ok());
  const auto memory = (*arena)->Allocate(64);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ((*memory)[0], std::byte{0});
  ASSERT_TRUE((*arena)->Commit(64, {}).ok());
  EXPECT_EQ(folder.NumFiles(), 1u);
}

TEST(FileArena, Bounds_AreErrorsAndNotSignals) {
  const TemporaryFolder folder;
  const auto error = [&](FileArenaOptions options, size_t size) {
    auto arena = FileArena::Create(folder.path() / "file", options);
    if (!arena.ok()) return arena.error().message();
    const auto memory = (*arena)->Allocate(size);
    if (memory.ok()) return std::string();
    EXPECT_EQ(memory.error().code(), ErrorCode::kResourceExhausted);
    return memory.error().message();
  };
  EXPECT_EQ(error(kRoom, 1 << 20), "");
  EXPECT_THAT(error({.capacity_bytes = 4096, .max_bytes = 1 << 20}, 8192),
              HasSubstr("larger than was foreseen"));
  EXPECT_THAT(error({.capacity_bytes = 1 << 20, .max_bytes = 4096}, 8192),
              HasSubstr("larger than the budget"));
  // As if the rest of the disk were taken.
  EXPECT_THAT(
      error({.capacity_bytes = 1 << 20, .max_bytes = 1 << 20, .reserve_bytes = UINT64_MAX / 2},
            4096),
      HasSubstr("the disk is too full"));
  struct rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit small = old;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THAT(error(kRoom, 8192), HasSubstr("ulimit -f"));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
}

TEST(FileArena, FolderThatIsNotThere_IsAnError) {
  const auto arena = FileArena::Create("/nonexistent/folder/file", kRoom);
  ASSERT_FALSE(arena.ok());
  EXPECT_THAT(arena.error().message(), HasSubstr("/nonexistent/folder/file: cannot create"));
}

TEST(FileMapping, LargeFile_StartsAtAHugePage) {
  const TemporaryFolder folder;
  const auto path = folder.Write("file", std::string(5 << 20, 'x'));
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY));
  const auto mapping = FileMapping::Map(fd.get(), 5 << 20, /*writable=*/false);
  ASSERT_TRUE(mapping.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping->data()) % (2 << 20), 0u);
  mapping->Populate(0, 5 << 20);
  mapping->Populate(1 << 30, 1);
  EXPECT_EQ(mapping->bytes()[(5 << 20) - 1], std::byte{'x'});
}

}  // namespace
}  // namespace halfmoon
