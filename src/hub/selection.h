// SPDX-License-Identifier: Apache-2.0
// Which files of a repository make up the model that was asked for. Pure functions over lists of
// paths, the same for a hub's list and for a folder of the cache.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/hub.h"

namespace halfmoon::hub {

/// Weights as the published checkpoints name them, in the root folder.
inline constexpr std::string_view kSingleFile = "model.safetensors";
inline constexpr std::string_view kShardIndex = "model.safetensors.index.json";

/// The GGUF file of one model, or all parts of one that is split.
struct GgufModel {
  std::string quant;               ///< "Q4_K_M"; empty where the name has none
  std::string stem;                ///< path without ".gguf" and without the number of the part
  std::vector<std::string> paths;  ///< in order of the parts
  size_t num_parts = 1;            ///< as the names say; complete where paths has as many
  bool complete() const { return paths.size() == num_parts; }
};

/// The quantisation that a file name ends with ("Q4_K_M", "IQ4_XS", "BF16"), in capitals; empty
/// where there is none.
std::string QuantOfFileName(std::string_view path);

/// The GGUF models among `paths`, sorted by stem. Vision towers (mmproj) and importance matrices
/// are not models.
std::vector<GgufModel> GroupGguf(const std::vector<std::string>& paths);

/// The model that `quant` names (a quantisation, a file's name or its stem, without case); where it
/// is empty the only one, or the usual choice among several. Errors: kNotFound listing what there
/// is. Requires a non-empty `models`.
Result<GgufModel> ChooseGguf(const std::vector<GgufModel>& models, std::string_view quant);

struct Selection {
  std::vector<RemoteFile> files;          ///< to fetch, small ones first
  std::string weights;                    ///< first GGUF file; empty: the folder is the model
  std::string format;                     ///< "safetensors" or "gguf"
  std::string quant;                      ///< of GGUF
  std::vector<std::string> other_quants;  ///< that the repository offers beside
};

/// Reads one small file of the repository.
using ReadRemote = std::function<Result<std::string>(const RemoteFile& file)>;

/// safetensors (all shards that the index names) where the repository has them and no quant is
/// asked for, else one GGUF model; with them configuration, tokenizer, templates, licence and model
/// card. Errors: kNotFound (no such quant, a shard or part that is missing, by name), kUnsupported
/// (no weights in a format that is read), those of `read`.
Result<Selection> SelectFiles(const Repository& repository, std::string_view quant,
                              const ReadRemote& read);

}  // namespace halfmoon::hub
