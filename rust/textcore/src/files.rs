// SPDX-License-Identifier: Apache-2.0
//! tokenizer.json. Read here and not by the library's own deserialiser, which buffers the merges twice: that costs
//! hundreds of milliseconds for vocabularies of real size, at every start.

use std::fmt;

use ahash::AHashMap;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::AddedToken;

use crate::boundary::{Code, Failure, Outcome};
use crate::tokenizer::{Parts, Spelling};

#[derive(Deserialize)]
struct File {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

struct Vocab(AHashMap<String, u32>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object token > id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = AHashMap::with_capacity(1 << 16);
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    vocab.insert(token, id);
                }
                Ok(Vocab(vocab))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// ["left", "right"] or, in older files, "left right".
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: two strings, or one with a space between")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                split_merge(text)
                    .map(|(left, right)| Merge(left.into(), right.into()))
                    .ok_or_else(|| E::custom(format!("merge {text:?} is not two tokens")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let short = || A::Error::custom("a merge needs two tokens");
                let left = seq.next_element()?.ok_or_else(short)?;
                let right = seq.next_element()?.ok_or_else(short)?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// The two tokens of "left right".
pub fn split_merge(text: &str) -> Option<(&str, &str)> {
    let (left, right) = text.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then_some((left, right))
}

/// Only enough of a file to say which kind of model it holds.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    r#type: Option<String>,
}

pub fn read_tokenizer_json(text: &str) -> Outcome<Parts> {
    let kind: Kind = serde_json::from_str(text).map_err(corrupt)?;
    // Files from before the field existed are BPE.
    let kind = kind.model.r#type.unwrap_or_else(|| "BPE".to_string());
    if kind != "BPE" {
        return Err(Failure::new(
            Code::Unsupported,
            format!("tokenizer model {kind:?} is not supported, only \"BPE\""),
        ));
    }
    let file: File = serde_json::from_str(text).map_err(corrupt)?;
    if let Some(version) = file.version.filter(|v| v != "1.0") {
        return Err(Failure::new(
            Code::Unsupported,
            format!("tokenizer.json version {version:?} is not supported, only \"1.0\""),
        ));
    }
    let added = file
        .added_tokens
        .into_iter()
        .map(|t| {
            let token = AddedToken::from(t.content, t.special)
                .single_word(t.single_word)
                .lstrip(t.lstrip)
                .rstrip(t.rstrip);
            (t.id, token.normalized(t.normalized.unwrap_or(!t.special)))
        })
        .collect();
    Ok(Parts {
        vocab: file.model.vocab.0,
        merges: file.model.merges.into_iter().map(|m| (m.0, m.1)).collect(),
        unk_token: file.model.unk_token,
        continuing_subword_prefix: file.model.continuing_subword_prefix.filter(|s| !s.is_empty()),
        end_of_word_suffix: file.model.end_of_word_suffix.filter(|s| !s.is_empty()),
        fuse_unk: file.model.fuse_unk.unwrap_or(false),
        byte_fallback: file.model.byte_fallback.unwrap_or(false),
        ignore_merges: file.model.ignore_merges.unwrap_or(false),
        added,
        normalizer: component("normalizer", file.normalizer)?,
        pre_tokenizer: component("pre_tokenizer", file.pre_tokenizer)?,
        post_processor: component("post_processor", file.post_processor)?,
        spelling: spelling(file.decoder.as_ref())?,
        add_bos: false,
        cuts_long_text: false,
    })
}

fn corrupt(e: impl fmt::Display) -> Failure {
    Failure::new(Code::Corrupt, e)
}

/// A part of the pipeline from its JSON; `name` names it in the error.
pub fn component<T: DeserializeOwned>(name: &str, value: Option<Value>) -> Outcome<Option<T>> {
    value.map(|v| serde_json::from_value(v).map_err(|e| corrupt(format!("{name}: {e}")))).transpose()
}

/// Which way of spelling bytes a decoder undoes.
fn spelling(decoder: Option<&Value>) -> Outcome<Spelling> {
    let unsupported = |what: String| {
        Err(Failure::new(
            Code::Unsupported,
            format!("decoder {what} is not supported, only byte-level and SentencePiece-style ones"),
        ))
    };
    let kind = |v: &Value| v["type"].as_str().unwrap_or("without a type").to_string();
    let Some(decoder) = decoder else { return unsupported("none".into()) };
    let one = [decoder.clone()];
    let steps = match decoder["decoders"].as_array() {
        Some(steps) if kind(decoder) == "Sequence" => &steps[..],
        _ => &one[..],
    };
    let (mut byte_fallback, mut strip, mut spaces) = (false, false, false);
    for step in steps {
        match kind(step).as_str() {
            "ByteLevel" => return Ok(Spelling::ByteLevel),
            "Replace" if step["pattern"]["String"] == "\u{2581}" && step["content"] == " " => spaces = true,
            "ByteFallback" => byte_fallback = true,
            "Fuse" => {}
            "Strip" if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => strip = true,
            "Metaspace" if step["replacement"] == "\u{2581}" => {
                spaces = true;
                strip = step["prepend_scheme"] != "never" && step["add_prefix_space"] != false;
            }
            other => return unsupported(other.to_string()),
        }
    }
    if !spaces {
        return unsupported(kind(decoder));
    }
    Ok(Spelling::SentencePiece { byte_fallback, strip_leading_space: strip })
}
