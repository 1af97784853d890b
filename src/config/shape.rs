//! The shape of the configuration, read from its JSON Schema: which keys a table has, what their values
//! may be. The first pass and the environment both follow it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::kinds::{self, TextKind};
use super::schema;

/// What a value may be.
pub(super) enum Shape {
    /// A table with known keys.
    Table(BTreeMap<String, Field>),
    /// A table whose kind, and so whose keys, is said by one of them.
    Tagged {
        /// The key that says the kind.
        tag: String,
        /// Keys of each kind, the tag among them.
        variants: BTreeMap<String, BTreeMap<String, Field>>,
    },
    /// A table with free keys, or keys of a form.
    Map {
        /// Form of the keys.
        key: Option<&'static TextKind>,
        /// What stands under them.
        value: Box<Shape>,
    },
    /// A list.
    List(Box<Shape>),
    /// A text, of a form or free.
    Text(Option<&'static TextKind>),
    /// A text of a form, or a whole number that is not negative.
    TextOrNumber(&'static TextKind),
    /// One of a few words.
    Choice(Vec<String>),
    /// A whole number within limits.
    Integer(i64, i64),
    /// `true` or `false`.
    Boolean,
    /// A text only the environment may give.
    EnvironmentOnly,
}

/// One key of a table.
pub(super) struct Field {
    /// What it may be.
    pub shape: Shape,
    /// Whether some layer must set it.
    pub required: bool,
    /// What it means, a sentence.
    pub description: String,
}

impl Shape {
    /// The shape of the whole configuration.
    pub fn root() -> &'static Shape {
        static ROOT: LazyLock<Shape> = LazyLock::new(|| Shape::read(&schema::raw()));
        &ROOT
    }

    /// The shape of the value at `path`, when there is one. `tag` tells the kind of a tagged table.
    pub fn at<'a>(
        &'a self,
        path: &[String],
        tag: &impl Fn(&[String]) -> Option<String>,
    ) -> Option<&'a Shape> {
        let mut shape = self;
        for (depth, part) in path.iter().enumerate() {
            shape = match shape {
                Shape::Map { value, .. } => value,
                Shape::Table(fields) => &fields.get(part)?.shape,
                Shape::Tagged { variants, .. } => {
                    let known =
                        tag(&path[..depth]).and_then(|kind| variants.get(&kind)).and_then(|f| f.get(part));
                    &known.or_else(|| variants.values().find_map(|fields| fields.get(part)))?.shape
                }
                _ => return None,
            };
        }
        Some(shape)
    }

    /// Reads a schema without references. What it does not know is a free text, which the strict second
    /// pass would still refuse; a test holds the shape of every key against the types.
    fn read(schema: &Value) -> Shape {
        if schema.get(schema::ENVIRONMENT_ONLY).is_some() {
            return Shape::EnvironmentOnly;
        }
        let kind = schema.get(schema::KIND).and_then(Value::as_str).and_then(kinds::kind);
        let branches = ["oneOf", "anyOf"]
            .iter()
            .find_map(|key| schema.get(*key)?.as_array())
            .map(|branches| branches.iter().filter(|branch| !is_null(branch)).collect::<Vec<_>>());
        if let Some(branches) = branches {
            let mut shape = Self::read_branches(&branches);
            // Keys that every kind has stand beside the branches.
            if let Shape::Tagged { variants, .. } = &mut shape {
                variants.values_mut().for_each(|fields| fields.extend(read_fields(schema)));
            }
            return shape;
        }
        // A choice of one word is written as a constant.
        if let Some(word) = schema.get("const").and_then(Value::as_str) {
            return Shape::Choice(vec![word.to_owned()]);
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return Shape::Choice(words.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        }
        match (types(schema).as_slice(), kind) {
            (["string", "integer"], Some(kind)) => Shape::TextOrNumber(kind),
            (["integer"], _) => Self::read_integer(schema),
            (["boolean"], _) => Shape::Boolean,
            (["array"], _) => {
                Shape::List(Box::new(schema.get("items").map_or(Shape::Text(None), Shape::read)))
            }
            (["object"], _) => Self::read_object(schema),
            _ => Shape::Text(kind),
        }
    }

    fn read_branches(branches: &[&Value]) -> Shape {
        if let [only] = branches {
            return Self::read(only);
        }
        let word = |branch: &Value| branch.get("const").and_then(Value::as_str).map(str::to_owned);
        if branches.iter().all(|branch| word(branch).is_some() || branch.get("enum").is_some()) {
            let mut words = Vec::new();
            for branch in branches {
                words.extend(word(branch));
                let listed = branch.get("enum").and_then(Value::as_array).into_iter().flatten();
                words.extend(listed.filter_map(Value::as_str).map(str::to_owned));
            }
            return Shape::Choice(words);
        }
        let mut tag = "type".to_owned();
        let mut variants = BTreeMap::new();
        for branch in branches {
            let Some(properties) = branch.get("properties").and_then(Value::as_object) else { continue };
            let Some((key, word)) =
                properties.iter().find_map(|(key, property)| Some((key, word(property)?)))
            else {
                continue;
            };
            tag = key.clone();
            variants.insert(word, read_fields(branch));
        }
        // The tag of each kind may be any of the kinds: a wrong one is told with all of them.
        let words: Vec<String> = variants.keys().cloned().collect();
        for fields in variants.values_mut() {
            if let Some(field) = fields.get_mut(&tag) {
                field.shape = Shape::Choice(words.clone());
            }
        }
        Shape::Tagged { tag, variants }
    }

    fn read_object(schema: &Value) -> Shape {
        if schema.get("properties").is_some() {
            return Shape::Table(read_fields(schema));
        }
        if let Some(patterns) = schema.get("patternProperties").and_then(Value::as_object)
            && let Some(value) = patterns.values().next()
        {
            // The only pattern in the schema is the one of names.
            return Shape::Map { key: kinds::kind("name"), value: Box::new(Shape::read(value)) };
        }
        let value = schema.get("additionalProperties").map_or(Shape::Text(None), Shape::read);
        Shape::Map { key: None, value: Box::new(value) }
    }

    fn read_integer(schema: &Value) -> Shape {
        let (low, high) = match schema.get("format").and_then(Value::as_str) {
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Some("uint16") => (0, i64::from(u16::MAX)),
            Some("uint32") => (0, i64::from(u32::MAX)),
            Some("uint" | "uint64") => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        };
        let limit = |key: &str| schema.get(key).and_then(Value::as_i64);
        Shape::Integer(limit("minimum").unwrap_or(low).max(low), limit("maximum").unwrap_or(high).min(high))
    }
}

fn read_fields(schema: &Value) -> BTreeMap<String, Field> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties
        .map(|(name, property)| {
            let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
            let field = Field {
                shape: Shape::read(property),
                required: required.contains(&name.as_str()),
                description: description.to_owned(),
            };
            (name.clone(), field)
        })
        .collect()
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The types a schema allows, `null` aside: TOML has none.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect()
        }
        _ => Vec::new(),
    }
}
