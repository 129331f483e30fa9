// SPDX-License-Identifier: Apache-2.0
//! How tokenizers that are published as a tiktoken file cut long text before they look at it (models.md, kimi_k2): ids
//! of such text depend on it.

const MAX_CHARS: usize = 400_000;
/// Longest run of characters that are all white space, or none of them.
const MAX_RUN: usize = 25_000;

/// What Python's str.isspace says: the separators of ASCII count, too.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// The pieces of `text`, in order; at least one.
pub fn cut(text: &str) -> Vec<&str> {
    if text.len() <= MAX_RUN {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let (mut start, mut chars, mut run, mut run_is_space) = (0, 0, 0, false);
    for (at, c) in text.char_indices() {
        if chars == MAX_CHARS {
            pieces.push(&text[start..at]);
            (start, chars, run) = (at, 0, 0);
        }
        chars += 1;
        run += 1;
        if run == 1 || is_space(c) != run_is_space {
            run = 1;
            run_is_space = is_space(c);
        } else if run > MAX_RUN {
            pieces.push(&text[start..at]);
            start = at;
            run = 1;
        }
    }
    pieces.push(&text[start..]);
    pieces
}
