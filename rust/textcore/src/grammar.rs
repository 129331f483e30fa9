// SPDX-License-Identifier: Apache-2.0
//! Constrained output over llguidance: a compiler per vocabulary, a matcher per sequence.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::boundary::{free, guard, guard_value, slice, Bytes, Code, Failure, Outcome, View};
use crate::tokenizer::Tokenizer;

/// Longest source of a grammar.
const MAX_SOURCE_BYTES: usize = 1 << 20;

pub struct Compiler {
    factory: ParserFactory,
    vocab_size: usize,
    eos: Arc<Vec<u32>>,
}

pub struct GrammarMatcher {
    matcher: Matcher,
    vocab_size: usize,
    /// Every id that ends a generation; the library knows the first only.
    eos: Arc<Vec<u32>>,
}

impl Compiler {
    fn new(tokenizer: &Tokenizer, eos: &[i32]) -> Outcome<Compiler> {
        let words: Vec<Vec<u8>> = tokenizer
            .tokens()
            .map(|(bytes, special)| {
                // The library's mark of a token that is no text: 0xFF, which no UTF-8 contains.
                let mut word = Vec::with_capacity(bytes.len() + 1);
                if special {
                    word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                }
                word.extend_from_slice(bytes);
                word
            })
            .collect();
        let eos: Vec<u32> = eos
            .iter()
            .filter_map(|id| u32::try_from(*id).ok())
            .filter(|id| (*id as usize) < words.len())
            .collect();
        let Some(first) = eos.first() else {
            return Err(Failure::new(
                Code::Unsupported,
                "grammars need an end-of-sequence token, and this tokenizer has none",
            ));
        };
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, *first), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        // No slices: they pay for themselves only over many sequences, and cost a second at the start.
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[])
            .map_err(|e| Failure::new(Code::Internal, e))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Compiler { factory, vocab_size: words.len(), eos: Arc::new(eos) })
    }

    fn matcher(&self, kind: i32, source: &str) -> Outcome<GrammarMatcher> {
        let invalid = |e: String| Failure::new(Code::InvalidArgument, e);
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Failure::new(
                Code::ResourceExhausted,
                format!("grammar of {} bytes is above {MAX_SOURCE_BYTES}", source.len()),
            ));
        }
        let grammar = match kind {
            0 => TopLevelGrammar::from_json_schema(
                serde_json::from_str(source).map_err(|e| invalid(format!("JSON schema: {e}")))?,
            ),
            1 => TopLevelGrammar::from_regex(source),
            2 => TopLevelGrammar::from_lark(source.to_string()),
            other => return Err(invalid(format!("grammar kind {other} does not exist"))),
        };
        let parser = self.factory.create_parser(grammar).map_err(|e| invalid(format!("{e:#}")))?;
        let matcher = Matcher::new(Ok(parser));
        if let Some(error) = matcher.get_error() {
            return Err(invalid(error));
        }
        Ok(GrammarMatcher { matcher, vocab_size: self.vocab_size, eos: self.eos.clone() })
    }
}

impl GrammarMatcher {
    fn mask(&mut self, out: &mut [u32]) -> Outcome<()> {
        let mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|e| Failure::new(Code::ResourceExhausted, format!("{e:#}")))?;
        // llguidance keeps one bit more than the vocabulary has tokens: a word more when that is whole words.
        let words = mask.as_slice();
        let words = &words[..words.len().min(self.vocab_size.div_ceil(32))];
        if out.len() < words.len() {
            return Err(Failure::new(
                Code::InvalidArgument,
                format!("a mask of {} words, {} are needed", out.len(), words.len()),
            ));
        }
        out.fill(0);
        out[..words.len()].copy_from_slice(words);
        let bit = |id: u32| (id as usize / 32, 1u32 << (id % 32));
        let (word, first) = bit(self.eos[0]);
        if out[word] & first != 0 {
            for id in self.eos.iter() {
                let (word, one) = bit(*id);
                out[word] |= one;
            }
        }
        Ok(())
    }

    fn commit(&mut self, id: i32) -> Outcome<()> {
        let refuse = |why: String| Failure::new(Code::InvalidArgument, why);
        let mut id = u32::try_from(id)
            .ok()
            .filter(|id| (*id as usize) < self.vocab_size)
            .ok_or_else(|| refuse(format!("token {id} does not exist")))?;
        if self.eos.contains(&id) {
            id = self.eos[0];
        }
        if self.matcher.is_stopped() {
            // After the end only the end may follow; it changes nothing.
            return if id == self.eos[0] && !self.matcher.is_error() {
                Ok(())
            } else {
                Err(refuse(format!("token {id} after the end of the grammar")))
            };
        }
        // Asked first, so that a refused token leaves the state as it was.
        match self.matcher.validate_tokens(&[id]) {
            Ok(1) => {}
            Ok(_) => return Err(refuse(format!("token {id} does not fit the grammar here"))),
            Err(e) => return Err(refuse(format!("token {id}: {e:#}"))),
        }
        self.matcher.consume_token(id).map_err(|e| refuse(format!("token {id}: {e:#}")))
    }
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_compiler_new(
    tokenizer: *const Tokenizer,
    eos: *const i32,
    eos_count: usize,
    out: *mut *mut Compiler,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let compiler = Compiler::new(&*tokenizer, slice(eos, eos_count))?;
        out.write(Box::into_raw(Box::new(compiler)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_compiler_free(compiler: *mut Compiler) {
    free(compiler);
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_new(
    compiler: *const Compiler,
    kind: i32,
    source: View,
    out: *mut *mut GrammarMatcher,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let matcher = (*compiler).matcher(kind, source.text("the grammar")?)?;
        out.write(Box::into_raw(Box::new(matcher)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_free(matcher: *mut GrammarMatcher) {
    free(matcher);
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_mask(
    matcher: *mut GrammarMatcher,
    mask: *mut u32,
    words: usize,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let mask = if words == 0 { &mut [] } else { std::slice::from_raw_parts_mut(mask, words) };
        (*matcher).mask(mask)
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_commit(
    matcher: *mut GrammarMatcher,
    id: i32,
    error: *mut Bytes,
) -> i32 {
    guard(error, || (*matcher).commit(id))
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_is_accepting(matcher: *mut GrammarMatcher) -> bool {
    guard_value(false, || (*matcher).matcher.is_accepting().unwrap_or(false))
}

#[no_mangle]
pub unsafe extern "C" fn textcore_grammar_matcher_is_stopped(matcher: *const GrammarMatcher) -> bool {
    guard_value(true, || (*matcher).matcher.is_stopped())
}
