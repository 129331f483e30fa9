// SPDX-License-Identifier: Apache-2.0
//! Pre-tokenizers by the names that GGUF files use (tokenizer.ggml.pre), as the tokenizer.json of each family spells
//! them.

use serde_json::{json, Value};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text of a byte-level vocabulary is cut before merging.
pub struct PreTokenizer {
    /// As in tokenizer.json.
    pub normalizer: Option<Value>,
    pub steps: Value,
    /// A whole piece that is in the vocabulary is taken at once.
    pub ignore_merges: bool,
    /// Whether text gets BOS and EOS where the file does not say.
    pub add_bos: bool,
    /// Whether long text is cut before anything else (pieces.rs).
    pub cuts_long_text: bool,
}

/// What tiktoken.model goes with: `pattern`, or Kimi's, the one family that is published in this form without a file
/// for its pattern.
pub fn of_tiktoken(pattern: Option<&str>) -> PreTokenizer {
    PreTokenizer { ignore_merges: true, cuts_long_text: true, ..split(&[pattern.unwrap_or(KIMI)]) }
}

/// None for a name that is not known: guessing would give wrong ids without a word.
pub fn by_name(name: &str) -> Option<PreTokenizer> {
    Some(match name {
        "" | "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "roberta-bpe" => split(&[GPT2]),
        "smollm" | "starcoder" | "refact" => plain(vec![
            json!({"type": "Digits", "individual_digits": true}),
            json!({"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": false}),
            byte_level(),
        ]),
        "llama3" | "llama-v3" | "llama-bpe" => {
            PreTokenizer { ignore_merges: true, add_bos: true, ..split(&[LLAMA3]) }
        }
        "glm4" | "chatglm-bpe" => split(&[LLAMA3]),
        "qwen2" | "deepseek-r1-qwen" => {
            PreTokenizer { normalizer: Some(json!({"type": "NFC"})), ..split(&[QWEN2]) }
        }
        "deepseek-v3" => split(&DEEPSEEK_V3),
        "bailingmoe" | "bailingmoe2" => split(&[LING]),
        "gpt-4o" | "minimax-m2" => split(&[O200K]),
        "kimi-k2" => of_tiktoken(None),
        _ => return None,
    })
}

fn split(patterns: &[&str]) -> PreTokenizer {
    let mut steps: Vec<Value> = patterns
        .iter()
        .map(|p| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false}))
        .collect();
    steps.push(byte_level());
    plain(steps)
}

fn plain(steps: Vec<Value>) -> PreTokenizer {
    PreTokenizer {
        normalizer: None,
        steps: json!({"type": "Sequence", "pretokenizers": steps}),
        ignore_merges: false,
        add_bos: false,
        cuts_long_text: false,
    }
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}
