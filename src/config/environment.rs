//! The environment as a layer: `BACKUP_AGENT__JOB__WEB__SCHEDULE="@daily"` is `job.web.schedule`.
//!
//! A variable is folded to lower case. `_` stands for `-` where only a name with `-` is known, since a
//! shell allows none in a variable: `BACKUP_AGENT__JOB__WEB__SOURCE__SYSTEM_STATE__…`. The value is read as
//! what the key needs: a text as it is, numbers and `true` without quotes, a list separated by commas or as
//! TOML, a table (`keep`) as TOML.

use std::collections::BTreeSet;

use super::positions::{Entry, Node, Origin, Value, parse_value};
use super::problem::{Location, Problem};
use super::shape::Shape;
use super::walk::Findings;

/// Variables of the configuration begin with this.
pub(super) const PREFIX: &str = "BACKUP_AGENT__";

/// The variable that sets the key at `path`.
pub(super) fn variable(path: &[String]) -> String {
    let parts: Vec<String> = path.iter().map(|part| part.to_uppercase().replace('-', "_")).collect();
    format!("{PREFIX}{}", parts.join("__"))
}

/// Makes one layer of the variables. `known` holds the paths the files set, `tag` tells the kind of a
/// tagged table. What cannot be read is told and left out.
pub(super) fn layer(
    variables: &[(String, String)],
    known: &BTreeSet<Vec<String>>,
    tag: &impl Fn(&[String]) -> Option<String>,
    findings: &mut Findings,
) -> Node {
    let mut root = table("the environment");
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| path(name, known).is_some()).collect();
    // A table given as a whole comes before its keys, and the order of the environment means nothing.
    ours.sort();
    let own_tag = |path: &[String]| {
        let set_here = ours.iter().find(|(name, _)| {
            let mut wanted = path.to_vec();
            wanted.push("type".to_owned());
            name.eq_ignore_ascii_case(&variable(&wanted))
        });
        set_here.map(|(_, value)| value.clone()).or_else(|| tag(path))
    };
    for (name, text) in &ours {
        let path = resolve(&name[PREFIX.len()..], known);
        match read(name, text, Shape::root().at(&path, &own_tag)) {
            Ok(node) => insert(&mut root, &path, node, name),
            Err(message) => {
                let location = Location::Environment((*name).clone());
                findings.broken.insert(path.clone());
                findings.problems.push(Problem { location, key: path, message });
            }
        }
    }
    root
}

fn table(variable: &str) -> Node {
    Node { origin: Origin::Environment(variable.to_owned()), value: Value::Table(Vec::new()) }
}

/// The key a variable sets, when it is one of ours.
pub(super) fn path(name: &str, known: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    let ours = name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    ours.then(|| resolve(&name[PREFIX.len()..], known))
}

/// The key a variable means: names with `-` are found by what the files know.
fn resolve(tail: &str, known: &BTreeSet<Vec<String>>) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    for part in tail.to_lowercase().split("__") {
        path.push(part.to_owned());
        if known.contains(&path) {
            continue;
        }
        let depth = path.len();
        let with_dash = known.iter().find(|candidate| {
            candidate.len() == depth
                && candidate[..depth - 1] == path[..depth - 1]
                && candidate[depth - 1].replace('-', "_") == part
        });
        if let Some(candidate) = with_dash {
            path = candidate.clone();
        }
    }
    path
}

/// Reads a value as what the shape needs. Values of an unknown key stay texts: the walk tells the key.
fn read(name: &str, text: &str, shape: Option<&Shape>) -> Result<Node, String> {
    let node = |value| Node { origin: Origin::Environment(name.to_owned()), value };
    let toml =
        |what: &str| parse_value(name, text).map_err(|why| format!("this is no {what} in TOML: {why}"));
    Ok(match shape {
        Some(Shape::Boolean) => match text {
            "true" => node(Value::Boolean(true)),
            "false" => node(Value::Boolean(false)),
            _ => node(Value::Text(text.to_owned())),
        },
        Some(Shape::Integer(..) | Shape::TextOrNumber(_)) => match text.parse::<i64>() {
            Ok(number) => node(Value::Integer(Some(number))),
            Err(_) => node(Value::Text(text.to_owned())),
        },
        Some(Shape::List(_)) if text.trim_start().starts_with('[') => toml("list")?,
        Some(Shape::List(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            node(Value::List(items.map(|item| node(Value::Text(item.to_owned()))).collect()))
        }
        Some(Shape::Table(_) | Shape::Tagged { .. } | Shape::Map { .. }) => toml("table")?,
        _ => node(Value::Text(text.to_owned())),
    })
}

fn insert(root: &mut Node, path: &[String], node: Node, variable: &str) {
    let Some((last, above)) = path.split_last() else { return };
    let mut at = root;
    for part in above {
        if !matches!(at.value, Value::Table(_)) {
            // `…__X` and `…__X__Y` both set: the longer one wins over what cannot hold it.
            at.value = Value::Table(Vec::new());
        }
        let Value::Table(entries) = &mut at.value else { return };
        let index = entries.iter().position(|entry| entry.name == *part).unwrap_or_else(|| {
            let origin = Origin::Environment(variable.to_owned());
            entries.push(Entry { name: part.clone(), origin, node: table(variable) });
            entries.len() - 1
        });
        at = &mut entries[index].node;
    }
    if !matches!(at.value, Value::Table(_)) {
        at.value = Value::Table(Vec::new());
    }
    let Value::Table(entries) = &mut at.value else { return };
    entries.retain(|entry| entry.name != *last);
    entries.push(Entry { name: last.clone(), origin: Origin::Environment(variable.to_owned()), node });
}

/// All paths a layer sets.
pub(super) fn paths(layer: &Node, path: &mut Vec<String>, known: &mut BTreeSet<Vec<String>>) {
    let Value::Table(entries) = &layer.value else { return };
    for entry in entries {
        path.push(entry.name.clone());
        known.insert(path.clone());
        paths(&entry.node, path, known);
        path.pop();
    }
}
