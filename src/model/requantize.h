// SPDX-License-Identifier: Apache-2.0
// A checkpoint written again with its linear weights in a smaller type.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace halfmoon::model {

/// What became of one tensor.
struct RequantizedTensor {
  std::string name;
  tensor::Shape shape;
  std::string from;  ///< type before and after, as the formats spell them; equal where it stays
  std::string to;
  size_t from_bytes = 0;
  size_t to_bytes = 0;
  double relative_rms = 0.0;  ///< of the error against the weights
  double max_abs = 0.0;
};

struct RequantizeSummary {
  std::filesystem::path out;
  int64_t num_tensors = 0;
  int64_t num_changed = 0;
  size_t from_bytes = 0;
  size_t to_bytes = 0;
  double relative_rms = 0.0;  ///< over all weights that changed
};

struct RequantizeOptions {
  std::string type;    ///< in any case: "q4_k", "INT4"
  bool force = false;  ///< replace what is at `out`
  /// Called after each tensor, in the order of the file. `done` and `total` count bytes read.
  std::function<void(const RequantizedTensor&, size_t done, size_t total)> report;
};

/// Types that `Requantize` writes into GGUF files, and into folders of safetensors.
const std::vector<std::string>& GgufTargets();
const std::vector<std::string>& SafetensorsTargets();

/// Writes the checkpoint at `source` to `out` with its linear weights in options.type. The
/// container stays what it is, and everything around the weights is kept:
///  - a GGUF file (or a folder with one) becomes a GGUF file, types of GgufTargets();
///  - safetensors become a folder with the other files of the source's folder, types of
///    SafetensorsTargets(): compressed-tensors "pack-quantized", symmetric, groups of 32.
/// Embeddings, output head (safetensors), routers, norms and biases keep their type; so do tensors
/// that are as small already. `out` appears whole or not at all. Errors: kInvalidArgument (a type
/// the container lacks, `out` exists), kResourceExhausted (disk), kCorrupt (a weight that is not
/// finite, naming the tensor), kIo.
Result<RequantizeSummary> Requantize(const std::filesystem::path& source,
                                     const std::filesystem::path& out,
                                     const RequantizeOptions& options, ThreadPool* pool);

}  // namespace halfmoon::model
