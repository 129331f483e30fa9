// SPDX-License-Identifier: Apache-2.0
#include "base/wire.h"

#include <gtest/gtest.h>

namespace halfmoon {
namespace {

enum class Color : uint8_t { kRed, kGreen };

std::string Sample() {
  WireWriter writer;
  writer.Put(uint32_t{7});
  writer.Put(Color::kGreen);
  writer.Put(true);
  writer.PutText("abc");
  writer.PutList(std::vector<int32_t>{1, -2, 3});
  writer.Put(0.5);
  return writer.Take();
}

struct Read {
  uint32_t number;
  Color color;
  bool flag;
  std::string text;
  std::vector<int32_t> list;
  double real;
  Status status;
};

Read ReadSample(std::string_view bytes) {
  WireReader reader(bytes);
  Read read{.number = reader.Get<uint32_t>(),
            .color = reader.GetEnum(Color::kGreen),
            .flag = reader.Get<bool>(),
            .text = reader.GetText(),
            .list = reader.GetList<int32_t>(),
            .real = reader.Get<double>()};
  read.status = reader.Finish("sample");
  return read;
}

TEST(Wire, RoundTrip_KeepsEveryField) {
  const Read read = ReadSample(Sample());
  ASSERT_TRUE(read.status.ok());
  EXPECT_EQ(read.number, 7u);
  EXPECT_EQ(read.color, Color::kGreen);
  EXPECT_TRUE(read.flag);
  EXPECT_EQ(read.text, "abc");
  EXPECT_EQ(read.list, (std::vector<int32_t>{1, -2, 3}));
  EXPECT_EQ(read.real, 0.5);
}

TEST(Wire, CutAnywhere_IsCorrupt) {
  const std::string whole = Sample();
  for (size_t size = 0; size < whole.size(); ++size) {
    const Read read = ReadSample(std::string_view(whole).substr(0, size));
    ASSERT_FALSE(read.status.ok()) << size;
    EXPECT_EQ(read.status.error().code(), ErrorCode::kCorrupt);
  }
  EXPECT_FALSE(ReadSample(whole + "x").status.ok());
}

TEST(Wire, LengthBeyondTheEnd_TakesNoMemory) {
  WireWriter writer;
  writer.Put(uint32_t{0xFFFFFFFF});
  const std::string bytes = writer.Take();
  WireReader list(bytes);
  EXPECT_TRUE(list.GetList<uint64_t>().empty());
  EXPECT_FALSE(list.Finish("list").ok());
  WireReader count(bytes);
  EXPECT_EQ(count.GetCount(1), 0u);
  EXPECT_FALSE(count.Finish("count").ok());
}

TEST(Wire, UnknownEnumerator_IsCorrupt) {
  WireReader reader("\x02");
  reader.GetEnum(Color::kGreen);
  EXPECT_FALSE(reader.Finish("color").ok());
}

}  // namespace
}  // namespace halfmoon
