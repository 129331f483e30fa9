// SPDX-License-Identifier: Apache-2.0
//! Tokenizers, chat templates and grammars behind a small C interface (textcore.h): HF `tokenizers`, `minijinja` and
//! `llguidance` in one static library. Every function exported here catches panics and turns them into errors; no
//! state is kept outside the objects that the caller holds.

mod boundary;
mod dialect;
mod files;
mod grammar;
mod pieces;
mod pretokenizers;
mod python;
mod template;
mod tokenizer;
mod vocabulary;
