// SPDX-License-Identifier: Apache-2.0
#include "kernels/packed_matrix.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

// A product with unit vectors reads the packed weights back.
TEST(Pack, EveryType_UnitVectorsReadBackTheDecodedWeights) {
  ThreadPool pool(1);
  const Stream stream(pool, Isa::kGeneric);
  for (const DType dtype : kWeightTypes) {
    for (const int64_t rows : {1, 16, 35}) {
      const int64_t cols = tensor::Info(dtype).block_elements == 1 ? 77 : 512;
      const TestMatrix w(dtype, rows, cols, 1);
      std::vector<float> x(static_cast<size_t>(cols * cols));
      for (int64_t k = 0; k < cols; ++k) x[static_cast<size_t>(k * cols + k)] = 1.0f;
      std::vector<float> y(static_cast<size_t>(cols * rows));
      MatMulJob job;
      job.weight = &w.packed;
      job.x = {.f32 = x.data(), .stride = cols};
      job.num_rows = cols;
      job.y = y.data();
      job.y_stride = rows;
      MatMul(stream, {&job, 1});
      for (int64_t k = 0; k < cols; ++k) {
        for (int64_t r = 0; r < rows; ++r) {
          EXPECT_EQ(y[static_cast<size_t>(k * rows + r)],
                    w.decoded[static_cast<size_t>(r * cols + k)])
              << tensor::Info(dtype).name << " row " << r << " input " << k;
        }
      }
    }
  }
}

TEST(Pack, MemoryThatHeldAnotherMatrix_SameBytesAsInItsOwn) {
  for (const DType dtype : kWeightTypes) {
    for (const int64_t rows : {16, 35}) {
      const int64_t cols = tensor::Info(dtype).block_elements == 1 ? 77 : 512;
      const TestMatrix w(dtype, rows, cols, 1);
      const size_t row_bytes = w.bytes.size() / static_cast<size_t>(rows);
      const RowSource source{.dtype = dtype, .rows = rows, .cols = cols, .row = [&](int64_t r) {
                               return w.bytes.data() + static_cast<size_t>(r) * row_bytes;
                             }};
      ASSERT_EQ(PackedSizeBytes(w.packed.format(), rows, cols), w.packed.size_bytes());
      tensor::AlignedBuffer memory(w.packed.size_bytes());
      std::memset(memory.data(), 0xFF, memory.size_bytes());
      Result<PackedMatrix> packed = NewPacked(source, {memory.data(), memory.size_bytes()});
      ASSERT_TRUE(packed.ok());
      EXPECT_EQ(packed->tile(0), memory.data());
      for (int64_t t = 0; t < packed->num_tiles(); ++t) PackTile(source, t, &*packed);
      // All but what fills a tile up to whole lines, which nothing reads.
      for (int64_t t = 0; t < packed->num_tiles(); ++t) {
        size_t differ = 0;
        for (size_t i = 0; i < packed->tile_bytes(); ++i) {
          differ += packed->tile(t)[i] != w.packed.tile(t)[i] ? 1 : 0;
        }
        EXPECT_LT(differ, 64u) << tensor::Info(dtype).name << " tile " << t;
      }
    }
  }
}

TEST(Pack, Q4_1Tile_LiesAsDocumented) {
  constexpr int64_t kCols = 64;
  const TestMatrix w(DType::kQ4_1, 17, kCols, 2);
  EXPECT_EQ(w.packed.format(), WeightFormat::kU4DM);
  EXPECT_EQ(w.packed.num_tiles(), 2);
  EXPECT_EQ(w.packed.quant_bytes(), 2u * 256);
  EXPECT_EQ(w.packed.tile_bytes(), 2u * 256 + 2 * 64);
  // Row 16 is row 0 of tile 1. Stored block: d, m, then value j low and j + 16 high in byte j.
  const auto* stored = reinterpret_cast<const uint8_t*>(w.bytes.data()) + 16 * 2 * 20;
  const auto* tile = reinterpret_cast<const uint8_t*>(w.packed.tile(1));
  for (int g = 0; g < 2; ++g) {
    const uint8_t* block = stored + g * 20;
    EXPECT_EQ(std::memcmp(block, tile + 512 + g * 64, 2), 0);
    EXPECT_EQ(std::memcmp(block + 2, tile + 512 + g * 64 + 32, 2), 0);
    for (int k = 0; k < 32; ++k) {
      const int q = k < 16 ? block[4 + k] & 15 : block[4 + k - 16] >> 4;
      const uint8_t byte = tile[g * 256 + k / 8 * 64 + k % 4];
      EXPECT_EQ(q, k % 8 < 4 ? byte & 15 : byte >> 4) << g << " " << k;
    }
  }
}

TEST(NewPacked, TypesThatHoldNoWeights_Unsupported) {
  for (const DType dtype : {DType::kI32, DType::kBool, DType::kF64, DType::kF8E4M3}) {
    RowSource source;
    source.dtype = dtype;
    source.rows = source.cols = 32;
    const Result<PackedMatrix> packed = NewPacked(source);
    ASSERT_FALSE(packed.ok());
    EXPECT_EQ(packed.error().code(), ErrorCode::kUnsupported);
    EXPECT_NE(packed.error().message().find(tensor::Info(dtype).name), std::string::npos);
  }
}

TEST(NewPacked, PartialBlocks_InvalidArgumentNamesTheSizes) {
  RowSource source;
  source.dtype = DType::kQ4_K;
  source.rows = 4;
  source.cols = 288;
  const Result<PackedMatrix> packed = NewPacked(source);
  ASSERT_FALSE(packed.ok());
  EXPECT_EQ(packed.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(packed.error().message().find("288"), std::string::npos);
}

TEST(WeightFormatName, EveryFormat_Distinct) {
  for (int i = 0; i < kNumWeightFormats; ++i) {
    for (int j = 0; j < i; ++j) {
      EXPECT_NE(WeightFormatName(static_cast<WeightFormat>(i)),
                WeightFormatName(static_cast<WeightFormat>(j)));
    }
  }
}

}  // namespace
}  // namespace halfmoon::kernels
