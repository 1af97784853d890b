//! One event taken apart: its message, its fields, and which job and run it is about.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// Longer texts are cut: a journal would break such a line in pieces, and nobody reads it.
pub(super) const LONGEST: usize = 4 << 10;

/// What an event says.
#[derive(Debug, Default)]
pub(super) struct Record {
    message: String,
    /// The fields but job and run, in their order.
    fields: Map<String, Value>,
    /// The job it is about.
    pub(super) job: Option<String>,
    /// The run it is about.
    pub(super) run: Option<String>,
}

impl Record {
    /// Takes an event apart.
    pub(super) fn of(event: &tracing::Event<'_>) -> Self {
        let mut record = Self::default();
        event.record(&mut record);
        record
    }

    /// A message without fields.
    pub(super) fn text_only(text: &str) -> Self {
        Self { message: text.to_owned(), ..Self::default() }
    }

    /// The message, then `key=value` for each field; one line.
    pub(super) fn line(&self) -> String {
        let mut text = clean(&self.message);
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _ = match value {
                Value::String(value) if is_word(value) => write!(text, " {name}={value}"),
                Value::String(value) => write!(text, " {name}={}", clean(&format!("{value:?}"))),
                value => write!(text, " {name}={value}"),
            };
        }
        text
    }

    /// The message and the fields of a JSON object; a field cannot replace what stands in `object` already.
    pub(super) fn put_into(self, object: &mut Map<String, Value>) {
        object.insert("message".to_owned(), cut(self.message).into());
        for (name, value) in self.fields {
            let value = match value {
                Value::String(text) => cut(text).into(),
                value => value,
            };
            object.entry(name).or_insert(value);
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            value => value.to_string(),
        };
        match field.name() {
            "message" => self.message.push_str(&text(value)),
            "job" => self.job = Some(text(value)),
            "run" => self.run = Some(text(value)),
            name => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            // Writing to a String cannot fail.
            let _ = write!(chain, ": {error}");
            source = error.source();
        }
        self.put(field, chain.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// True for what needs no quotes to be told from what stands beside it.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !is_hostile(c) && !"\"='\\".contains(c))
}

/// True for what could repaint a terminal, begin a new line, or turn the direction of writing, so that a file
/// name could pass for something else.
fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A text as one harmless line: hostile characters are written as escapes, and what is too long is cut.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LONGEST + 8));
    for c in text.trim_end_matches(['\r', '\n']).chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        if is_hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A text of a JSON value, whose own escapes make it harmless.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
