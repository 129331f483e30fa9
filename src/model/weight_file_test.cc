// SPDX-License-Identifier: Apache-2.0
#include "model/weight_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace halfmoon::model {
namespace {

using testing::HasSubstr;

constexpr uint64_t kDataEnd = kWeightDataOffset + 3 * kWeightBlockBytes + 640;

/// The bytes of a file with that table.
std::string FileOf(WeightTable table) {
  std::string file(TableOffset(table.data_end), '\0');
  for (size_t i = kWeightDataOffset; i < table.data_end; ++i) {
    file[i] = static_cast<char>(i * 7 + i / 4096);
  }
  if (table.checksums.empty()) {
    const auto bytes = std::as_bytes(std::span(file));
    for (size_t at = kWeightDataOffset; at < table.data_end; at += kWeightBlockBytes) {
      table.checksums.push_back(BlockChecksum(bytes, table.data_end, table.checksums.size()));
    }
  }
  const std::string contents = SerializeTable(table);
  const std::string header = SerializeHeader(table.data_end, contents);
  file.replace(0, header.size(), header);
  return file + contents;
}

/// A Q4_K matrix of 32 x 256 at the start of the data, a float32 one at its end.
WeightTable SmallTable() {
  return {.key = "key",
          .sources = {{.path = "/m.gguf",
                       .identity = {.size_bytes = 5, .inode = 7, .modified_ns = -1}}},
          .matrices = {{.name = "a.weight",
                        .format = kernels::WeightFormat::kU4K,
                        .zero = 0,
                        .rows = 32,
                        .cols = 256,
                        .offset = kWeightDataOffset},
                       {.name = "b.weight",
                        .format = kernels::WeightFormat::kF32,
                        .zero = 0,
                        .rows = 3,
                        .cols = 10,
                        .offset = kDataEnd - 640}},
          .vectors = {{.name = "norm", .values = {1.0f, -2.5f}}},
          .data_end = kDataEnd};
}

std::string ErrorOf(const std::string& file) {
  const auto parsed = ParseWeightFile(std::as_bytes(std::span(file)));
  return parsed.ok() ? "" : parsed.error().message();
}

TEST(WeightFile, Table_RoundTrips) {
  const std::string file = FileOf(SmallTable());
  const auto parsed = ParseWeightFile(std::as_bytes(std::span(file)));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(parsed->key, "key");
  EXPECT_EQ(parsed->sources[0].path, "/m.gguf");
  EXPECT_EQ(parsed->sources[0].identity, SmallTable().sources[0].identity);
  ASSERT_EQ(parsed->matrices.size(), 2u);
  EXPECT_EQ(parsed->matrices[0].format, kernels::WeightFormat::kU4K);
  EXPECT_EQ(parsed->matrices[1].name, "b.weight");
  EXPECT_EQ(parsed->matrices[1].rows, 3);
  EXPECT_EQ(parsed->matrices[1].offset, kDataEnd - 640);
  EXPECT_THAT(parsed->vectors[0].values, testing::ElementsAre(1.0f, -2.5f));
  EXPECT_EQ(parsed->checksums.size(), 4u);
}

TEST(WeightFile, OtherFiles_AreNamedAsSuch) {
  EXPECT_THAT(ErrorOf("short"), HasSubstr("too short"));
  EXPECT_THAT(ErrorOf(std::string(8192, 'x')), HasSubstr("not a file of cached weights"));
  std::string newer = FileOf(SmallTable());
  newer[8] = 9;
  EXPECT_THAT(ErrorOf(newer), HasSubstr("version 9; this build has 1"));
}

TEST(WeightFile, AnyDamagedByteOfHeaderOrTable_IsFound) {
  const std::string good = FileOf(SmallTable());
  std::vector<size_t> places;
  for (size_t i = 0; i < 64; ++i) places.push_back(i);
  for (size_t i = TableOffset(kDataEnd); i < good.size(); ++i) places.push_back(i);
  for (const size_t at : places) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    EXPECT_NE(ErrorOf(bad), "") << "byte " << at;
  }
}

TEST(WeightFile, AnyOtherLength_IsFound) {
  const std::string good = FileOf(SmallTable());
  EXPECT_THAT(ErrorOf(good.substr(0, good.size() - 1)), HasSubstr("its header says"));
  EXPECT_THAT(ErrorOf(good.substr(0, kWeightDataOffset + 9)), HasSubstr("its header says"));
  EXPECT_THAT(ErrorOf(good + "x"), HasSubstr("its header says"));
}

TEST(WeightFile, MatricesThatDoNotFit_AreRefused) {
  const auto with = [](auto change) {
    WeightTable table = SmallTable();
    change(&table.matrices[1]);
    return ErrorOf(FileOf(table));
  };
  EXPECT_THAT(with([](FiledMatrix* m) { m->rows = 17; }), HasSubstr("ends beyond the data"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->rows = m->cols = int64_t{1} << 31; }),
              HasSubstr("ends beyond the data"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->cols = int64_t{1} << 40; }), HasSubstr("no shape"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->rows = -1; }), HasSubstr("no shape"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->offset = kDataEnd + 64; }), HasSubstr("not lie in"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->offset = 0; }), HasSubstr("not lie in"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->offset -= 1; }), HasSubstr("not lie in"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->zero = 999; }), HasSubstr("a zero that"));
  EXPECT_THAT(with([](FiledMatrix* m) {
                m->format = kernels::WeightFormat::kU6S;
                m->cols = 32;
              }),
              HasSubstr("not whole blocks of u6s"));
  EXPECT_THAT(with([](FiledMatrix* m) { m->format = static_cast<kernels::WeightFormat>(200); }),
              HasSubstr("format 200"));
}

TEST(WeightFile, ChecksumsThatAreMissing_AreFound) {
  WeightTable table = SmallTable();
  table.checksums = {1, 2};
  EXPECT_THAT(ErrorOf(FileOf(table)), HasSubstr("2 checksums for 4 blocks"));
}

TEST(WeightFile, DamagedData_IsFoundInTheBlocksThatAreChecked) {
  ThreadPool pool(2);
  const std::string good = FileOf(SmallTable());
  const auto table = ParseWeightFile(std::as_bytes(std::span(good)));
  ASSERT_TRUE(table.ok());
  const auto check = [&](const std::string& file, size_t blocks) {
    const Status status = CheckBlocks(std::as_bytes(std::span(file)), *table, blocks, &pool);
    return status.ok() ? "" : status.error().message();
  };
  EXPECT_EQ(check(good, 100), "");
  for (const size_t block : {0, 1, 3}) {
    std::string bad = good;
    bad[kWeightDataOffset + block * kWeightBlockBytes + 5] ^= 1;
    EXPECT_THAT(check(bad, 100), HasSubstr("data block " + std::to_string(block) + " of 4"));
    // Of two samples, one is the first block and one the last.
    EXPECT_EQ(check(bad, 2).empty(), block == 1) << block;
  }
}

}  // namespace
}  // namespace halfmoon::model
