// SPDX-License-Identifier: Apache-2.0
// The parts of requantize.h. Callers outside these files use that header.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/requantize.h"

namespace halfmoon::model {

/// Rows of one matrix on their way: read, encode, write. `decode` and `encode` run on the pool, for
/// different rows at once; `write` on the calling thread.
struct RowPipeline {
  int64_t rows = 0;
  int64_t cols = 0;
  std::function<Status(int64_t row, std::span<float> values)> decode;
  /// Encodes a row into place `slot` of the batch, and writes what that decodes to over `decoded`.
  std::function<void(int64_t slot, std::span<const float> values, std::span<float> decoded)> encode;
  /// Takes `count` encoded rows, those in places 0, 1, .. of the batch.
  std::function<Status(int64_t count)> write;
};

/// Squares summed over weights.
struct ErrorSums {
  double error = 0.0;
  double norm = 0.0;
  double max_abs = 0.0;

  void Add(const ErrorSums& other);
  double relative_rms() const;
};

/// Rows that a batch holds at most.
int64_t BatchRows(int64_t cols);

/// Runs all rows, batch after batch. Errors: those of the parts, and kCorrupt naming row and column
/// of a weight that is not finite.
Result<ErrorSums> RunPipeline(const RowPipeline& pipeline, ThreadPool* pool);

/// Collects what Requantize answers.
class RequantizeReport {
 public:
  RequantizeReport(const RequantizeOptions& options, size_t total_bytes)
      : options_(options), total_bytes_(total_bytes) {}
  void Kept(const std::string& name, const tensor::Shape& shape, const std::string& type,
            size_t size_bytes);
  void Changed(RequantizedTensor tensor, const ErrorSums& sums);
  RequantizeSummary Take(const std::filesystem::path& out);

 private:
  void Add(const RequantizedTensor& tensor);

  const RequantizeOptions& options_;
  size_t total_bytes_ = 0;
  RequantizeSummary summary_;
  ErrorSums sums_;
};

/// That `folder` has room for size_bytes. Errors: kResourceExhausted with both numbers.
Status CheckSpace(const std::filesystem::path& folder, size_t size_bytes);

Result<RequantizeSummary> RequantizeGguf(const std::filesystem::path& source,
                                         const std::filesystem::path& out,
                                         const RequantizeOptions& options, ThreadPool* pool);
Result<RequantizeSummary> RequantizeSafetensors(const std::filesystem::path& source,
                                                const std::filesystem::path& out,
                                                const RequantizeOptions& options, ThreadPool* pool);

}  // namespace halfmoon::model
