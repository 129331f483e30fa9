// SPDX-License-Identifier: Apache-2.0
#include "base/file_transfers.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/temporary_folder_for_test.h"

namespace halfmoon {
namespace {

class FileTransfersTest : public ::testing::TestWithParam<bool> {
 protected:
  FileTransfersTest()
      : fd_(::open((folder_.path() / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    EXPECT_GE(fd_.get(), 0);
  }
  FileTransfer Make(uint64_t tag, FileTransfer::Kind kind, uint64_t offset,
                    std::vector<std::byte>* bytes) const {
    return {.tag = tag,
            .kind = kind,
            .fd = fd_.get(),
            .offset = offset,
            .size_bytes = bytes->size(),
            .buffer = bytes->data()};
  }

  TemporaryFolder folder_;
  FileDescriptor fd_;
};

TEST_P(FileTransfersTest, Written_ReadBackInAnyOrder) {
  const auto transfers = NewFileTransfers(4, GetParam());
  std::vector<std::vector<std::byte>> blocks;
  for (int i = 0; i < 4; ++i) blocks.emplace_back(100'000, static_cast<std::byte>(i + 1));
  for (uint64_t i = 0; i < 4; ++i) {
    transfers->Start(Make(i, FileTransfer::Kind::kWrite, i * 100'000, &blocks[i]));
  }
  EXPECT_EQ(transfers->pending(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(transfers->Next().error, 0);
  EXPECT_FALSE(transfers->TryNext().has_value());
  std::vector<std::vector<std::byte>> read(4, std::vector<std::byte>(100'000));
  for (uint64_t i = 0; i < 4; ++i) {
    transfers->Start(Make(i, FileTransfer::Kind::kRead, i * 100'000, &read[i]));
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(transfers->Next().error, 0);
  EXPECT_EQ(read, blocks);
}

TEST_P(FileTransfersTest, BeyondTheEnd_SaysSo) {
  const auto transfers = NewFileTransfers(1, GetParam());
  std::vector<std::byte> bytes(100);
  transfers->Start(Make(7, FileTransfer::Kind::kWrite, 0, &bytes));
  EXPECT_EQ(transfers->Next().error, 0);
  transfers->Start(Make(8, FileTransfer::Kind::kRead, 50, &bytes));
  const FileTransferDone done = transfers->Next();
  EXPECT_EQ(done.tag, 8u);
  EXPECT_EQ(done.error, ENODATA);
}

TEST_P(FileTransfersTest, RefusedByTheSystem_CarriesItsError) {
  const auto transfers = NewFileTransfers(1, GetParam());
  std::vector<std::byte> bytes(100);
  const FileDescriptor reads_only(::open((folder_.path() / "file").c_str(), O_RDONLY | O_CLOEXEC));
  FileTransfer write = Make(1, FileTransfer::Kind::kWrite, 0, &bytes);
  write.fd = reads_only.get();
  transfers->Start(write);
  EXPECT_EQ(transfers->Next().error, EBADF);
}

INSTANTIATE_TEST_SUITE_P(UringAndThreads, FileTransfersTest, ::testing::Bool(),
                         [](const auto& of) { return of.param ? "uring" : "threads"; });

}  // namespace
}  // namespace halfmoon
