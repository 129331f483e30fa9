// SPDX-License-Identifier: Apache-2.0
// Renderings byte for byte against Jinja2: the templates of tests/golden/templates, written for
// this repository, and those of the model families where the reference data is at hand.
#include "text/reference_checks.h"

namespace halfmoon::text {
namespace {

namespace fs = std::filesystem;

void ExpectGolden(const fs::path& golden_path, const fs::path& templates_root) {
  const json::value golden = ReadJson(golden_path);
  ExpectRenderings(golden, golden_path.filename().string(),
                   ReadText(templates_root / Text(golden.at("template"))),
                   Text(golden.at("bos_token")), Text(golden.at("eos_token")));
}

TEST(ChatTemplateReference, TemplatesOfThisRepository_RenderAsJinja2Does) {
  const fs::path folder = GoldenFolder() / "templates";
  const auto files = FilesIn(folder, "chat_", ".json");
  ASSERT_FALSE(files.empty());
  for (const fs::path& file : files) ExpectGolden(file, folder);
}

TEST(ChatTemplateReference, TemplatesOfTheFamilies_RenderAsJinja2Does) {
  const auto reference = ReferenceFolder("chat templates of the families");
  if (!reference) return;
  const auto files = FilesIn(*reference / "tokenizers", "chat_", ".json");
  ASSERT_FALSE(files.empty());
  for (const fs::path& file : files) ExpectGolden(file, *reference);
}

}  // namespace
}  // namespace halfmoon::text
