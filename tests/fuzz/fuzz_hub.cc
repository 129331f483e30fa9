// SPDX-License-Identifier: Apache-2.0
// What hubs answer and what lies in their caches: whatever the bytes, a repository whose paths stay
// in their folder and whose sizes add up, or an error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "hub/license.h"
#include "hub/listing.h"
#include "hub/selection.h"

namespace {

using namespace halfmoon::hub;

void Require(bool fact) {
  if (!fact) std::abort();
}

void CheckRepository(const Repository& repository, std::string_view body) {
  uint64_t total = 0;
  for (const RemoteFile& file : repository.files) {
    Require(CheckRelativePath(file.path).ok());
    Require(file.sha256.empty() || IsHex(file.sha256, 64));
    Require(file.git_sha1.empty() || IsHex(file.git_sha1, 40));
    const uint64_t before = total;
    total += file.size_bytes.value_or(0);
    Require(total >= before);
  }
  const auto read = [&](const RemoteFile&) {
    return halfmoon::Result<std::string>(std::string(body));
  };
  for (const std::string_view quant : {"", "Q4_0", "safetensors"}) {
    const auto selection = SelectFiles(repository, quant, read);
    if (!selection.ok()) {
      Require(!selection.error().message().empty());
      continue;
    }
    Require(!selection->files.empty() && !selection->format.empty());
  }
}

void CheckLine(const std::string& line) {
  for (const char c : line) Require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  if (const auto repository = ParseHuggingFaceListing(body); repository.ok()) {
    Require(IsHex(repository->commit, 40));
    CheckRepository(*repository, body);
  }
  if (const auto repository = ParseModelScopeListing(body, "org/name", "master"); repository.ok()) {
    CheckRepository(*repository, body);
  }
  if (const auto shards = ParseShardIndex(body); shards.ok()) {
    for (const std::string& shard : *shards) Require(CheckRelativePath(shard).ok());
  }
  if (const auto manifest = ParseOllamaManifest(body); manifest.ok()) {
    Require(IsHex(manifest->model_sha256, 64));
  }
  if (const auto digests = ParseOllamaDigests(body); digests.ok()) {
    for (const std::string& digest : *digests) Require(IsHex(digest, 64));
  }
  if (const auto name = ModelName::Parse(body); name.ok()) {
    Require(CheckRelativePath(name->id).ok());
    const auto again = ModelName::Parse(name->ToString());
    Require(again.ok() && again->id == name->id && again->quant == name->quant);
  }
  QuantOfFileName(body);
  CheckLine(LicenseLine(LicenseFromModelCard(body)));
  CheckLine(LicenseLine({.name = LicenseFromText(body), .link = std::string(body)}));
  return 0;
}
