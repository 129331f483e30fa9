// SPDX-License-Identifier: Apache-2.0
//! The tokenizer object: HF `tokenizers` encodes, a table of bytes per id decodes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::AHashMap;
use tokenizers::models::bpe::{BpeBuilder, BpeTrainer, BPE};
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, Model, NormalizerWrapper, PostProcessor, PostProcessorWrapper,
    PreTokenizerWrapper, Token, TokenizerImpl,
};

use crate::boundary::{free, guard, guard_value, slice, Bytes, Code, Failure, Ids, Outcome, View};
use crate::pieces;
use crate::vocabulary::{from_gguf, from_tiktoken, GgufVocabulary};

/// Ids above this are refused: they would only size tables.
pub const MAX_TOKEN_ID: u32 = (1 << 24) - 1;

const FLAG_EXISTS: u8 = 1;
const FLAG_SPECIAL: u8 = 2;

/// How entries of the vocabulary turn into bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Spelling {
    /// Every character stands for one byte (GPT-2's table).
    ByteLevel,
    /// U+2581 is a space and, with `byte_fallback`, "<0x41>" is a byte.
    SentencePiece { byte_fallback: bool, strip_leading_space: bool },
}

/// What a tokenizer is made of, whatever file it came from.
pub struct Parts {
    pub vocab: AHashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    pub added: Vec<(u32, AddedToken)>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub spelling: Spelling,
    /// Whether texts get BOS where no configuration says otherwise.
    pub add_bos: bool,
    /// Whether long texts are cut first, as in pieces.rs.
    pub cuts_long_text: bool,
}

/// One BPE model for two pipelines. Added tokens have their ids here too, so that they keep those of the file even
/// where these do not follow the vocabulary without a gap.
#[derive(Clone)]
struct SharedModel {
    bpe: Arc<BPE>,
    added: Arc<AHashMap<String, u32>>,
}

impl Model for SharedModel {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        self.bpe.tokenize(sequence)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied().or_else(|| self.bpe.token_to_id(token))
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.bpe.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.bpe.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.bpe.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.bpe.save(folder, prefix)
    }
    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

type Pipeline =
    TokenizerImpl<SharedModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub struct Tokenizer {
    /// Reads special tokens in text as such.
    parsing: Pipeline,
    /// Reads them as ordinary text.
    literal: Pipeline,
    bytes: Vec<u8>,
    offsets: Vec<u32>,
    flags: Vec<u8>,
    prefix: Vec<i32>,
    suffix: Vec<i32>,
    strip_leading_space: bool,
    add_bos: bool,
    cuts_long_text: bool,
}

fn corrupt(e: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Corrupt, e)
}

impl Tokenizer {
    pub fn build(parts: Parts) -> Outcome<Tokenizer> {
        let table = Table::build(&parts)?;
        let mut added = AHashMap::with_capacity(parts.added.len());
        for (id, token) in &parts.added {
            if let Some(known) = parts.vocab.get(&token.content).or_else(|| added.get(&token.content)) {
                if known != id {
                    return Err(corrupt(format!("token {:?} has two ids, {known} and {id}", token.content)));
                }
            }
            added.insert(token.content.clone(), *id);
        }

        let mut builder = BpeBuilder::new()
            .fuse_unk(parts.fuse_unk)
            .byte_fallback(parts.byte_fallback)
            .ignore_merges(parts.ignore_merges)
            .vocab_and_merges(parts.vocab, parts.merges);
        if let Some(unk) = parts.unk_token {
            builder = builder.unk_token(unk);
        }
        if let Some(prefix) = parts.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = parts.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        let model = SharedModel { bpe: Arc::new(builder.build().map_err(corrupt)?), added: Arc::new(added) };
        let mut parsing = Pipeline::new(model);
        parsing.with_normalizer(parts.normalizer).map_err(corrupt)?;
        parsing.with_pre_tokenizer(parts.pre_tokenizer);
        parsing.add_tokens(parts.added.into_iter().map(|(_, token)| token)).map_err(corrupt)?;
        let mut literal = parsing.clone();
        literal.set_encode_special_tokens(true);

        let (prefix, suffix) = surroundings(parts.post_processor.as_ref())?;
        Ok(Tokenizer {
            parsing,
            literal,
            bytes: table.bytes,
            offsets: table.offsets,
            flags: table.flags,
            prefix,
            suffix,
            strip_leading_space: matches!(
                parts.spelling,
                Spelling::SentencePiece { strip_leading_space: true, .. }
            ),
            add_bos: parts.add_bos,
            cuts_long_text: parts.cuts_long_text,
        })
    }

    fn encode(&self, text: &str, parse_special: bool) -> Outcome<Vec<i32>> {
        let pipeline = if parse_special { &self.parsing } else { &self.literal };
        let mut ids = Vec::new();
        let pieces = if self.cuts_long_text { pieces::cut(text) } else { vec![text] };
        for piece in pieces {
            let encoding = pipeline.encode_fast(piece, false).map_err(|e| Failure::new(Code::Internal, e))?;
            ids.extend(encoding.get_ids().iter().map(|id| *id as i32));
        }
        Ok(ids)
    }

    /// The bytes of every id in order; empty for ids that do not exist.
    pub fn tokens(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.flags.iter().enumerate().map(|(i, flags)| {
            let range = self.offsets[i] as usize..self.offsets[i + 1] as usize;
            (&self.bytes[range], flags & FLAG_SPECIAL != 0)
        })
    }
}

/// What the post-processor puts around a text. It is asked with one token that no vocabulary has.
fn surroundings(processor: Option<&PostProcessorWrapper>) -> Outcome<(Vec<i32>, Vec<i32>)> {
    const TEXT: u32 = u32::MAX;
    let Some(processor) = processor else { return Ok((vec![], vec![])) };
    let text = Encoding::from_tokens(vec![Token::new(TEXT, "x".into(), (0, 1))], 0);
    let all = processor.process(text, None, true).map_err(corrupt)?;
    let ids = all.get_ids();
    let at =
        ids.iter().position(|id| *id == TEXT).ok_or_else(|| corrupt("the post-processor drops the text"))?;
    let narrow = |ids: &[u32]| ids.iter().map(|id| *id as i32).collect();
    Ok((narrow(&ids[..at]), narrow(&ids[at + 1..])))
}

struct Table {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
    flags: Vec<u8>,
}

impl Table {
    fn build(parts: &Parts) -> Outcome<Table> {
        let ids = parts.vocab.values().chain(parts.added.iter().map(|(id, _)| id));
        let Some(largest) = ids.copied().max() else {
            return Err(corrupt("the vocabulary is empty"));
        };
        if largest > MAX_TOKEN_ID {
            return Err(corrupt(format!("token id {largest} is above {MAX_TOKEN_ID}")));
        }
        let mut spellings: Vec<Option<&str>> = vec![None; largest as usize + 1];
        for (token, id) in &parts.vocab {
            spellings[*id as usize] = Some(token);
        }
        let mut flags: Vec<u8> =
            spellings.iter().map(|s| if s.is_some() { FLAG_EXISTS } else { 0 }).collect();
        let mut raw: Vec<Option<&str>> = vec![None; spellings.len()];
        for (id, token) in &parts.added {
            raw[*id as usize] = Some(&token.content);
            flags[*id as usize] = FLAG_EXISTS | if token.special { FLAG_SPECIAL } else { 0 };
        }

        let bytes_of = byte_of_char();
        let mut bytes = Vec::with_capacity(spellings.len() * 8);
        let mut offsets = Vec::with_capacity(spellings.len() + 1);
        offsets.push(0);
        for (spelling, content) in spellings.iter().zip(&raw) {
            match parts.spelling {
                Spelling::ByteLevel => match (content, spelling) {
                    (Some(content), _) => bytes.extend_from_slice(content.as_bytes()),
                    (None, Some(spelling)) => push_byte_level(&mut bytes, spelling, &bytes_of),
                    (None, None) => {}
                },
                Spelling::SentencePiece { byte_fallback, .. } => {
                    if let Some(text) = content.or(*spelling) {
                        match byte_token(text).filter(|_| byte_fallback) {
                            Some(byte) => bytes.push(byte),
                            None => bytes.extend_from_slice(text.replace('\u{2581}', " ").as_bytes()),
                        }
                    }
                }
            }
            offsets.push(u32::try_from(bytes.len()).map_err(|_| corrupt("the vocabulary is above 4 GiB"))?);
        }
        Ok(Table { bytes, offsets, flags })
    }
}

/// The byte of "<0x41>".
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's byte for each character, by code point; the printable bytes stand for themselves, the other 68 follow
/// from U+0100 on.
fn byte_of_char() -> [Option<u8>; 324] {
    let mut table = [None; 324];
    let mut next = 256;
    for byte in 0..=255u8 {
        if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
            table[byte as usize] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
}

/// The character of each byte: the inverse of `byte_of_char`.
pub fn char_of_byte() -> [char; 256] {
    let mut chars = ['\0'; 256];
    for (code, byte) in byte_of_char().iter().enumerate() {
        if let (Some(byte), Some(c)) = (byte, char::from_u32(code as u32)) {
            chars[*byte as usize] = c;
        }
    }
    chars
}

/// An entry with any character outside the table was never byte-level: it stands for itself.
fn push_byte_level(out: &mut Vec<u8>, spelling: &str, table: &[Option<u8>; 324]) {
    let start = out.len();
    for c in spelling.chars() {
        match table.get(c as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(spelling.as_bytes());
                return;
            }
        }
    }
}

unsafe fn give(out: *mut *mut Tokenizer, error: *mut Bytes, make: impl FnOnce() -> Outcome<Parts>) -> i32 {
    guard(error, || {
        let tokenizer = Tokenizer::build(make()?)?;
        out.write(Box::into_raw(Box::new(tokenizer)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_from_json(
    json: View,
    out: *mut *mut Tokenizer,
    error: *mut Bytes,
) -> i32 {
    give(out, error, || crate::files::read_tokenizer_json(json.text("tokenizer.json")?))
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_from_gguf(
    vocabulary: *const GgufVocabulary,
    out: *mut *mut Tokenizer,
    error: *mut Bytes,
) -> i32 {
    give(out, error, || from_gguf(&*vocabulary))
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_from_tiktoken(
    ranks: View,
    config_json: View,
    pattern_json: View,
    out: *mut *mut Tokenizer,
    error: *mut Bytes,
) -> i32 {
    give(out, error, || {
        from_tiktoken(
            ranks.text("tiktoken.model")?,
            config_json.text("tokenizer_config.json")?,
            pattern_json.text("tiktoken_pattern.json")?,
        )
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_free(tokenizer: *mut Tokenizer) {
    free(tokenizer);
}

/// Mirrors textcore_table.
#[repr(C)]
pub struct TableView {
    bytes: *const u8,
    offsets: *const u32,
    flags: *const u8,
    count: usize,
    prefix: *const i32,
    prefix_count: usize,
    suffix: *const i32,
    suffix_count: usize,
    strip_leading_space: bool,
    add_bos: bool,
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_table(tokenizer: *const Tokenizer, out: *mut TableView) {
    let t = &*tokenizer;
    out.write(TableView {
        bytes: t.bytes.as_ptr(),
        offsets: t.offsets.as_ptr(),
        flags: t.flags.as_ptr(),
        count: t.flags.len(),
        prefix: t.prefix.as_ptr(),
        prefix_count: t.prefix.len(),
        suffix: t.suffix.as_ptr(),
        suffix_count: t.suffix.len(),
        strip_leading_space: t.strip_leading_space,
        add_bos: t.add_bos,
    });
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: View,
    parse_special: bool,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let ids = (*tokenizer).encode(text.text("the text")?, parse_special)?;
        out.write(Ids::new(ids));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_tokenizer_token_id(
    tokenizer: *const Tokenizer,
    content: View,
    out: *mut i32,
) -> bool {
    guard_value(false, || {
        let Ok(content) = std::str::from_utf8(content.bytes()) else { return false };
        match (*tokenizer).parsing.token_to_id(content) {
            Some(id) => {
                out.write(id as i32);
                true
            }
            None => false,
        }
    })
}

/// Views of the caller's strings as UTF-8; `what` and the index name the one that is not.
///
/// # Safety
/// `views` points to `count` valid views.
pub unsafe fn texts<'a>(views: *const View, count: usize, what: &str) -> Outcome<Vec<&'a str>> {
    slice(views, count)
        .iter()
        .enumerate()
        .map(|(i, view)| {
            std::str::from_utf8(view.bytes()).map_err(|_| corrupt(format!("{what} {i} is not UTF-8")))
        })
        .collect()
}
