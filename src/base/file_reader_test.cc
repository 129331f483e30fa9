// SPDX-License-Identifier: Apache-2.0
#include "base/file_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace halfmoon {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// Memory at a multiple of the alignment.
class Buffer {
 public:
  explicit Buffer(size_t size) : bytes_(size + FileReader::kAlignment) {}
  std::byte* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() +
           (FileReader::kAlignment - address % FileReader::kAlignment) % FileReader::kAlignment;
  }

 private:
  std::vector<std::byte> bytes_;
};

struct Way {
  std::string name;
  FileReaderOptions options;
  std::string folder;  ///< where its files lie
  std::string method;  ///< of which this has to be a part; empty: any
};

class FileReaderWays : public testing::TestWithParam<Way> {
 protected:
  FileReaderWays() {
    std::string pattern = GetParam().folder + "/halfmoon_reader_XXXXXX";
    const char* made = ::mkdtemp(pattern.data());
    if (made == nullptr) throw std::runtime_error("cannot make a folder in " + GetParam().folder);
    folder_ = made;
  }
  ~FileReaderWays() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path Write(const std::string& name, size_t size, uint32_t seed) {
    std::mt19937 random(seed);
    std::string& content = contents_[name];
    content.resize(size);
    for (char& c : content) c = static_cast<char>(random());
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }

  std::unique_ptr<FileReader> Open(const std::vector<fs::path>& files) {
    Result<std::unique_ptr<FileReader>> reader = OpenFileReader(files, GetParam().options);
    if (!reader.ok()) throw std::runtime_error(reader.error().message());
    return std::move(reader).value();
  }

  std::map<std::string, std::string> contents_;
  fs::path folder_;
};

TEST_P(FileReaderWays, RandomRanges_ComeWholeAndOnce) {
  const std::vector<fs::path> files = {Write("a", 3'000'001, 1), Write("b", 70'000, 2)};
  const std::unique_ptr<FileReader> reader = Open(files);
  EXPECT_THAT(reader->method(), HasSubstr(GetParam().method));
  std::mt19937 random(3);
  std::vector<FileRead> reads;
  std::vector<Buffer> buffers;
  for (uint64_t tag = 0; tag < 300; ++tag) {
    const size_t file = random() % 2;
    const size_t file_size = contents_[file == 0 ? "a" : "b"].size();
    const uint64_t offset = random() % file_size;
    // Ends of files and empty ranges among them.
    const size_t size = tag % 7 == 0 ? file_size - offset : random() % (file_size - offset);
    reads.push_back({.tag = tag, .file = file, .offset = offset, .size_bytes = size});
    buffers.emplace_back(FileReader::BufferBytes(offset, size));
  }
  std::vector<int> seen(reads.size(), 0);
  const auto take = [&](const FileReadDone& done) {
    ASSERT_TRUE(done.status.ok()) << done.status.error().message();
    const FileRead& read = reads[done.tag];
    ++seen[done.tag];
    const std::string& content = contents_[read.file == 0 ? "a" : "b"];
    EXPECT_EQ(std::memcmp(buffers[done.tag].data() + FileReader::Lead(read.offset),
                          content.data() + read.offset, read.size_bytes),
              0)
        << "offset " << read.offset << ", " << read.size_bytes << " bytes";
  };
  for (size_t i = 0; i < reads.size(); ++i) {
    reads[i].buffer = buffers[i].data();
    reader->Submit(reads[i]);
    if (i % 3 == 0) {
      if (const auto done = reader->TryNext()) take(*done);
    }
  }
  while (reader->pending() > 0) take(reader->Next());
  EXPECT_FALSE(reader->TryNext().has_value());
  EXPECT_EQ(seen, std::vector<int>(reads.size(), 1));
}

TEST_P(FileReaderWays, FileCutShortWhileOpen_ErrorNamesFileAndRange_OthersGoOn) {
  const fs::path path = Write("a", 1'000'000, 1);
  const std::vector<fs::path> files = {path};
  const std::unique_ptr<FileReader> reader = Open(files);
  fs::resize_file(path, 500'000);
  for (const uint64_t offset : {100'000, 499'000, 700'000}) {
    Buffer buffer(FileReader::BufferBytes(offset, 50'000));
    reader->Submit({.tag = offset,
                    .file = 0,
                    .offset = offset,
                    .size_bytes = 50'000,
                    .buffer = buffer.data()});
    const FileReadDone done = reader->Next();
    EXPECT_EQ(done.tag, offset);
    if (offset == 100'000) {
      EXPECT_TRUE(done.status.ok()) << done.status.error().message();
      continue;
    }
    ASSERT_FALSE(done.status.ok());
    EXPECT_EQ(done.status.error().code(), ErrorCode::kIo);
    EXPECT_THAT(done.status.error().message(), HasSubstr(path.string()));
    EXPECT_THAT(done.status.error().message(), HasSubstr("offset"));
  }
}

TEST_P(FileReaderWays, DestroyedWithReadsInFlight_WritesNothingAfter) {
  const std::vector<fs::path> files = {Write("a", 4'000'000, 1)};
  std::unique_ptr<FileReader> reader = Open(files);
  std::vector<Buffer> buffers;
  for (int i = 0; i < 4; ++i) buffers.emplace_back(FileReader::BufferBytes(0, 4'000'000));
  for (Buffer& buffer : buffers) {
    reader->Submit({.file = 0, .offset = 0, .size_bytes = 4'000'000, .buffer = buffer.data()});
  }
  reader.reset();
  for (Buffer& buffer : buffers) {
    std::memset(buffer.data(), 0x5A, 4'000'000);
    const auto changed = std::count_if(buffer.data(), buffer.data() + 4'000'000,
                                       [](std::byte b) { return b != std::byte{0x5A}; });
    EXPECT_EQ(changed, 0);
  }
}

TEST(FileReader, MissingFile_ErrorNamesIt) {
  const std::vector<fs::path> files = {"/nonexistent/model.safetensors"};
  const auto reader = OpenFileReader(files);
  ASSERT_FALSE(reader.ok());
  EXPECT_EQ(reader.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(reader.error().message(), HasSubstr("/nonexistent/model.safetensors"));
}

std::vector<Way> Ways() {
  const std::string disk = testing::TempDir();
  std::vector<Way> ways = {
      {"default", {}, disk, ""},
      {"small_pieces", {.depth = 3, .piece_bytes = 8192}, disk, ""},
      {"threads", {.allow_io_uring = false, .depth = 4, .piece_bytes = 65536}, disk, "threads"},
      {"page_cache", {.allow_direct = false}, disk, "page cache"},
  };
  // Memory-backed: refused direct I/O before Linux 6.6.
  if (fs::is_directory("/dev/shm")) ways.push_back({"tmpfs", {}, "/dev/shm", ""});
  return ways;
}

INSTANTIATE_TEST_SUITE_P(All, FileReaderWays, testing::ValuesIn(Ways()),
                         [](const auto& way) { return way.param.name; });

}  // namespace
}  // namespace halfmoon
