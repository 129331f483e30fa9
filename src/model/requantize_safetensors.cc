// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <algorithm>
#include <cctype>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_writer.h"
#include "model/matrix_source.h"
#include "model/requantize_impl.h"
#include "quant/integer_groups.h"

namespace halfmoon::model {
namespace {

namespace fs = std::filesystem;
using checkpoint::SafetensorsEntry;
using checkpoint::SafetensorsWriter;
using checkpoint::StoredTensor;
using tensor::DType;

constexpr int64_t kGroup = 32;  // as Kimi K2 publishes it
// Published checkpoints come in files of about 5 GB, so that a broken download costs one of them.
constexpr size_t kMaxShardBytes = size_t{5} * 1000 * 1000 * 1000;
constexpr size_t kMaxCopiedBytes = size_t{256} << 20;

constexpr std::string_view kWeight = ".weight";

/// How one weight is written.
enum class Form {
  kAsStored,  ///< its bytes
  kFloat32,   ///< decoded: scales of another scheme cannot stand beside packed ones
  kPacked,    ///< encoded, or its packed bytes where it is in this form already
};

struct Plan {
  std::string name;
  const StoredTensor* stored = nullptr;
  Form form = Form::kAsStored;
  bool encode = false;
  std::vector<SafetensorsEntry> entries;
  size_t to_bytes = 0;
};

Result<int> FindBits(std::string type) {
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (type == "int4") return 4;
  if (type == "int8") return 8;
  return Error(ErrorCode::kInvalidArgument,
               "type '" + type +
                   "' is not one that safetensors are written with; those are int8 int4 (the types "
                   "of GGUF files need a GGUF source)");
}

/// Whether a name is that of a linear layer that readers of compressed-tensors accept packed.
bool IsLinearWeight(std::string_view name) {
  constexpr std::string_view kNotLinear[] = {"embed",        "lm_head",      "shared_head",
                                             "norm",         "eh_proj",      "weights_proj",
                                             ".gate.weight", "_gate.weight", "router"};
  return name.ends_with(kWeight) &&
         std::none_of(std::begin(kNotLinear), std::end(kNotLinear), [&](std::string_view part) {
           return name.find(part) != std::string_view::npos;
         });
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

Result<Plan> MakePlan(const std::string& name, const StoredTensor* stored, int bits) {
  Plan plan{.name = name, .stored = stored};
  const tensor::TensorView& view = stored->view;
  const DType packed_type = bits == 4 ? DType::kI4x8 : DType::kI8x4;
  const bool is_integer = view.dtype == DType::kI4x8 || view.dtype == DType::kI8x4;
  const bool in_form = view.dtype == packed_type && stored->scales->block_cols == kGroup &&
                       stored->scales->view.dtype == DType::kBF16;
  const int bits_now = view.dtype == DType::kI4x8 ? 4 : stored->scales.has_value() ? 8 : 16;
  if (bits_now <= bits && !in_form) {
    return Error(
        ErrorCode::kInvalidArgument,
        "tensor '" + name + "' has " + std::to_string(bits_now) + " bits a weight already");
  }
  const bool fits = view.shape.rank() == 2 && view.shape[1] % kGroup == 0 && view.shape[1] > 0;
  const bool linear = is_integer || stored->scales.has_value() || IsFloat(view.dtype);
  if (in_form || (fits && linear && IsLinearWeight(name))) {
    plan.form = Form::kPacked;
    plan.encode = !in_form;
    const int64_t words = (view.shape[1] * bits + 31) / 32;
    const int64_t groups = (view.shape[1] + kGroup - 1) / kGroup;
    plan.entries = {{name + "_packed", DType::kI32, {view.shape[0], words}},
                    {name + "_scale", DType::kBF16, {view.shape[0], groups}},
                    {name + "_shape", DType::kI64, {2}}};
  } else if (stored->scales.has_value()) {
    plan.form = Form::kFloat32;
    plan.entries = {{name, DType::kF32, view.shape}};
  } else {
    plan.entries = {{name, view.dtype, view.shape}};
  }
  for (const SafetensorsEntry& entry : plan.entries) {
    HM_ASSIGN(const size_t size_bytes, tensor::SizeBytes(entry.dtype, entry.shape));
    plan.to_bytes += size_bytes;
  }
  return plan;
}

size_t StoredBytes(const StoredTensor& stored) {
  return stored.view.bytes.size() +
         (stored.scales.has_value() ? stored.scales->view.bytes.size() : 0);
}

Result<ErrorSums> WriteFloat32(const MatrixSource& source, ThreadPool* pool,
                               SafetensorsWriter* writer) {
  const auto cols = static_cast<size_t>(source.cols());
  std::vector<float> batch(static_cast<size_t>(std::min(source.rows(), BatchRows(source.cols()))) *
                           cols);
  return RunPipeline(
      {.rows = source.rows(),
       .cols = source.cols(),
       .decode = [&](int64_t row,
                     std::span<float> values) { return source.DecodeRow(row, values); },
       .encode =
           [&](int64_t slot, std::span<const float> values, std::span<float> decoded) {
             std::copy(values.begin(), values.end(), decoded.begin());
             std::copy(values.begin(), values.end(),
                       batch.begin() + static_cast<std::ptrdiff_t>(slot) * source.cols());
           },
       .write =
           [&](int64_t count) {
             return writer->Append(
                 std::as_bytes(std::span(batch).first(static_cast<size_t>(count) * cols)));
           }},
      pool);
}

Result<ErrorSums> WritePacked(const MatrixSource& source, int bits, ThreadPool* pool,
                              SafetensorsWriter* writer) {
  const auto words = static_cast<size_t>(source.cols() * bits / 32);
  const auto groups = static_cast<size_t>(source.cols() / kGroup);
  const auto places = static_cast<size_t>(std::min(source.rows(), BatchRows(source.cols())));
  std::vector<uint32_t> packed(places * words);
  std::vector<uint16_t> batch_scales(places * groups);
  std::vector<uint16_t> scales;
  HM_ASSIGN(const ErrorSums sums,
            RunPipeline(
                {.rows = source.rows(),
                 .cols = source.cols(),
                 .decode = [&](int64_t row,
                               std::span<float> values) { return source.DecodeRow(row, values); },
                 .encode =
                     [&](int64_t slot, std::span<const float> values, std::span<float> decoded) {
                       const auto at = static_cast<size_t>(slot);
                       quant::EncodeIntegerGroups(
                           bits, kGroup, values, std::span(packed).subspan(at * words, words),
                           std::span(batch_scales).subspan(at * groups, groups), decoded);
                     },
                 .write =
                     [&](int64_t count) {
                       const auto rows = static_cast<size_t>(count);
                       scales.insert(
                           scales.end(), batch_scales.begin(),
                           batch_scales.begin() + static_cast<std::ptrdiff_t>(rows * groups));
                       return writer->Append(std::as_bytes(std::span(packed).first(rows * words)));
                     }},
                pool));
  HM_TRY(writer->Append(std::as_bytes(std::span(scales))));
  const int64_t shape[2] = {source.rows(), source.cols()};
  HM_TRY(writer->Append(std::as_bytes(std::span(shape))));
  return sums;
}

Status WriteTensor(const checkpoint::Checkpoint& checkpoint, const Plan& plan, int bits,
                   ThreadPool* pool, SafetensorsWriter* writer, RequantizeReport* report) {
  const tensor::TensorView& view = plan.stored->view;
  const std::string from(tensor::Info(view.dtype).name);
  if (plan.form == Form::kAsStored || (plan.form == Form::kPacked && !plan.encode)) {
    HM_TRY(writer->Append(view.bytes));
    if (plan.form == Form::kPacked) {
      HM_TRY(writer->Append(plan.stored->scales->view.bytes));
      const int64_t shape[2] = {view.shape[0], view.shape[1]};
      HM_TRY(writer->Append(std::as_bytes(std::span(shape))));
    }
    report->Kept(plan.name, view.shape, from, StoredBytes(*plan.stored));
    return {};
  }
  HM_ASSIGN(const MatrixSource source,
            MatrixSource::Find(checkpoint, plan.name, view.shape[0], view.shape[1]));
  const bool packed = plan.form == Form::kPacked;
  auto sums = packed ? WritePacked(source, bits, pool, writer) : WriteFloat32(source, pool, writer);
  if (!sums.ok()) return sums.error().WithContext("tensor '" + plan.name + "'");
  report->Changed({.name = plan.name,
                   .shape = view.shape,
                   .from = from,
                   .to = !packed ? "F32" : "INT" + std::to_string(bits),
                   .from_bytes = StoredBytes(*plan.stored),
                   .to_bytes = plan.to_bytes},
                  *sums);
  return {};
}

json::object QuantizationConfig(const std::vector<Plan>& plans, int bits) {
  json::array ignore;
  for (const Plan& plan : plans) {
    const bool matrix = plan.stored->view.shape.rank() == 2 && plan.name.ends_with(kWeight);
    if (plan.form == Form::kPacked || !matrix || plan.name.find("embed") != std::string::npos)
      continue;
    ignore.emplace_back(plan.name.substr(0, plan.name.size() - kWeight.size()));
  }
  const json::object weights{{"num_bits", bits},    {"type", "int"},        {"symmetric", true},
                             {"strategy", "group"}, {"group_size", kGroup}, {"dynamic", false},
                             {"actorder", nullptr}};
  const json::object group{{"targets", json::array{"Linear"}},
                           {"weights", weights},
                           {"input_activations", nullptr},
                           {"output_activations", nullptr}};
  return {
      {"quant_method", "compressed-tensors"}, {"format", "pack-quantized"},
      {"quantization_status", "compressed"},  {"config_groups", json::object{{"group_0", group}}},
      {"kv_cache_scheme", nullptr},           {"ignore", std::move(ignore)}};
}

/// A folder that takes its final name when everything is in it, and goes away before.
class NewFolder {
 public:
  explicit NewFolder(fs::path out) : out_(std::move(out)) {}
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }

  Status Create() {
    std::string name = out_.string() + ".XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      return Error(ErrorCode::kIo, out_.string() + ": cannot create a temporary folder beside it");
    }
    temporary_ = name;
    return {};
  }
  const fs::path& path() const { return temporary_; }

  Status Commit() {
    std::error_code error;
    fs::permissions(temporary_, fs::perms(0755), error);
    fs::path old;
    if (!error && fs::exists(out_)) {
      old = temporary_.string() + ".old";
      fs::rename(out_, old, error);
    }
    if (!error) fs::rename(temporary_, out_, error);
    if (error) {
      return Error(ErrorCode::kIo,
                   out_.string() + ": cannot rename into place: " + error.message());
    }
    temporary_.clear();
    if (!old.empty()) fs::remove_all(old, error);
    return {};
  }

 private:
  fs::path out_;
  fs::path temporary_;
};

/// Whether a file belongs to the model and is not its weights: configuration, tokenizer, templates,
/// licence, code of the tokenizer.
bool IsCompanion(const fs::path& file) {
  const std::string name = file.filename().string();
  if (name == "config.json" || name.ends_with(".safetensors.index.json")) return false;
  constexpr std::string_view kEndings[] = {".json",     ".txt", ".model", ".jinja",
                                           ".tiktoken", ".py",  ".md"};
  return name.starts_with("LICENSE") || name.starts_with("NOTICE") ||
         std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

Status CopyCompanions(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (fs::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    // is_regular_file follows links: shared caches keep files elsewhere and link to them.
    if (!it->is_regular_file() || !IsCompanion(it->path())) continue;
    if (it->file_size() > kMaxCopiedBytes) continue;
    fs::copy_file(it->path(), to / it->path().filename(), error);
    if (error) break;
  }
  if (error) {
    return Error(ErrorCode::kIo,
                 from.string() + ": cannot copy to " + to.string() + ": " + error.message());
  }
  return {};
}

/// Weights of `plans` in files of at most kMaxShardBytes (a larger tensor has a file of its own).
Status WriteWeights(const checkpoint::Checkpoint& checkpoint, const std::vector<Plan>& plans,
                    int bits, ThreadPool* pool, const fs::path& folder, RequantizeReport* report) {
  std::vector<std::vector<const Plan*>> shards(1);
  size_t shard_bytes = 0;
  size_t total_bytes = 0;
  for (const Plan& plan : plans) {
    if (shard_bytes > 0 && shard_bytes + plan.to_bytes > kMaxShardBytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(&plan);
    shard_bytes += plan.to_bytes;
    total_bytes += plan.to_bytes;
  }
  json::object weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    char numbered[64];
    std::snprintf(numbered, sizeof(numbered), "model-%05zu-of-%05zu.safetensors", i + 1,
                  shards.size());
    const std::string file = shards.size() == 1 ? "model.safetensors" : numbered;
    std::vector<SafetensorsEntry> entries;
    for (const Plan* plan : shards[i]) {
      for (const SafetensorsEntry& entry : plan->entries) {
        weight_map[entry.name] = file;
        entries.push_back(entry);
      }
    }
    HM_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(folder / file, entries));
    for (const Plan* plan : shards[i]) {
      HM_TRY(WriteTensor(checkpoint, *plan, bits, pool, &writer, report));
    }
    HM_TRY(writer.Finish());
  }
  if (shards.size() == 1) return {};
  const json::object index{{"metadata", json::object{{"total_size", total_bytes}}},
                           {"weight_map", std::move(weight_map)}};
  return WriteFileAtomic(folder / "model.safetensors.index.json", json::Serialize(index));
}

}  // namespace

const std::vector<std::string>& SafetensorsTargets() {
  static const std::vector<std::string> kNames = {"int8", "int4"};
  return kNames;
}

Result<RequantizeSummary> RequantizeSafetensors(const fs::path& source, const fs::path& out,
                                                const RequantizeOptions& options,
                                                ThreadPool* pool) {
  HM_ASSIGN(const int bits, FindBits(options.type));
  // "folder/" names the folder.
  const fs::path to = out.has_filename() ? out : out.parent_path();
  if (to.extension() == ".gguf" || to.extension() == ".safetensors") {
    return Error(ErrorCode::kInvalidArgument,
                 to.string() + ": safetensors become a folder; name one without an extension");
  }
  if (fs::exists(to) && !fs::exists(to / "config.json")) {
    return Error(ErrorCode::kInvalidArgument,
                 to.string() + ": is not a model's folder, so it is not replaced");
  }
  HM_ASSIGN(const std::unique_ptr<checkpoint::Checkpoint> opened, checkpoint::Open(source));
  std::vector<Plan> plans;
  size_t from_bytes = 0;
  size_t to_bytes = 0;
  for (const std::string& name : opened->Names()) {
    HM_ASSIGN(Plan plan, MakePlan(name, opened->Find(name), bits));
    from_bytes += StoredBytes(*plan.stored);
    to_bytes += plan.to_bytes;
    plans.push_back(std::move(plan));
  }
  HM_TRY(CheckSpace(to.parent_path(), to_bytes));
  NewFolder folder(to);
  HM_TRY(folder.Create());
  const fs::path from = fs::is_directory(source) ? source : source.parent_path();
  HM_TRY(CopyCompanions(from.empty() ? "." : from, folder.path()));
  json::object config = opened->config();
  config["quantization_config"] = QuantizationConfig(plans, bits);
  HM_TRY(WriteFileAtomic(folder.path() / "config.json", json::Serialize(config) + "\n"));
  RequantizeReport report(options, from_bytes);
  HM_TRY(WriteWeights(*opened, plans, bits, pool, folder.path(), &report));
  HM_TRY(folder.Commit());
  return report.Take(to);
}

}  // namespace halfmoon::model
