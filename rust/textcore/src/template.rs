// SPDX-License-Identifier: Apache-2.0
//! Chat templates: minijinja set up the way published templates expect Jinja2 to be.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::boundary::{free, guard, Bytes, Code, Failure, Outcome, View};
use crate::dialect;
use crate::python;

/// Longest template source. Published ones are below 32 KiB.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Instructions of one rendering, below a second; a conversation of a thousand messages takes some 100 000.
const MAX_STEPS: u64 = 10_000_000;
/// Longest rendering: far more tokens than any model reads.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Depth of macros calling macros.
const MAX_RECURSION: usize = 200;
const NAME: &str = "chat template";

pub struct Template {
    env: Environment<'static>,
}

/// Mirrors textcore_template_input.
#[repr(C)]
pub struct TemplateInput {
    messages_json: View,
    tools_json: View,
    extra_json: View,
    bos_token: View,
    eos_token: View,
    now_unix_s: i64,
    add_generation_prompt: bool,
}

impl Template {
    fn compile(source: &str) -> Outcome<Template> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Failure::new(
                Code::ResourceExhausted,
                format!("{NAME} of {} bytes is above {MAX_SOURCE_BYTES}", source.len()),
            ));
        }
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(python::method);
        env.set_formatter(|out, _, value| Ok(out.write_str(&python::to_str(value))?));
        env.set_fuel(Some(MAX_STEPS));
        env.set_recursion_limit(MAX_RECURSION);
        env.add_filter("tojson", tojson);
        env.add_filter("string", |value: &Value| python::to_str(value));
        env.add_filter("title", |value: &Value| python::title(&python::to_str(value)));
        env.add_function("raise_exception", raise_exception);
        env.add_function(dialect::LIST_FUNCTION, dialect::List::from_items);
        // Strings and mappings are sequences and iterables to Jinja2.
        env.add_test("iterable", |value: &Value| {
            matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
        });
        env.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
        });
        env.add_template_owned(NAME, dialect::adapt(source)).map_err(failure)?;
        Ok(Template { env })
    }

    fn render(&self, context: Value) -> Outcome<String> {
        let mut out = Bounded { bytes: Vec::new() };
        let template = self.env.get_template(NAME).map_err(failure)?;
        template.render_captured_to(context, &mut out).map_err(failure)?;
        String::from_utf8(out.bytes).map_err(|e| Failure::new(Code::Internal, e))
    }
}

/// A sink that refuses what is beyond MAX_OUTPUT_BYTES.
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("output above {MAX_OUTPUT_BYTES} bytes")));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, python::to_str(message)))
}

/// The tojson that templates are written for: json.dumps(value, ensure_ascii=False, indent, separators, sort_keys).
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => None,
        Some(v) if v.as_str().is_some() => v.as_str().map(str::to_string),
        Some(v) => Some(" ".repeat(v.as_usize().unwrap_or(0).min(64))),
    };
    let mut dumps = python::Dumps {
        item_separator: if indent.is_some() { "," } else { ", " }.to_string(),
        key_separator: ": ".to_string(),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
    };
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = separators
            .try_into()
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"))?;
        dumps.item_separator = item;
        dumps.key_separator = key;
    }
    // Non-ASCII is always kept: no published template asks otherwise.
    let _ = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    dumps.dump(value)
}

/// The error a person can act on: where in the template, and what. raise_exception's message comes unadorned.
fn failure(error: Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    };
    let mut message = match error.line() {
        Some(line) => format!("{NAME} line {line}: "),
        None => format!("{NAME}: "),
    };
    match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => message += detail,
        (kind, Some(detail)) => message += &format!("{kind}: {detail}"),
        (kind, None) => message += &kind.to_string(),
    }
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message += &format!(" ({cause})");
        source = cause.source();
    }
    Failure::new(code, message)
}

fn parse(what: &str, text: &str) -> Outcome<Json> {
    serde_json::from_str(text).map_err(|e| Failure::new(Code::InvalidArgument, format!("{what}: {e}")))
}

unsafe fn context(input: &TemplateInput) -> Outcome<Value> {
    let mut variables = match input.extra_json.text("extra variables")? {
        "" => Map::new(),
        text => match parse("extra variables", text)? {
            Json::Object(object) => object,
            _ => return Err(Failure::new(Code::InvalidArgument, "extra variables have to be a JSON object")),
        },
    };
    for (name, view) in [("bos_token", input.bos_token), ("eos_token", input.eos_token)] {
        if !variables.contains_key(name) {
            variables.insert(name.into(), Json::String(view.text(name)?.into()));
        }
    }
    let messages = parse("messages", input.messages_json.text("messages")?)?;
    let tools = match input.tools_json.text("tools")? {
        "" => Json::Null,
        text => parse("tools", text)?,
    };
    let now = input.now_unix_s;
    let own = minijinja::context! {
        messages => Value::from_serialize(messages),
        tools => Value::from_serialize(tools),
        documents => Value::from(()),
        add_generation_prompt => input.add_generation_prompt,
        strftime_now => Value::from_function(move |format: String| python::strftime(&format, now)),
    };
    // The first map wins: a request's variables cannot replace the conversation.
    Ok(minijinja::value::merge_maps([Value::from_serialize(variables), own]))
}

#[no_mangle]
pub unsafe extern "C" fn textcore_template_compile(
    source: View,
    out: *mut *mut Template,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let template = Template::compile(source.text("the chat template")?)?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_template_render(
    template: *const Template,
    input: *const TemplateInput,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let text = (*template).render(context(&*input)?)?;
        out.write(Bytes::new(text));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn textcore_template_free(template: *mut Template) {
    free(template);
}
