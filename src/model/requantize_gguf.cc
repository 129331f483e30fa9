// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "base/file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "model/requantize_impl.h"
#include "quant/quant.h"

namespace halfmoon::model {
namespace {

namespace fs = std::filesystem;
using checkpoint::GgufTensor;
using tensor::DType;

struct Target {
  std::string_view name;
  DType dtype;
  DType fallback;      ///< for matrices whose rows are not whole blocks of dtype
  uint32_t file_type;  ///< general.file_type
};

constexpr std::array<Target, 10> kTargets = {{
    {"q8_0", DType::kQ8_0, DType::kQ8_0, 7},
    {"q6_k", DType::kQ6_K, DType::kQ8_0, 18},
    {"q5_k", DType::kQ5_K, DType::kQ5_1, 16},
    {"q5_1", DType::kQ5_1, DType::kQ5_1, 9},
    {"q5_0", DType::kQ5_0, DType::kQ5_0, 8},
    {"q4_k", DType::kQ4_K, DType::kQ5_0, 14},
    {"q4_1", DType::kQ4_1, DType::kQ4_1, 3},
    {"q4_0", DType::kQ4_0, DType::kQ4_0, 2},
    {"bf16", DType::kBF16, DType::kBF16, 32},
    {"f16", DType::kF16, DType::kF16, 1},
}};

Result<Target> FindTarget(std::string type) {
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string known;
  for (const Target& target : kTargets) {
    if (target.name == type) return target;
    known += " " + std::string(target.name);
  }
  return Error(
      ErrorCode::kInvalidArgument,
      "type '" + type + "' is not one that a GGUF file is written with; those are" + known);
}

/// Whether a name is that of a linear weight. What else has two dimensions (embeddings, routers) is
/// small or read in its own precision.
bool IsLinearWeight(std::string_view name) {
  constexpr std::string_view kNotLinear[] = {"token_embd", "embed_tokens", "ffn_gate_inp", "norm",
                                             "rope_",      "indexer.proj", "eh_proj",      "ssm_"};
  return name.ends_with(".weight") &&
         std::none_of(std::begin(kNotLinear), std::end(kNotLinear), [&](std::string_view part) {
           return name.find(part) != std::string_view::npos;
         });
}

/// The type that `tensor` is written in.
DType TypeFor(const GgufTensor& tensor, const Target& target) {
  const tensor::Shape& shape = tensor.view.shape;
  const DType from = tensor.view.dtype;
  const bool decodes = quant::IsQuantized(from) || from == DType::kF32 || from == DType::kF16 ||
                       from == DType::kBF16;
  if (shape.rank() < 2 || !decodes || !IsLinearWeight(tensor.name)) return from;
  for (const DType to : {target.dtype, target.fallback}) {
    const auto size_bytes = tensor::SizeBytes(to, shape);
    if (size_bytes.ok()) return *size_bytes < tensor.view.bytes.size() ? to : from;
  }
  return from;
}

Result<ErrorSums> WriteTensor(const GgufTensor& tensor, DType to, ThreadPool* pool,
                              checkpoint::GgufWriter* writer) {
  const tensor::Shape& shape = tensor.view.shape;
  const int64_t cols = shape[shape.rank() - 1];
  HM_ASSIGN(const size_t from_row, tensor::SizeBytes(tensor.view.dtype, {cols}));
  HM_ASSIGN(const size_t to_row, tensor::SizeBytes(to, {cols}));
  const int64_t rows = static_cast<int64_t>(tensor.view.bytes.size() / from_row);
  std::vector<std::byte> encoded(static_cast<size_t>(std::min(rows, BatchRows(cols))) * to_row);
  return RunPipeline(
      {.rows = rows,
       .cols = cols,
       .decode =
           [&](int64_t row, std::span<float> values) {
             return quant::DecodeRow(tensor.view.dtype,
                                     tensor.view.bytes.data() + static_cast<size_t>(row) * from_row,
                                     cols, values.data());
           },
       .encode =
           [&](int64_t slot, std::span<const float> values, std::span<float> decoded) {
             std::byte* at = encoded.data() + static_cast<size_t>(slot) * to_row;
             const Status written = quant::EncodeRow(to, values.data(), cols, at);
             const Status read = quant::DecodeRow(to, at, cols, decoded.data());
             HM_CHECK(written.ok() && read.ok(), std::string(tensor::Info(to).name));
           },
       .write =
           [&](int64_t count) {
             return writer->Append(
                 std::span<const std::byte>(encoded).first(static_cast<size_t>(count) * to_row));
           }},
      pool);
}

}  // namespace

const std::vector<std::string>& GgufTargets() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Target& target : kTargets) names.emplace_back(target.name);
    return names;
  }();
  return kNames;
}

Result<RequantizeSummary> RequantizeGguf(const fs::path& source, const fs::path& out,
                                         const RequantizeOptions& options, ThreadPool* pool) {
  HM_ASSIGN(const Target target, FindTarget(options.type));
  if (fs::is_directory(out)) {
    return Error(ErrorCode::kInvalidArgument,
                 out.string() + ": is a folder; a GGUF source becomes a GGUF file");
  }
  HM_ASSIGN(const MappedFile mapped, MappedFile::Open(source));
  HM_ASSIGN(const checkpoint::GgufFile file, checkpoint::ParseGguf(mapped.bytes()));
  HM_ASSIGN(const auto num_parts, file.metadata.FindInt("split.count"));
  if (num_parts.value_or(1) > 1) {
    return Error(ErrorCode::kUnsupported,
                 source.string() + ": one of " + std::to_string(*num_parts) +
                     " parts of a split model; join them into one file to requantise it");
  }

  std::vector<checkpoint::GgufEntry> entries;
  size_t from_bytes = 0;
  size_t to_bytes = 0;
  for (const GgufTensor& tensor : file.tensors) {
    const DType to = TypeFor(tensor, target);
    entries.push_back({.name = std::string(tensor.name), .dtype = to, .shape = tensor.view.shape});
    HM_ASSIGN(const size_t size_bytes, tensor::SizeBytes(to, tensor.view.shape));
    from_bytes += tensor.view.bytes.size();
    to_bytes += size_bytes;
  }
  HM_TRY(CheckSpace(out.parent_path(), to_bytes + file.header_bytes));
  checkpoint::GgufMetadataBuilder metadata;
  for (const auto& [key, value] : file.metadata.values()) metadata.Copy(key, value);
  metadata.SetU32("general.file_type", target.file_type);
  metadata.SetU32("general.quantization_version", 2);
  HM_ASSIGN(const auto alignment, file.metadata.FindInt("general.alignment"));
  HM_ASSIGN(checkpoint::GgufWriter writer,
            checkpoint::GgufWriter::Create(out, metadata, entries,
                                           static_cast<size_t>(alignment.value_or(32))));
  RequantizeReport report(options, from_bytes);
  for (size_t i = 0; i < entries.size(); ++i) {
    const GgufTensor& tensor = file.tensors[i];
    const std::string from(tensor::Info(tensor.view.dtype).name);
    if (entries[i].dtype == tensor.view.dtype) {
      HM_TRY(writer.Append(tensor.view.bytes));
      report.Kept(entries[i].name, tensor.view.shape, from, tensor.view.bytes.size());
      continue;
    }
    HM_ASSIGN(const ErrorSums sums, WriteTensor(tensor, entries[i].dtype, pool, &writer)
                                        .WithContext("tensor '" + entries[i].name + "'"));
    HM_ASSIGN(const size_t size_bytes, tensor::SizeBytes(entries[i].dtype, tensor.view.shape));
    report.Changed({.name = entries[i].name,
                    .shape = tensor.view.shape,
                    .from = from,
                    .to = std::string(tensor::Info(entries[i].dtype).name),
                    .from_bytes = tensor.view.bytes.size(),
                    .to_bytes = size_bytes},
                   sums);
  }
  HM_TRY(writer.Finish());
  return report.Take(out);
}

}  // namespace halfmoon::model
