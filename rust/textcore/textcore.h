// SPDX-License-Identifier: Apache-2.0
// The C interface of rust/textcore: tokenizers, chat templates and grammars. src/text is its only
// user.
//
// Conventions. A function that can fail returns a textcore_status and, unless that is TEXTCORE_OK,
// writes a message for a person to *error (textcore_bytes_free it; error may be null). Outputs are
// written on success only. Panics arrive as TEXTCORE_INTERNAL; nothing unwinds across this
// boundary. Views are read during the call only. Objects are immutable and may be used from several
// threads at once, matchers from one at a time. There is no global state.
#ifndef HALFMOON_TEXTCORE_H_
#define HALFMOON_TEXTCORE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t textcore_status;
enum {
  TEXTCORE_OK = 0,
  TEXTCORE_INVALID_ARGUMENT = 1,
  TEXTCORE_CORRUPT = 2,
  TEXTCORE_UNSUPPORTED = 3,
  TEXTCORE_RESOURCE_EXHAUSTED = 4,
  TEXTCORE_INTERNAL = 5,
};

/// Bytes of the caller. `data` may be null where `size` is 0.
typedef struct textcore_view {
  const char* data;
  size_t size;
} textcore_view;

/// Bytes made here, owned by the caller. Not terminated by a zero.
typedef struct textcore_bytes {
  char* data;
  size_t size;
} textcore_bytes;

typedef struct textcore_ids {
  int32_t* data;
  size_t size;
} textcore_ids;

void textcore_bytes_free(textcore_bytes bytes);
void textcore_ids_free(textcore_ids ids);

/// Panics on purpose and reports it: proves that panics end at this boundary. For tests.
textcore_status textcore_provoke_panic(textcore_bytes* error);

// Tokenizers.

typedef struct textcore_tokenizer textcore_tokenizer;

/// tokenizer.ggml.* of a GGUF file. Arrays may be null where their count is 0.
typedef struct textcore_gguf_vocabulary {
  textcore_view model;
  textcore_view pre;
  const textcore_view* tokens;
  size_t token_count;
  const textcore_view* merges;
  size_t merge_count;
  const float* scores;
  size_t score_count;
  const int32_t* token_types;
  size_t token_type_count;
  int32_t unknown_id;
  bool has_unknown_id;
  bool add_space_prefix;
} textcore_gguf_vocabulary;

enum { TEXTCORE_TOKEN_EXISTS = 1, TEXTCORE_TOKEN_SPECIAL = 2 };

/// What decoding needs, owned by the tokenizer. Token i is bytes[offsets[i], offsets[i + 1]).
typedef struct textcore_table {
  const char* bytes;
  const uint32_t* offsets;  // count + 1 values
  const uint8_t* flags;     // count values of TEXTCORE_TOKEN_*
  size_t count;
  const int32_t* prefix;  // what the file's post-processor puts before a text
  size_t prefix_count;
  const int32_t* suffix;  // and after it
  size_t suffix_count;
  bool strip_leading_space;  // a decoded text loses one space at its start
  bool add_bos;              // texts get BOS where no configuration says otherwise
} textcore_table;

textcore_status textcore_tokenizer_from_json(textcore_view json, textcore_tokenizer** out,
                                             textcore_bytes* error);
textcore_status textcore_tokenizer_from_gguf(const textcore_gguf_vocabulary* vocabulary,
                                             textcore_tokenizer** out, textcore_bytes* error);
/// `ranks`: the lines of tiktoken.model; `config_json`: tokenizer_config.json with
/// added_tokens_decoder, or empty; `pattern_json`: {"pattern": regex}, or empty for Kimi's.
textcore_status textcore_tokenizer_from_tiktoken(textcore_view ranks, textcore_view config_json,
                                                 textcore_view pattern_json,
                                                 textcore_tokenizer** out, textcore_bytes* error);
void textcore_tokenizer_free(textcore_tokenizer* tokenizer);
void textcore_tokenizer_table(const textcore_tokenizer* tokenizer, textcore_table* out);
/// Ids of a text, without prefix and suffix.
textcore_status textcore_tokenizer_encode(const textcore_tokenizer* tokenizer, textcore_view text,
                                          bool parse_special, textcore_ids* out,
                                          textcore_bytes* error);
/// False where no entry is spelled like that.
bool textcore_tokenizer_token_id(const textcore_tokenizer* tokenizer, textcore_view content,
                                 int32_t* out);

// Chat templates.

typedef struct textcore_template textcore_template;

typedef struct textcore_template_input {
  textcore_view messages_json;
  textcore_view tools_json;  // empty: none
  textcore_view extra_json;  // empty, or an object of further variables
  textcore_view bos_token;
  textcore_view eos_token;
  int64_t now_unix_s;
  bool add_generation_prompt;
} textcore_template_input;

textcore_status textcore_template_compile(textcore_view source, textcore_template** out,
                                          textcore_bytes* error);
textcore_status textcore_template_render(const textcore_template* chat_template,
                                         const textcore_template_input* input, textcore_bytes* out,
                                         textcore_bytes* error);
void textcore_template_free(textcore_template* chat_template);

// Grammars.

typedef struct textcore_grammar_compiler textcore_grammar_compiler;
typedef struct textcore_grammar_matcher textcore_grammar_matcher;

enum { TEXTCORE_GRAMMAR_JSON_SCHEMA = 0, TEXTCORE_GRAMMAR_REGEX = 1, TEXTCORE_GRAMMAR_LARK = 2 };

/// `eos`: every id that ends a generation; at least one.
textcore_status textcore_grammar_compiler_new(const textcore_tokenizer* tokenizer,
                                              const int32_t* eos, size_t eos_count,
                                              textcore_grammar_compiler** out,
                                              textcore_bytes* error);
void textcore_grammar_compiler_free(textcore_grammar_compiler* compiler);
textcore_status textcore_grammar_matcher_new(const textcore_grammar_compiler* compiler,
                                             int32_t kind, textcore_view source,
                                             textcore_grammar_matcher** out, textcore_bytes* error);
void textcore_grammar_matcher_free(textcore_grammar_matcher* matcher);
/// Bit id % 32 of mask[id / 32]: token `id` may come next.
textcore_status textcore_grammar_matcher_mask(textcore_grammar_matcher* matcher, uint32_t* mask,
                                              size_t words, textcore_bytes* error);
textcore_status textcore_grammar_matcher_commit(textcore_grammar_matcher* matcher, int32_t id,
                                                textcore_bytes* error);
bool textcore_grammar_matcher_is_accepting(textcore_grammar_matcher* matcher);
bool textcore_grammar_matcher_is_stopped(const textcore_grammar_matcher* matcher);

#ifdef __cplusplus
}
#endif

#endif  // HALFMOON_TEXTCORE_H_
