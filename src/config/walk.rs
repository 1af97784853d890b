//! The first pass: holds one layer against the shape and collects everything that is wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::kinds::{TextKind, nearest};
use super::positions::{Entry, Node, Origin, Sources, Value};
use super::problem::Problem;
use super::shape::{Field, Shape};

/// What the first pass found over all layers.
#[derive(Default)]
pub(super) struct Findings {
    /// The problems, placed.
    pub problems: Vec<Problem>,
    /// Keys whose values are unknown because they were wrong; rules about them are not checked.
    pub broken: BTreeSet<Vec<String>>,
    /// Keys somebody misspelt: that they are missing is not told as well.
    pub misspelt: BTreeSet<Vec<String>>,
}

impl Findings {
    /// True when something at, above or below `path` was wrong, so that a rule about it says nothing.
    pub fn touches(&self, path: &[String]) -> bool {
        self.broken.iter().any(|broken| broken.starts_with(path) || path.starts_with(broken))
    }
}

/// The kind each tagged table has once all layers are merged: a later layer may change a key of a table
/// without repeating its `type`.
pub(super) fn collect_tags(layers: &[Node]) -> BTreeMap<Vec<String>, String> {
    let mut tags = BTreeMap::new();
    for layer in layers {
        collect_tags_below(layer, Shape::root(), &mut Vec::new(), &mut tags);
    }
    tags
}

fn collect_tags_below(
    node: &Node,
    shape: &Shape,
    path: &mut Vec<String>,
    tags: &mut BTreeMap<Vec<String>, String>,
) {
    let Value::Table(entries) = &node.value else { return };
    if let Shape::Tagged { tag, .. } = shape {
        if let Some(Entry { node: Node { value: Value::Text(kind), .. }, .. }) =
            entries.iter().find(|e| e.name == *tag)
        {
            tags.insert(path.clone(), kind.clone());
        }
        return;
    }
    for entry in entries {
        let below = match shape {
            Shape::Table(fields) => fields.get(&entry.name).map(|field| &field.shape),
            Shape::Map { value, .. } => Some(&**value),
            _ => None,
        };
        if let Some(below) = below {
            path.push(entry.name.clone());
            collect_tags_below(&entry.node, below, path, tags);
            path.pop();
        }
    }
}

/// Checks one layer. What is wrong is told and taken out, so that the rest can still be looked at.
pub(super) struct Walk<'a> {
    pub sources: &'a Sources,
    pub tags: &'a BTreeMap<Vec<String>, String>,
    pub findings: &'a mut Findings,
    pub path: Vec<String>,
}

impl Walk<'_> {
    /// Checks a layer from its root.
    pub fn layer(&mut self, layer: &mut Node) {
        self.value(Shape::root(), layer);
    }

    /// True when the value can stay.
    fn value(&mut self, shape: &Shape, node: &mut Node) -> bool {
        let origin = node.origin.clone();
        match (shape, &mut node.value) {
            (Shape::Table(fields), Value::Table(entries)) => self.fields(fields, entries),
            (Shape::Tagged { tag, variants }, Value::Table(entries)) => self.tagged(tag, variants, entries),
            (Shape::Map { key, value }, Value::Table(entries)) => self.map(*key, value, entries),
            (Shape::List(item), Value::List(items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    self.path.push(index.to_string());
                    self.value(item, value);
                    self.path.pop();
                }
                // A list with a wrong item would be a different list, not a shorter one.
                return !self.findings.broken.iter().any(|broken| broken.starts_with(&self.path));
            }
            (Shape::Text(None), Value::Text(_)) | (Shape::Boolean, Value::Boolean(_)) => {}
            (Shape::Text(Some(kind)) | Shape::TextOrNumber(kind), Value::Text(text)) => {
                return self.text(kind, text, &origin);
            }
            (Shape::TextOrNumber(_), Value::Integer(Some(number))) if *number >= 0 => {}
            (Shape::Choice(words), Value::Text(text)) => return self.choice(words, text, &origin),
            (Shape::Integer(low, high), Value::Integer(number)) => {
                if !number.is_some_and(|number| (*low..=*high).contains(&number)) {
                    let found = number.map_or("a larger number".to_owned(), |number| number.to_string());
                    return self.wrong(&origin, format!("expected {}, found {found}", range(*low, *high)));
                }
            }
            (Shape::EnvironmentOnly, Value::Text(_)) if matches!(origin, Origin::Environment(_)) => {}
            (Shape::EnvironmentOnly, _) => {
                let variable = super::environment::variable(&self.path);
                let name = self.path.last().map_or("", String::as_str);
                return self.wrong(
                    &origin,
                    format!("a secret does not belong in a file others copy; use `{name}_file`, or the environment variable {variable}"),
                );
            }
            (shape, value) => {
                let found = value.describe();
                return self.wrong(&origin, format!("expected {}, found {found}", expected(shape)));
            }
        }
        true
    }

    fn text(&mut self, kind: &TextKind, text: &str, origin: &Origin) -> bool {
        match (kind.check)(text) {
            Ok(()) => true,
            Err(why) => {
                let (what, example) = (kind.what, kind.example);
                // An address may hold a secret, and then its place says enough.
                let found = if matches!(kind.name, "http" | "smtp") {
                    String::new()
                } else {
                    format!(", found {text:?}")
                };
                self.wrong(origin, format!("expected {what} such as \"{example}\"{found}: {why}"))
            }
        }
    }

    fn choice(&mut self, words: &[String], text: &str, origin: &Origin) -> bool {
        if words.iter().any(|word| word == text) {
            return true;
        }
        let meant = nearest(text, words.iter().map(String::as_str));
        let meant = meant.map_or(String::new(), |word| format!("; did you mean \"{word}\"?"));
        self.wrong(origin, format!("expected {}, found {text:?}{meant}", alternatives(words)))
    }

    fn fields(&mut self, fields: &BTreeMap<String, Field>, entries: &mut Vec<Entry>) {
        entries.retain_mut(|entry| match fields.get(&entry.name) {
            Some(field) => {
                self.path.push(entry.name.clone());
                let keep = self.value(&field.shape, &mut entry.node);
                self.path.pop();
                keep
            }
            None => {
                self.unknown(fields, entry);
                false
            }
        });
    }

    fn tagged(
        &mut self,
        tag: &str,
        variants: &BTreeMap<String, BTreeMap<String, Field>>,
        entries: &mut Vec<Entry>,
    ) {
        match self.tags.get(&self.path).and_then(|kind| variants.get(kind)) {
            Some(fields) => self.fields(fields, entries),
            None => {
                // Without a kind nothing can be said about the keys, but for the kind itself.
                let words: Vec<String> = variants.keys().cloned().collect();
                if let Some(entry) = entries.iter_mut().find(|entry| entry.name == tag) {
                    self.path.push(tag.to_owned());
                    self.value(&Shape::Choice(words), &mut entry.node);
                    self.path.pop();
                }
                let path = self.path.clone();
                self.findings.broken.extend(entries.iter().filter(|e| e.name != tag).map(|entry| {
                    let mut below = path.clone();
                    below.push(entry.name.clone());
                    below
                }));
                entries.retain(|entry| {
                    entry.name == tag && self.tags.get(&path).is_some_and(|k| variants.contains_key(k))
                });
            }
        }
    }

    fn map(&mut self, key: Option<&TextKind>, shape: &Shape, entries: &mut Vec<Entry>) {
        entries.retain_mut(|entry| {
            self.path.push(entry.name.clone());
            let name = entry.name.clone();
            let good = key.is_none_or(|kind| self.text(kind, &name, &entry.origin));
            let keep = self.value(shape, &mut entry.node) && good;
            self.path.pop();
            keep
        });
    }

    fn unknown(&mut self, fields: &BTreeMap<String, Field>, entry: &Entry) {
        let place = match self.path.as_slice() {
            [] => "at the top level".to_owned(),
            path => format!("in [{}]", path.join(".")),
        };
        let secret =
            |key: &str| fields.get(key).is_some_and(|field| matches!(field.shape, Shape::EnvironmentOnly));
        let meant = nearest(&entry.name, fields.keys().map(String::as_str));
        let hint = match meant {
            Some(key) if secret(key) => format!("did you mean `{key}_file`?"),
            Some(key) => format!("did you mean `{key}`?"),
            None => {
                let known: Vec<&str> = fields.keys().map(String::as_str).filter(|key| !secret(key)).collect();
                format!("known here: {}", known.join(", "))
            }
        };
        self.path.push(entry.name.clone());
        self.wrong(&entry.origin, format!("unknown key `{}` {place}; {hint}", entry.name));
        self.path.pop();
        if let Some(key) = meant {
            let mut path = self.path.clone();
            path.push(key.to_owned());
            self.findings.misspelt.insert(path);
        }
    }

    fn wrong(&mut self, origin: &Origin, message: String) -> bool {
        let location = self.sources.locate(origin);
        self.findings.problems.push(Problem { location, key: self.path.clone(), message });
        self.findings.broken.insert(self.path.clone());
        false
    }
}

/// Finds required keys nobody set in the merged layers and tells them. So that the rules can still be
/// checked for all the rest, they get a stand-in; a source or channel without a kind is taken out.
pub(super) fn require(
    merged: &mut toml::Table,
    locate: &impl Fn(&[String]) -> super::problem::Location,
    findings: &mut Findings,
) {
    require_fields(Shape::root(), merged, &mut Vec::new(), locate, findings);
}

/// True when the table can be read.
fn require_fields(
    shape: &Shape,
    table: &mut toml::Table,
    path: &mut Vec<String>,
    locate: &impl Fn(&[String]) -> super::problem::Location,
    findings: &mut Findings,
) -> bool {
    let fields = match shape {
        Shape::Map { value, .. } => {
            let broken: Vec<String> = table
                .iter_mut()
                .filter_map(|(name, item)| {
                    path.push(name.clone());
                    let fine = item
                        .as_table_mut()
                        .is_none_or(|item| require_fields(value, item, path, locate, findings));
                    if !fine {
                        findings.broken.insert(path.clone());
                    }
                    path.pop();
                    (!fine).then(|| name.clone())
                })
                .collect();
            for name in broken {
                table.remove(&name);
            }
            return true;
        }
        Shape::Table(fields) => fields,
        Shape::Tagged { tag, variants } => {
            match table.get(tag).and_then(toml::Value::as_str).and_then(|kind| variants.get(kind)) {
                Some(fields) => fields,
                None => {
                    let words: Vec<String> = variants.keys().cloned().collect();
                    let mut key = path.clone();
                    key.push(tag.clone());
                    if !findings.broken.contains(&key) && !findings.misspelt.contains(&key) {
                        let message = format!(
                            "`{tag}` is missing in [{}]; expected {}",
                            path.join("."),
                            alternatives(&words)
                        );
                        findings.problems.push(Problem { location: locate(path), key, message });
                    }
                    return false;
                }
            }
        }
        _ => return true,
    };
    let mut fine = true;
    for (name, field) in fields {
        path.push(name.clone());
        match table.get_mut(name) {
            Some(toml::Value::Table(below)) => {
                fine &= require_fields(&field.shape, below, path, locate, findings);
            }
            None if field.required => {
                let told = findings.touches(path) || findings.misspelt.contains(path);
                findings.broken.insert(path.clone());
                table.insert(name.clone(), stand_in(&field.shape, path));
                if !told {
                    let (parent, meaning) =
                        (path[..path.len() - 1].join("."), field.description.trim_end_matches('.'));
                    let example = example(&field.shape)
                        .map_or(String::new(), |value| format!("; for example `{name} = {value}`"));
                    let message = format!("`{name}` is missing in [{parent}] ({meaning}){example}");
                    let location = locate(&path[..path.len() - 1]);
                    findings.problems.push(Problem { location, key: path.clone(), message });
                }
            }
            _ => {}
        }
        path.pop();
    }
    fine
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Table(_) | Shape::Tagged { .. } | Shape::Map { .. } => "a table".to_owned(),
        Shape::List(item) => match &**item {
            Shape::Text(Some(kind)) => format!("a list such as [\"{}\"]", kind.example),
            Shape::Choice(words) => format!("a list of {}", alternatives(words)),
            _ => "a list of texts".to_owned(),
        },
        Shape::Text(None) | Shape::EnvironmentOnly => "a text in quotes".to_owned(),
        Shape::Text(Some(kind)) => format!("{} in quotes, such as \"{}\"", kind.what, kind.example),
        Shape::TextOrNumber(kind) => {
            format!("{} such as \"{}\", or a number of bytes", kind.what, kind.example)
        }
        Shape::Choice(words) => alternatives(words),
        Shape::Integer(low, high) => format!("{}, without quotes", range(*low, *high)),
        Shape::Boolean => "true or false, without quotes".to_owned(),
    }
}

/// A value that can be read and breaks no rule by meeting another one.
fn stand_in(shape: &Shape, path: &[String]) -> toml::Value {
    match shape {
        Shape::List(_) => toml::Value::Array(Vec::new()),
        Shape::Text(Some(kind)) if kind.name == "path" => format!("/stand-in/{}", path.join("/")).into(),
        Shape::Text(Some(kind)) | Shape::TextOrNumber(kind) => kind.example.into(),
        Shape::Choice(words) => words.first().map_or("", String::as_str).into(),
        Shape::Integer(low, _) => (*low).into(),
        Shape::Boolean => false.into(),
        Shape::Text(None) | Shape::EnvironmentOnly => "stand-in".into(),
        Shape::Table(_) | Shape::Tagged { .. } | Shape::Map { .. } => toml::Value::Table(toml::Table::new()),
    }
}

/// A value of the shape, as it is written.
fn example(shape: &Shape) -> Option<String> {
    match shape {
        Shape::Text(Some(kind)) => Some(format!("\"{}\"", kind.example)),
        Shape::Choice(words) => words.first().map(|word| format!("\"{word}\"")),
        Shape::List(item) => example(item).map(|item| format!("[{item}]")),
        _ => None,
    }
}

fn range(low: i64, high: i64) -> String {
    match (low, high) {
        (low, i64::MAX) if low > i64::MIN => format!("a whole number from {low}"),
        (low, high) if i64::from(i32::MAX) <= high && low <= i64::from(i32::MIN) => {
            "a whole number".to_owned()
        }
        (low, high) if high >= i64::from(u32::MAX) => format!("a whole number from {low}"),
        (low, high) => format!("a whole number from {low} to {high}"),
    }
}

fn alternatives(words: &[String]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => format!("\"{only}\""),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|word| format!("\"{word}\"")).collect();
            format!("{} or \"{last}\"", first.join(", "))
        }
    }
}
