// SPDX-License-Identifier: Apache-2.0
#include "model/requantize.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "checkpoint/gguf.h"
#include "model/requantize_impl.h"

namespace halfmoon::model {
namespace {

namespace fs = std::filesystem;

// Floats of a batch: 16 MiB of weights, enough to keep every thread busy.
constexpr int64_t kBatchFloats = int64_t{4} << 20;
constexpr int64_t kMaxBatchRows = 4096;

ErrorSums SumsOf(std::span<const float> values, std::span<const float> decoded) {
  ErrorSums sums;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = static_cast<double>(decoded[i]) - values[i];
    sums.error += difference * difference;
    sums.norm += static_cast<double>(values[i]) * values[i];
    sums.max_abs = std::max(sums.max_abs, std::abs(difference));
  }
  return sums;
}

/// What a row of a batch came to. Tasks of the pool fill it.
struct RowResult {
  ErrorSums sums;
  Status status;
};

/// The GGUF file that `source` is, or holds and nothing else; nullopt where it is something else.
Result<std::optional<fs::path>> GgufFileOf(const fs::path& source) {
  std::error_code error;
  if (!fs::exists(source, error)) {
    return Error(ErrorCode::kNotFound, source.string() + ": there is no such file or folder");
  }
  if (!fs::is_directory(source, error)) {
    HM_ASSIGN(const MappedFile file, MappedFile::Open(source));
    return checkpoint::IsGguf(file.bytes()) ? std::optional(source) : std::nullopt;
  }
  std::optional<fs::path> found;
  for (fs::directory_iterator it(source, error), end; !error && it != end; it.increment(error)) {
    const fs::path& path = it->path();
    if (path.filename() == "model.safetensors" ||
        path.filename() == "model.safetensors.index.json") {
      return std::optional<fs::path>();
    }
    if (path.extension() != ".gguf") continue;
    if (found.has_value()) {
      return Error(ErrorCode::kInvalidArgument,
                   source.string() + ": several .gguf files; name the one to read");
    }
    found = path;
  }
  return found;
}

}  // namespace

void ErrorSums::Add(const ErrorSums& other) {
  error += other.error;
  norm += other.norm;
  max_abs = std::max(max_abs, other.max_abs);
}

double ErrorSums::relative_rms() const { return norm > 0.0 ? std::sqrt(error / norm) : 0.0; }

int64_t BatchRows(int64_t cols) {
  return std::clamp<int64_t>(kBatchFloats / std::max<int64_t>(cols, 1), 1, kMaxBatchRows);
}

Result<ErrorSums> RunPipeline(const RowPipeline& pipeline, ThreadPool* pool) {
  const int64_t batch_rows = BatchRows(pipeline.cols);
  const auto cols = static_cast<size_t>(pipeline.cols);
  const auto places = static_cast<size_t>(std::min(batch_rows, pipeline.rows));
  std::vector<float> values(places * cols);
  std::vector<float> decoded(places * cols);
  std::vector<RowResult> results(places);
  ErrorSums sums;
  for (int64_t first = 0; first < pipeline.rows; first += batch_rows) {
    const int64_t count = std::min(batch_rows, pipeline.rows - first);
    pool->ParallelFor(static_cast<size_t>(count), [&](size_t slot, int) {
      const int64_t row = first + static_cast<int64_t>(slot);
      const std::span<float> from(values.data() + slot * cols, cols);
      const std::span<float> to(decoded.data() + slot * cols, cols);
      results[slot] = {.sums = {}, .status = pipeline.decode(row, from)};
      if (!results[slot].status.ok()) return;
      const auto odd =
          std::find_if(from.begin(), from.end(), [](float value) { return !std::isfinite(value); });
      if (odd != from.end()) {
        results[slot].status =
            Error(ErrorCode::kCorrupt, "value [" + std::to_string(row) + ", " +
                                           std::to_string(odd - from.begin()) + "] is not finite");
        return;
      }
      pipeline.encode(static_cast<int64_t>(slot), from, to);
      results[slot].sums = SumsOf(from, to);
    });
    for (size_t slot = 0; slot < static_cast<size_t>(count); ++slot) {
      HM_TRY(results[slot].status);
      sums.Add(results[slot].sums);
    }
    HM_TRY(pipeline.write(count));
  }
  return sums;
}

void RequantizeReport::Kept(const std::string& name, const tensor::Shape& shape,
                            const std::string& type, size_t size_bytes) {
  Add({.name = name,
       .shape = shape,
       .from = type,
       .to = type,
       .from_bytes = size_bytes,
       .to_bytes = size_bytes});
}

void RequantizeReport::Changed(RequantizedTensor tensor, const ErrorSums& sums) {
  tensor.relative_rms = sums.relative_rms();
  tensor.max_abs = sums.max_abs;
  sums_.Add(sums);
  ++summary_.num_changed;
  Add(tensor);
}

void RequantizeReport::Add(const RequantizedTensor& tensor) {
  ++summary_.num_tensors;
  summary_.from_bytes += tensor.from_bytes;
  summary_.to_bytes += tensor.to_bytes;
  if (options_.report) options_.report(tensor, summary_.from_bytes, total_bytes_);
}

RequantizeSummary RequantizeReport::Take(const fs::path& out) {
  summary_.out = out;
  summary_.relative_rms = sums_.relative_rms();
  return std::move(summary_);
}

Status CheckSpace(const fs::path& folder, size_t size_bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder.empty() ? "." : folder, error);
  if (error) return Error(ErrorCode::kIo, folder.string() + ": " + error.message());
  if (space.available >= size_bytes) return {};
  return Error(ErrorCode::kResourceExhausted,
               folder.string() + ": the result takes " + std::to_string(size_bytes >> 20) +
                   " MiB, " + std::to_string(space.available >> 20) + " MiB are free");
}

Result<RequantizeSummary> Requantize(const fs::path& source, const fs::path& out,
                                     const RequantizeOptions& options, ThreadPool* pool) {
  HM_ASSIGN(const std::optional<fs::path> gguf, GgufFileOf(source));
  const fs::path from = gguf.value_or(source);
  std::error_code error;
  if (fs::exists(out, error)) {
    if (fs::equivalent(from, out, error)) {
      return Error(ErrorCode::kInvalidArgument, out.string() + ": is the source itself");
    }
    if (!options.force) {
      return Error(ErrorCode::kInvalidArgument,
                   out.string() + ": exists already (--force replaces it)");
    }
  }
  return gguf.has_value() ? RequantizeGguf(from, out, options, pool)
                          : RequantizeSafetensors(from, out, options, pool);
}

}  // namespace halfmoon::model
