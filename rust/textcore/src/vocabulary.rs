// SPDX-License-Identifier: Apache-2.0
//! Vocabularies that come without a tokenizer.json: GGUF metadata and tiktoken rank files.

use std::collections::BTreeMap;

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::json;
use tokenizers::AddedToken;

use crate::boundary::{slice, Code, Failure, Outcome, View};
use crate::files::{component, split_merge};
use crate::pretokenizers;
use crate::tokenizer::{char_of_byte, texts, Parts, Spelling, MAX_TOKEN_ID};

/// Mirrors textcore_gguf_vocabulary.
#[repr(C)]
pub struct GgufVocabulary {
    model: View,
    pre: View,
    tokens: *const View,
    token_count: usize,
    merges: *const View,
    merge_count: usize,
    scores: *const f32,
    score_count: usize,
    token_types: *const i32,
    token_type_count: usize,
    unknown_id: i32,
    has_unknown_id: bool,
    add_space_prefix: bool,
}

/// tokenizer.ggml.token_type.
mod token_type {
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
}

fn corrupt(message: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Corrupt, message)
}

/// # Safety
/// The pointers of `v` are valid for their counts.
pub unsafe fn from_gguf(v: &GgufVocabulary) -> Outcome<Parts> {
    let model = v.model.text("tokenizer.ggml.model")?;
    let pre = v.pre.text("tokenizer.ggml.pre")?;
    let tokens = texts(v.tokens, v.token_count, "token")?;
    let merges = texts(v.merges, v.merge_count, "merge")?;
    let scores = slice(v.scores, v.score_count);
    let types = slice(v.token_types, v.token_type_count);
    if tokens.is_empty() || tokens.len() > MAX_TOKEN_ID as usize {
        return Err(corrupt(format!("{} tokens", tokens.len())));
    }
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(corrupt(format!("{} token types for {} tokens", types.len(), tokens.len())));
    }
    let vocab = Vocabulary { tokens, merges, scores, types };
    match model {
        "gpt2" => byte_level(&vocab, pre),
        "llama" => {
            let unknown = v.has_unknown_id.then_some(v.unknown_id);
            sentence_piece(&vocab, unknown, v.add_space_prefix)
        }
        other => Err(Failure::new(
            Code::Unsupported,
            format!("tokenizer.ggml.model {other:?} is not supported, only \"gpt2\" and \"llama\""),
        )),
    }
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    merges: Vec<&'a str>,
    scores: &'a [f32],
    types: &'a [i32],
}

impl Vocabulary<'_> {
    fn type_of(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(1)
    }

    /// Tokens matched in text before anything else: (id, token), and the rest, which merging works on. A spelling
    /// that occurs twice belongs to its first id.
    fn split(
        &self,
        special: impl Fn(i32) -> Option<bool>,
    ) -> (Vec<(u32, AddedToken)>, AHashMap<String, u32>) {
        let mut added = Vec::new();
        let mut vocab = AHashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            match special(self.type_of(id)) {
                Some(special) if !token.is_empty() => {
                    added.push((id as u32, AddedToken::from(*token, special).normalized(false)));
                }
                _ => {
                    vocab.entry(token.to_string()).or_insert(id as u32);
                }
            }
        }
        let mut seen = ahash::AHashSet::new();
        added.retain(|(_, token)| !vocab.contains_key(&token.content) && seen.insert(token.content.clone()));
        (added, vocab)
    }

    fn split_merges(&self) -> Outcome<Vec<(String, String)>> {
        self.merges
            .iter()
            .enumerate()
            .map(|(rank, merge)| {
                split_merge(merge)
                    .map(|(left, right)| (left.to_string(), right.to_string()))
                    .ok_or_else(|| corrupt(format!("merge {rank} {merge:?} is not two tokens")))
            })
            .collect()
    }
}

fn byte_level(v: &Vocabulary, pre: &str) -> Outcome<Parts> {
    let Some(pre_tokenizer) = pretokenizers::by_name(pre) else {
        return Err(Failure::new(
            Code::Unsupported,
            format!("pre-tokenizer {pre:?} (tokenizer.ggml.pre) is not known"),
        ));
    };
    let (added, vocab) = v.split(|kind| match kind {
        token_type::CONTROL | token_type::UNKNOWN => Some(true),
        token_type::USER_DEFINED => Some(false),
        _ => None,
    });
    if v.merges.is_empty() {
        return Err(corrupt("a \"gpt2\" vocabulary without tokenizer.ggml.merges"));
    }
    byte_level_parts(vocab, v.split_merges()?, added, pre_tokenizer)
}

fn byte_level_parts(
    vocab: AHashMap<String, u32>,
    merges: Vec<(String, String)>,
    added: Vec<(u32, AddedToken)>,
    pre: pretokenizers::PreTokenizer,
) -> Outcome<Parts> {
    Ok(Parts {
        vocab,
        merges,
        unk_token: None,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: pre.ignore_merges,
        added,
        normalizer: component("normalizer", pre.normalizer)?,
        pre_tokenizer: component("pre_tokenizer", Some(pre.steps))?,
        post_processor: None,
        spelling: Spelling::ByteLevel,
        add_bos: pre.add_bos,
        cuts_long_text: pre.cuts_long_text,
    })
}

fn sentence_piece(v: &Vocabulary, unknown: Option<i32>, space_prefix: bool) -> Outcome<Parts> {
    let (added, mut vocab) = v.split(|kind| match kind {
        token_type::CONTROL | token_type::UNKNOWN => Some(true),
        token_type::USER_DEFINED => Some(false),
        _ => None,
    });
    let merges = if !v.merges.is_empty() {
        v.split_merges()?
    } else if v.scores.len() == v.tokens.len() {
        merges_by_score(v, &vocab)
    } else {
        return Err(corrupt(format!("{} scores for {} tokens", v.scores.len(), v.tokens.len())));
    };
    let unk_token = match unknown {
        Some(id) => match usize::try_from(id).ok().and_then(|i| v.tokens.get(i)) {
            Some(token) => Some(token.to_string()),
            None => return Err(corrupt(format!("unknown-token id {id} is outside the vocabulary"))),
        },
        None => None,
    };
    // The model looks the unknown token up in its own vocabulary.
    if let (Some(token), Some(id)) = (&unk_token, unknown) {
        vocab.entry(token.clone()).or_insert(id as u32);
    }
    let mut normalizers = vec![];
    if space_prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}));
    Ok(Parts {
        vocab,
        merges,
        unk_token,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        added,
        normalizer: component("normalizer", Some(json!({"type": "Sequence", "normalizers": normalizers})))?,
        pre_tokenizer: None,
        post_processor: None,
        spelling: Spelling::SentencePiece { byte_fallback: true, strip_leading_space: space_prefix },
        add_bos: true,
        cuts_long_text: false,
    })
}

/// SentencePiece merges whichever neighbours form the piece of the highest score: every way to cut every piece in
/// two known ones, best piece first. Cuts of one piece are ordered by the ids of their halves, as the converters to
/// tokenizer.json do.
fn merges_by_score(v: &Vocabulary, vocab: &AHashMap<String, u32>) -> Vec<(String, String)> {
    let mut cuts: Vec<(f32, u32, u32, u32, &str, &str)> = Vec::new();
    for (token, id) in v.tokens.iter().zip(0u32..) {
        if vocab.get(*token) != Some(&id) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (vocab.get(left), vocab.get(right)) {
                cuts.push((v.scores[id as usize], id, *l, *r, left, right));
            }
        }
    }
    cuts.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    cuts.into_iter().map(|(.., left, right)| (left.to_string(), right.to_string())).collect()
}

#[derive(Deserialize)]
struct TiktokenConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, TiktokenAdded>,
}

#[derive(Deserialize)]
struct TiktokenAdded {
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct TiktokenPattern {
    pattern: String,
}

/// `ranks`: lines "base64(token bytes) rank"; the rank is the id. `pattern`: {"pattern": regex}, or empty for Kimi's.
/// Special tokens come from added_tokens_decoder of tokenizer_config.json.
pub fn from_tiktoken(ranks: &str, config: &str, pattern: &str) -> Outcome<Parts> {
    let mut by_bytes: AHashMap<Vec<u8>, u32> = AHashMap::new();
    for (number, line) in ranks.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = || corrupt(format!("tiktoken.model line {}: not \"base64 rank\"", number + 1));
        let (token, rank) = line.trim().split_once(' ').ok_or_else(bad)?;
        let token = base64::decode(token).map_err(|_| bad())?;
        let rank: u32 = rank.parse().map_err(|_| bad())?;
        if token.is_empty() || by_bytes.insert(token, rank).is_some() {
            return Err(bad());
        }
    }
    let config: TiktokenConfig = if config.is_empty() {
        TiktokenConfig { added_tokens_decoder: BTreeMap::new() }
    } else {
        serde_json::from_str(config).map_err(|e| corrupt(format!("tokenizer_config.json: {e}")))?
    };
    let added = config
        .added_tokens_decoder
        .into_iter()
        .map(|(id, token)| {
            let id = id.parse().map_err(|_| corrupt(format!("added_tokens_decoder: id {id:?}")))?;
            Ok((id, AddedToken::from(token.content, token.special).normalized(false)))
        })
        .collect::<Outcome<Vec<_>>>()?;

    // Merging by rank of the result is merging by pair once every cut of a token into two known ones is a pair.
    let chars = char_of_byte();
    let spell = |bytes: &[u8]| -> String { bytes.iter().map(|b| chars[*b as usize]).collect() };
    let mut cuts: Vec<(u32, u32, u32, &[u8], &[u8])> = Vec::new();
    for (token, rank) in &by_bytes {
        for at in 1..token.len() {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (by_bytes.get(left), by_bytes.get(right)) {
                cuts.push((*rank, *l, *r, left, right));
            }
        }
    }
    cuts.sort_unstable_by_key(|cut| (cut.0, cut.1, cut.2));
    let merges = cuts.into_iter().map(|(.., left, right)| (spell(left), spell(right))).collect();
    let vocab = by_bytes.iter().map(|(token, rank)| (spell(token), *rank)).collect();
    let pattern: Option<TiktokenPattern> = match pattern {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(|e| corrupt(format!("tiktoken_pattern.json: {e}")))?),
    };
    let pre = pretokenizers::of_tiktoken(pattern.as_ref().map(|p| p.pattern.as_str()));
    byte_level_parts(vocab, merges, added, pre)
}
