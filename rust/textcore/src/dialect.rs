// SPDX-License-Identifier: Apache-2.0
//! What published templates use of Jinja2 that minijinja does not have: lists that change, and the tag that marks the
//! assistant's text. Both are rewritten in the source, line for line, before it is compiled.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{from_args, Enumerator, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};

/// The function that list literals become in templates which change lists.
pub const LIST_FUNCTION: &str = "__list";

const MUTATORS: [&str; 7] = [".append(", ".clear(", ".extend(", ".insert(", ".pop(", ".remove(", ".reverse("];

/// Words after which `[` opens a list; after any other name it is a subscript.
const KEYWORDS: [&str; 15] = [
    "and", "call", "do", "elif", "else", "filter", "for", "if", "in", "is", "not", "or", "print", "set",
    "with",
];

/// The source for minijinja. Comments, raw blocks, strings and whitespace control stay as they are; so do line
/// numbers.
pub fn adapt(source: &str) -> String {
    let lists = MUTATORS.iter().any(|m| source.contains(m));
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let verbatim = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{' | b'%') => match scan_tag(tag, lists) {
                Some(scanned) => {
                    out.push_str(&scanned.text);
                    rest = &tag[scanned.size..];
                    if scanned.opens_raw {
                        let end = rest.find("endraw").unwrap_or(rest.len());
                        out.push_str(&rest[..end]);
                        rest = &rest[end..];
                    }
                    continue;
                }
                // Not closed: the compiler will say so.
                None => tag.len(),
            },
            _ => 1,
        };
        out.push_str(&tag[..verbatim]);
        rest = &tag[verbatim..];
    }
    out.push_str(rest);
    out
}

struct Scanned {
    text: String,
    /// Bytes of the source that `text` stands for.
    size: usize,
    opens_raw: bool,
}

/// Reads one `{{ }}` or `{% %}` from the start of `source`.
fn scan_tag(source: &str, lists: bool) -> Option<Scanned> {
    let block = source.starts_with("{%");
    let close = if block { "%}" } else { "}}" };
    let mut text = source[..2].to_string();
    let mut brackets: Vec<&str> = Vec::new(); // what each open bracket is closed by
    let mut words: Vec<&str> = Vec::new();
    let mut after_operand = false;
    let mut at = 2;
    while let Some(c) = source[at..].chars().next() {
        if brackets.is_empty() && source[at..].starts_with(close) {
            text.push_str(close);
            let size = at + close.len();
            let inner = source[2..at].trim_matches(|c| c == '-' || c == '+').trim();
            if block && inner == "generation" {
                text = source[..size].replace("generation", "if true");
            } else if block && inner == "endgeneration" {
                text = source[..size].replace("endgeneration", "endif");
            }
            return Some(Scanned { text, size, opens_raw: block && words == ["raw"] });
        }
        let size = token_size(&source[at..], c);
        let token = &source[at..at + size];
        at += size;
        if c.is_whitespace() {
            text.push_str(token);
            continue;
        }
        let was_operand = after_operand;
        after_operand = match c {
            '\'' | '"' | ')' | ']' | '}' => true,
            c if is_word(c) => !KEYWORDS.contains(&token),
            _ => false,
        };
        match c {
            '[' if lists && !was_operand => {
                text.push_str(LIST_FUNCTION);
                text.push_str("([");
                brackets.push("])");
            }
            '[' | '(' | '{' => {
                text.push(c);
                brackets.push(match c {
                    '[' => "]",
                    '(' => ")",
                    _ => "}",
                });
            }
            ']' | ')' | '}' => match brackets.pop() {
                Some(closing) if closing.starts_with(c) => text.push_str(closing),
                _ => text.push(c),
            },
            c => {
                if is_word(c) {
                    words.push(token);
                }
                text.push_str(token);
            }
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of the token that starts with `first`: a string, a word, else one character.
fn token_size(source: &str, first: char) -> usize {
    match first {
        '\'' | '"' => {
            let mut escaped = false;
            for (at, c) in source.char_indices().skip(1) {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    c if c == first => return at + c.len_utf8(),
                    _ => {}
                }
            }
            source.len()
        }
        c if is_word(c) => source.find(|c| !is_word(c)).unwrap_or(source.len()),
        c => c.len_utf8(),
    }
}

/// A list with Python's methods that change it.
pub struct List(Mutex<Vec<Value>>);

impl List {
    pub fn from_items(items: Vec<Value>) -> Value {
        Value::from_object(List(Mutex::new(items)))
    }

    /// Runs `f` on the items; a panic elsewhere cannot have left a Vec half-changed.
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Value>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// Not derived: a list may hold itself.
impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[...]")
    }
}

/// A Python index: negative ones count from the end.
fn position(index: i64, size: usize) -> Option<usize> {
    let at = if index < 0 { index + size as i64 } else { index };
    usize::try_from(at).ok()
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_usize()?;
        self.with(|items| items.get(at).cloned())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.with(|items| items.len()))
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, what.to_string());
        let nothing = Ok(Value::from(()));
        match method {
            "append" => {
                let (item,): (Value,) = from_args(args)?;
                self.with(|items| items.push(item));
                nothing
            }
            "extend" => {
                let (more,): (Value,) = from_args(args)?;
                let more: Vec<Value> = more.try_iter()?.collect();
                self.with(|items| items.extend(more));
                nothing
            }
            "insert" => {
                let (index, item): (i64, Value) = from_args(args)?;
                self.with(|items| {
                    let at = position(index, items.len()).unwrap_or(0).min(items.len());
                    items.insert(at, item);
                });
                nothing
            }
            "pop" => {
                let (index,): (Option<i64>,) = from_args(args)?;
                self.with(|items| {
                    let at = position(index.unwrap_or(-1), items.len()).filter(|at| *at < items.len());
                    at.map(|at| items.remove(at)).ok_or_else(|| wrong("pop index out of range"))
                })
            }
            "remove" => {
                let (item,): (Value,) = from_args(args)?;
                let at = self.with(|items| items.clone()).iter().position(|i| *i == item);
                match at {
                    Some(at) => {
                        self.with(|items| items.remove(at));
                        nothing
                    }
                    None => Err(wrong("list.remove(x): x not in list")),
                }
            }
            "clear" => {
                self.with(Vec::clear);
                nothing
            }
            "reverse" => {
                self.with(|items| items.reverse());
                nothing
            }
            "copy" => {
                let () = from_args(args)?;
                Ok(List::from_items(self.with(|items| items.clone())))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
