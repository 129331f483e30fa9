// SPDX-License-Identifier: Apache-2.0
// Ids and decoded texts against those of the reference library, text by text.
#include <map>
#include <set>

#include "text/reference_checks.h"

namespace halfmoon::text {
namespace {

namespace fs = std::filesystem;

// Every golden of `goldens`, with the checkpoint it names below `checkpoints`.
void ExpectSmallTokenizers(const fs::path& goldens, const fs::path& checkpoints) {
  const std::vector<fs::path> files = FilesIn(goldens, "small_", ".json");
  ASSERT_FALSE(files.empty()) << goldens;
  for (const fs::path& file : files) {
    const json::value golden = ReadJson(file);
    const std::string checkpoint = Text(golden.at("checkpoint"));
    const auto tokenizer = Tokenizer::LoadFromFolder(checkpoints / checkpoint);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    ExpectReference(**tokenizer, EncodedTexts(golden), checkpoint);
    if (const json::value* with_special = golden.as_object().if_contains("with_special")) {
      // What the reference made of a short word with special tokens added: decoding tells which
      // word.
      const std::vector<int32_t> ids = Ids(*with_special);
      const std::string word = (*tokenizer)->Decode(ids, {.skip_special = true});
      const size_t spaces = word.starts_with(' ') ? 1 : 0;
      const auto encoded = (*tokenizer)->Encode(word.substr(spaces));
      ASSERT_TRUE(encoded.ok());
      EXPECT_EQ(*encoded, ids) << checkpoint << ": \"" << word << "\"";
    }
  }
}

TEST(TokenizerReference, SmallTokenizers_OfThisRepository_GiveEqualIdsAndText) {
  ExpectSmallTokenizers(GoldenFolder() / "tokenizers", GoldenFolder());
}

TEST(TokenizerReference, SmallTokenizers_OfEveryFamily_GiveEqualIdsAndText) {
  const auto reference = ReferenceFolder("small tokenizers of every family");
  if (!reference) return;
  ExpectSmallTokenizers(*reference / "tokenizers", *reference);
}

TEST(TokenizerReference, RealVocabularies_GiveEqualIdsAndText) {
  const auto reference = ReferenceFolder("vocabularies of real size");
  const auto tokenizers = FolderFrom("HALFMOON_TOKENIZER_DIR", "vocabularies of real size");
  if (!reference || !tokenizers) return;
  for (const std::string name : {"qwen3", "deepseek_v3"}) {
    const auto tokenizer = Tokenizer::LoadFromFolder(*tokenizers / name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    const json::value golden = ReadJson(*reference / "tokenizers" / (name + ".json"));
    ExpectReference(**tokenizer, EncodedTexts(golden), name);

    const json::value streaming = ReadJson(*reference / "tokenizers" / (name + ".streaming.json"));
    for (const json::value& row : streaming.at("cases").as_array()) {
      StreamDecoder decoder(**tokenizer);
      std::string text;
      size_t i = 0;
      for (const int32_t id : Ids(row.at("ids"))) {
        text += decoder.Push(id);
        // A prefix that ends inside a character shows as U+FFFD there; here nothing of it has come
        // out yet.
        std::string expected = Text(row.at("prefixes").at(i++));
        if (expected.ends_with("\xEF\xBF\xBD")) expected.resize(expected.size() - 3);
        EXPECT_EQ(text, expected) << name;
      }
      EXPECT_EQ(text + decoder.Finish(), Text(row.at("text"))) << name;
    }
  }
}

// The vocabulary of a tokenizer.json as a GGUF converter would write it.
GgufTokenizerSpec ToGguf(const json::value& tokenizer, const std::string& model,
                         const std::string& pre) {
  GgufTokenizerSpec spec;
  spec.model = model;
  spec.pre = pre;
  std::map<int64_t, std::pair<std::string, int32_t>> entries;
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").as_object()) {
    const bool is_byte = model == "llama" && token.starts_with("<0x");
    entries[id.to_number<int64_t>()] = {std::string(token), is_byte ? 6 : 1};
  }
  for (const json::value& token : tokenizer.at("added_tokens").as_array()) {
    const int64_t id = token.at("id").to_number<int64_t>();
    entries[id] = {Text(token.at("content")), token.at("special").as_bool() ? 3 : 4};
  }
  std::map<std::string, float> scores;
  float rank = 0;
  for (const json::value& merge : tokenizer.at("model").at("merges").as_array()) {
    const std::string left = Text(merge.at(0)), right = Text(merge.at(1));
    scores.emplace(left + right, rank);
    rank -= 1;
    if (model == "gpt2") spec.merges.push_back(left + " " + right);
  }
  for (const auto& [id, entry] : entries) {
    EXPECT_EQ(id, static_cast<int64_t>(spec.tokens.size()));
    const auto score = scores.find(entry.first);
    spec.tokens.push_back(entry.first);
    spec.token_types.push_back(entry.second);
    if (model == "llama") spec.scores.push_back(score == scores.end() ? rank - 1 : score->second);
  }
  return spec;
}

TEST(TokenizerReference, GgufMetadata_OfSmallTokenizers_GivesTheIdsOfTokenizerJson) {
  struct Case {
    std::string checkpoint, golden, model, pre;
  };
  for (const Case& c :
       {Case{"llama/smollm2_tied_f32", "llama_smollm2_tied_f32", "gpt2", "smollm"},
        Case{"llama/llama3_rope_untied", "llama_llama3_rope_untied", "gpt2", "smollm"},
        Case{"qwen3/dense", "qwen3_dense", "gpt2", "qwen2"},
        Case{"mixtral/base", "mixtral_base", "llama", ""}}) {
    const json::value file = ReadJson(GoldenFolder() / c.checkpoint / "tokenizer.json");
    GgufTokenizerSpec spec = ToGguf(file, c.model, c.pre);
    if (c.model == "llama") {
      spec.unknown_id = 0;
      spec.bos_id = 1;
      spec.eos_id = 2;
    }
    const auto tokenizer = Tokenizer::FromGguf(spec);
    ASSERT_TRUE(tokenizer.ok()) << c.checkpoint << ": " << tokenizer.error().message();
    const json::value golden =
        ReadJson(GoldenFolder() / "tokenizers" / ("small_" + c.golden + ".json"));
    ExpectReference(**tokenizer, EncodedTexts(golden), c.checkpoint + " as GGUF");
    if (c.model == "llama") {
      const auto encoded = (*tokenizer)->Encode("a");
      ASSERT_TRUE(encoded.ok());
      EXPECT_EQ(encoded->front(), 1)
          << "SentencePiece-style vocabularies add BOS unless the file says no";
    }
  }
}

TEST(TokenizerReference, GgufMetadata_OfEveryByteLevelFamily_GivesTheIdsOfTokenizerJson) {
  const auto reference = ReferenceFolder("GGUF pre-tokenizers of every family");
  if (!reference) return;
  for (const auto& [golden_name, pre] :
       {std::pair("bailing_moe_v2_bf16_mtp", "bailingmoe2"),
        std::pair("bailing_hybrid_bf16", "bailingmoe2"),
        std::pair("deepseek_v3_bf16", "deepseek-v3"), std::pair("deepseek_v4_bf16", "deepseek-v3"),
        std::pair("glm4_moe_bf16_mtp", "glm4"), std::pair("gpt_oss_bf16", "gpt-4o"),
        std::pair("minimax_m2_bf16", "minimax-m2"), std::pair("qwen3_5_moe_bf16_text", "qwen2")}) {
    const json::value golden =
        ReadJson(*reference / "tokenizers" / (std::string("small_") + golden_name + ".json"));
    const json::value file =
        ReadJson(*reference / Text(golden.at("checkpoint")) / "tokenizer.json");
    const auto tokenizer = Tokenizer::FromGguf(ToGguf(file, "gpt2", pre));
    ASSERT_TRUE(tokenizer.ok()) << golden_name << ": " << tokenizer.error().message();
    ExpectReference(**tokenizer, EncodedTexts(golden), std::string(golden_name) + " as GGUF");
  }
}

TEST(TokenizerReference, GgufMetadata_OfSmolLm2_GivesTheReferenceIds) {
  const std::string what = "the vocabulary of the SmolLM2 GGUF (smollm2_gguf/vocabulary.json)";
  const auto reference = ReferenceFolder(what);
  const auto tokenizers = FolderFrom("HALFMOON_TOKENIZER_DIR", what);
  if (!reference || !tokenizers) return;
  const json::value file = ReadJson(*tokenizers / "smollm2_gguf" / "vocabulary.json");
  const json::object& fields = file.as_object();
  GgufTokenizerSpec spec;
  spec.model = Text(fields.at("model"));
  spec.pre = Text(fields.at("pre"));
  for (const json::value& t : fields.at("tokens").as_array()) spec.tokens.push_back(Text(t));
  for (const json::value& m : fields.at("merges").as_array()) spec.merges.push_back(Text(m));
  spec.token_types = Ids(fields.at("token_types"));
  spec.bos_id = *json::FindInt(fields, "bos_id");
  spec.eos_id = *json::FindInt(fields, "eos_id");
  spec.add_bos = *json::FindBool(fields, "add_bos");
  spec.add_space_prefix = *json::FindBool(fields, "add_space_prefix");
  const auto tokenizer = Tokenizer::FromGguf(spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  EXPECT_EQ((*tokenizer)->bos_token(), "<|im_start|>");
  EXPECT_EQ((*tokenizer)->eos_ids(), std::vector<int32_t>{2});

  const json::value expected =
      ReadJson(*reference / "smollm2_135m_instruct_q4_1" / "expected.json");
  for (const json::value& prompt : expected.at("prompts").as_array()) {
    const std::string text = Text(prompt.at("text"));
    const auto ids = (*tokenizer)->Encode(text);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, Ids(prompt.at("input_ids"))) << text;
    EXPECT_EQ((*tokenizer)->Decode(*ids), text);
    EXPECT_EQ((*tokenizer)->Decode(Ids(prompt.at("greedy_ids"))), Text(prompt.at("greedy_text")));
  }
}

}  // namespace
}  // namespace halfmoon::text
