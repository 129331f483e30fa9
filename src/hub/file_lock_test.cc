// SPDX-License-Identifier: Apache-2.0
#include "hub/file_lock.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/temporary_folder_for_test.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;

TEST(FileLock, Second_WaitsUntilTheFirstIsGivenBack) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "made" / "too" / "x.lock";
  Result<FileLock> taken = FileLock::Take(path, {});
  ASSERT_TRUE(taken.ok()) << taken.error().message();
  std::optional<FileLock> first(std::move(taken).value());
  int waited = 0;
  const Result<FileLock> second = FileLock::Take(path, [&] {
    if (++waited == 2) first.reset();
    return true;
  });
  EXPECT_TRUE(second.ok());
  EXPECT_GE(waited, 2);
  const Result<FileLock> third = FileLock::Take(path, [] { return false; });
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code(), ErrorCode::kCancelled);
}

TEST(FileLock, FileThatItsHolderRemoves_IsMadeAgain) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "x.lock";
  Result<FileLock> taken = FileLock::Take(path, {});
  ASSERT_TRUE(taken.ok());
  std::optional<FileLock> first(std::move(taken).value());
  const Result<FileLock> second = FileLock::Take(path, [&] {
    fs::remove(path);  // As some tools do when they are done.
    first.reset();
    return true;
  });
  ASSERT_TRUE(second.ok());
  EXPECT_TRUE(fs::exists(path));
  EXPECT_FALSE(FileLock::Take(path, [] { return false; }).ok());
}

TEST(FileLock, PlaceThatCannotBe_IsAnError) {
  const TemporaryFolder folder;
  const fs::path file = folder.Write("file", "");
  EXPECT_EQ(FileLock::Take(file / "x.lock", {}).error().code(), ErrorCode::kIo);
  fs::create_symlink(file, folder.path() / "link.lock");
  EXPECT_EQ(FileLock::Take(folder.path() / "link.lock", {}).error().code(), ErrorCode::kIo);
}

}  // namespace
}  // namespace halfmoon::hub
