// SPDX-License-Identifier: Apache-2.0
// For tests: where reference data lies, and how its files are read. Data that may not be copied
// here (vocabularies and chat templates of others) is read in place: beside this checkout, or where
// an environment variable says.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer.h"

namespace halfmoon::text {

inline std::filesystem::path GoldenFolder() { return HALFMOON_GOLDEN_DIR; }

/// The folder that `variable` names; where it does not, prints what the test would have checked and
/// why it does not.
inline std::optional<std::filesystem::path> FolderFrom(const char* variable,
                                                       const std::string& what) {
  const char* folder = std::getenv(variable);
  if (folder != nullptr && *folder != '\0') return folder;
  std::cout << "not run: " << what << ": " << variable << " does not name a folder\n";
  return std::nullopt;
}

/// The reference data of every family: HALFMOON_REFERENCE_DIR, or ../shared/reference as seen from
/// the root of this repository. Where neither is there, prints what the test would have checked.
inline std::optional<std::filesystem::path> ReferenceFolder(const std::string& what) {
  const char* folder = std::getenv("HALFMOON_REFERENCE_DIR");
  if (folder != nullptr && *folder != '\0') return folder;
  const auto beside = std::filesystem::path(HALFMOON_SOURCE_DIR) / ".." / "shared" / "reference";
  std::error_code failed;
  if (std::filesystem::is_directory(beside, failed)) return beside;
  std::cout << "not run: " << what
            << ": no ../shared/reference, and HALFMOON_REFERENCE_DIR does not name a folder\n";
  return std::nullopt;
}

inline std::string ReadText(const std::filesystem::path& path) {
  Result<std::string> text = ReadTextFile(path, size_t{1} << 30);
  if (!text.ok()) {
    ADD_FAILURE() << text.error().message();
    return {};
  }
  return std::move(text).value();
}

/// A JSON document of any size: goldens are ours, so neither depth nor length is in question.
inline json::value ReadJson(const std::filesystem::path& path) {
  boost::system::error_code failed;
  json::value value = boost::json::parse(ReadText(path), failed);
  if (failed) ADD_FAILURE() << path << ": " << failed.message();
  return value;
}

inline std::string Text(const json::value& value) {
  return std::string(value.as_string().data(), value.as_string().size());
}

inline std::vector<int32_t> Ids(const json::value& value) {
  std::vector<int32_t> ids;
  for (const json::value& id : value.as_array()) ids.push_back(id.to_number<int32_t>());
  return ids;
}

/// Files of `folder` whose name starts with `prefix` and ends with `suffix`, sorted.
inline std::vector<std::filesystem::path> FilesIn(const std::filesystem::path& folder,
                                                  const std::string& prefix,
                                                  const std::string& suffix) {
  std::vector<std::filesystem::path> files;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(suffix)) files.push_back(entry.path());
  }
  EXPECT_FALSE(failed) << folder << ": " << failed.message();
  std::sort(files.begin(), files.end());
  return files;
}

struct EncodedText {
  std::string text;
  std::vector<int32_t> ids;
  std::string decoded;
  std::optional<std::string> decoded_skip_special;
};

/// The cases of a tokenizer golden: rows [text, ids, decoded], or objects.
inline std::vector<EncodedText> EncodedTexts(const json::value& golden) {
  std::vector<EncodedText> texts;
  for (const json::value& row : golden.at("cases").as_array()) {
    if (row.is_array()) {
      texts.push_back({Text(row.at(0)), Ids(row.at(1)), Text(row.at(2)), std::nullopt});
    } else {
      texts.push_back({Text(row.at("text")), Ids(row.at("ids")), Text(row.at("decoded")),
                       Text(row.at("decoded_skip_special"))});
    }
  }
  EXPECT_FALSE(texts.empty());
  return texts;
}

}  // namespace halfmoon::text
