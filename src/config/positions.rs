//! Configuration text with the place of every key and value.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Location, Problem};

/// Where a key or value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Bytes of one of the files in [`Sources`].
    File(usize, Range<usize>),
    /// An environment variable.
    Environment(String),
}

/// A key, a value, and where they stand.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub origin: Origin,
    pub node: Node,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub origin: Origin,
    pub value: Value,
}

/// A TOML value. Kept apart from `toml::Value` because it holds positions all the way down.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// A whole number; absent when it does not fit 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

impl Value {
    /// What it is called in messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date or time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The same value without positions, as TOML.
    pub fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Text(text) | Value::Datetime(text) => text.clone().into(),
            Value::Integer(number) => number.unwrap_or_default().into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(value) => (*value).into(),
            Value::List(items) => toml::Value::Array(items.iter().map(Node::to_toml).collect()),
            Value::Table(entries) => {
                toml::Value::Table(entries.iter().map(|e| (e.name.clone(), e.node.to_toml())).collect())
            }
        }
    }
}

/// The files read, to turn byte offsets into lines.
#[derive(Debug, Default)]
pub(super) struct Sources {
    files: Vec<(PathBuf, String)>,
}

impl Sources {
    /// Parses a file's text. A text with syntax errors gives all of them and no tree: what such a tree
    /// holds is a guess, and problems found in it would lead astray.
    pub fn parse(&mut self, file: PathBuf, text: String) -> Result<Node, Vec<Problem>> {
        let index = self.files.len();
        self.files.push((file, text));
        let (table, errors) = DeTable::parse_recoverable(&self.files[index].1);
        if errors.is_empty() {
            let span = table.span();
            return Ok(table_node(index, span, table.into_inner()));
        }
        let mut problems: Vec<Problem> = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let location = self.locate(&Origin::File(index, span));
            let message = format!("syntax error: {}", error.message().trim_end().replace('\n', ", "));
            // A parser that recovers can stumble over the same line several times.
            let same_line = |other: &Problem| line_of(&other.location) == line_of(&location);
            if !problems.iter().any(same_line) {
                problems.push(Problem { location, key: Vec::new(), message });
            }
        }
        Err(problems)
    }

    /// The place in a form that can be shown. Secrets on the line are masked.
    pub fn locate(&self, origin: &Origin) -> Location {
        let (index, span) = match origin {
            Origin::File(index, span) => (*index, span),
            Origin::Environment(name) => return Location::Environment(name.clone()),
        };
        let Some((file, text)) = self.files.get(index) else { return Location::Nowhere };
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        let end = floor_boundary(text, span.end).clamp(start, line_end);
        let before = text[..line_start].lines().next_back().unwrap_or_default();
        let line_text = match secret_goes_on(before) {
            true => "…".to_owned(),
            false => mask(before, text[line_start..line_end].trim_end()),
        };
        let column = text[line_start..start].chars().count() + 1;
        let width = text[start..end].chars().count();
        let visible = (line_text.chars().count() + 1).saturating_sub(column);
        Location::File {
            file: file.clone(),
            line: text[..start].matches('\n').count() + 1,
            column,
            width: width.min(visible).max(1),
            text: line_text,
        }
    }
}

fn line_of(location: &Location) -> Option<usize> {
    match location {
        Location::File { line, .. } => Some(*line),
        _ => None,
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A line as it may be shown: what follows a key that sounds like a secret, and the login in an address,
/// become `…`. Errors end up in logs and mails. `before` is the line above it: a slip of the finger may have broken
/// the key in two.
pub(super) fn mask(before: &str, line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let begun = if before.contains('=') { "" } else { before.trim() };
    let broken = || secret_value(&format!("{begun}{line}"))?.checked_sub(begun.len());
    let mut cut = secret_value(line).or_else(broken).unwrap_or(line.len());
    // A private key where a public one belongs.
    for word in ["age-secret-key-", "age-plugin-", "-----begin"] {
        if let Some(at) = lower.find(word).filter(|at| line.is_char_boundary(*at)) {
            cut = cut.min(at);
        }
    }
    let mut shown = mask_login(&line[..cut]);
    if cut < line.len() {
        shown.push_str(" …");
    }
    shown
}

/// Where the value of the first key in a line that sounds like a secret begins.
fn secret_value(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let is_secret = |equals: usize| {
        let key = lower[..equals].trim_end();
        // Quotes around it, and whatever else a slip of the finger put into it or behind it.
        let plain = |word: &str| -> String {
            word.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect()
        };
        let mut words = key.rsplit(|c: char| c.is_whitespace() || c == ',').map(plain);
        sounds_secret(&words.find(|word| !word.is_empty()).unwrap_or_default())
    };
    line.match_indices('=')
        .map(|(equals, _)| equals)
        .find(|equals| is_secret(*equals))
        .map(|equals| equals + 1)
}

/// True when the value of a secret was begun in this line and has its content in the next one.
fn secret_goes_on(line: &str) -> bool {
    secret_value(line).is_some_and(|at| !line[at..].contains(char::is_alphanumeric))
}

/// True for a key or variable whose value is probably a secret; a path to one (`…_file`, `passfile`) is none.
pub(super) fn sounds_secret(name: &str) -> bool {
    const WORDS: [&str; 12] = [
        "pas", "pwd", "secret", "token", "cred", "api_key", "apikey", "api-key", "dsn", "authoriz", "cookie",
        "x-auth",
    ];
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file")
        && !name.ends_with("passfile")
        && (name == "url" || WORDS.iter().any(|word| name.contains(word)))
}

/// Replaces the login in `scheme://login@host` by `…`.
pub(super) fn mask_login(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | '#'))
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(login) => {
                shown.push('…');
                &after[login..]
            }
            None => after,
        };
    }
    shown + rest
}

fn table_node(file: usize, span: Range<usize>, table: DeTable<'_>) -> Node {
    let mut entries = Vec::new();
    for (key, value) in table {
        let origin = Origin::File(file, key.span());
        entries.push(Entry { name: key.into_inner().into_owned(), origin, node: value_node(file, value) });
    }
    Node { origin: Origin::File(file, span), value: Value::Table(entries) }
}

fn value_node(file: usize, value: Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => return table_node(file, span, table),
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| value_node(file, item)).collect()),
    };
    Node { origin: Origin::File(file, span), value }
}

/// Parses a value from the environment: TOML, all of it from one variable.
pub(super) fn parse_value(variable: &str, text: &str) -> Result<Node, String> {
    let value = DeValue::parse(text).map_err(|e| e.message().trim_end().replace('\n', ", "))?;
    let mut node = value_node(0, value);
    from_variable(&mut node, variable);
    Ok(node)
}

fn from_variable(node: &mut Node, variable: &str) {
    node.origin = Origin::Environment(variable.to_owned());
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| from_variable(item, variable)),
        Value::Table(entries) => {
            for entry in entries {
                entry.origin = Origin::Environment(variable.to_owned());
                from_variable(&mut entry.node, variable);
            }
        }
        _ => {}
    }
}

/// Which layer set each key last. The items of a list stand under their indices.
#[derive(Debug, Default)]
pub(super) struct Origins {
    keys: BTreeMap<Vec<String>, Origin>,
}

impl Origins {
    /// Records the keys of a layer, over those of the layers before it.
    pub fn record(&mut self, layer: &Node) {
        self.record_below(&mut Vec::new(), layer);
    }

    fn record_below(&mut self, path: &mut Vec<String>, node: &Node) {
        match &node.value {
            Value::Table(entries) => {
                for entry in entries {
                    path.push(entry.name.clone());
                    // Of a table the key is shown, which stands in its header; of a value the value.
                    let table = matches!(entry.node.value, Value::Table(_));
                    let origin = if table { &entry.origin } else { &entry.node.origin };
                    // What is wrong with a whole section is looked for in the file that has it, not in a variable
                    // that sets one key of it.
                    if !(table && matches!(origin, Origin::Environment(_)) && self.keys.contains_key(path)) {
                        self.keys.insert(path.clone(), origin.clone());
                    }
                    self.record_below(path, &entry.node);
                    path.pop();
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.keys.insert(path.clone(), item.origin.clone());
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// Where the value at `path` was set last; when nobody set it, where the nearest table above was.
    pub fn find(&self, path: &[String]) -> Option<&Origin> {
        (1..=path.len()).rev().find_map(|depth| self.keys.get(&path[..depth]))
    }
}
