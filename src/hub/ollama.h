// SPDX-License-Identifier: Apache-2.0
// The model store of Ollama, read: manifests/HOST/NAMESPACE/NAME/TAG names files by digest, which
// lie in blobs/sha256-DIGEST and may serve several models.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hub/environment.h"
#include "hub/library.h"

namespace halfmoon::hub {

/// "NAME" for library models, "NAMESPACE/NAME" for the rest, and with tag as quant what `-m` takes.
/// `id` empty: of every model.
std::vector<CachedModel> OllamaModels(const Environment& environment, std::string_view id);

/// blobs/sha256-DIGEST below a model store.
std::filesystem::path OllamaBlob(const std::filesystem::path& store, std::string_view sha256);

/// Every manifest of a model store, sorted.
std::vector<std::filesystem::path> OllamaManifests(const std::filesystem::path& store);

}  // namespace halfmoon::hub
