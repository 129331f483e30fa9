// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/model_source.h"

#include <system_error>

#include "hub/environment.h"
#include "hub/library.h"

namespace halfmoon::app {
namespace {

namespace fs = std::filesystem;

ModelSource FromPath(const fs::path& path) {
  ModelSource source{.path = path, .name = path.stem().string(), .license = {}};
  if (source.name.empty()) source.name = path.parent_path().filename().string();  // "folder/"
  std::error_code error;
  if (fs::is_directory(path, error)) {
    source.license = hub::LicenseOfFolder(path);
  } else if (path.extension() == ".safetensors") {
    // Its config.json is beside it, so that folder is the model's. A GGUF file may lie anywhere.
    source.license = hub::LicenseOfFolder(path.parent_path());
  }
  return source;
}

bool LooksLikePath(const std::string& model) {
  return model.ends_with(".gguf") || model.ends_with(".safetensors") || model.starts_with('/') ||
         model.starts_with('.') || model.starts_with('~') || model.ends_with('/');
}

}  // namespace

Result<ModelSource> FindModelSource(const std::string& model) {
  std::error_code error;
  if (fs::exists(model, error)) return FromPath(model);
  const std::string no_path = model + ": there is no such file or folder";
  if (LooksLikePath(model)) return Error(ErrorCode::kNotFound, no_path);
  const Result<hub::ModelName> name = hub::ModelName::Parse(model);
  if (!name.ok()) {
    return Error(ErrorCode::kNotFound, no_path + ", and as a name: " + name.error().message());
  }
  const Result<hub::CachedModel> found =
      hub::FindModel(hub::Environment::FromProcess(), *name, std::nullopt);
  if (!found.ok()) {
    return Error(found.error().code(), no_path + ", and as a name: " + found.error().message());
  }
  return ModelSource{
      .path = found->path, .name = name->ToString(), .license = hub::LicenseOf(*found)};
}

}  // namespace halfmoon::app
