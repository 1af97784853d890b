//! The example, the schema and what is shown, held against the types.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::shape::{Field, Shape};
use super::*;

/// The example with its commented keys made live.
pub(super) fn whole_example() -> String {
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') && (rest.starts_with('[') || rest.contains(" = ")) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    let whole: String = example().lines().map(|line| live(line) + "\n").collect();
    if cfg!(feature = "azblob") {
        return whole;
    }
    // A program without it refuses this kind of target.
    let begin = whole.find("[target.azure]").unwrap();
    let length = whole[begin..].find("\n\n").unwrap();
    whole[..begin].to_owned() + &whole[begin + length..]
}

#[test]
fn the_example_loads_as_it_is_and_with_every_commented_key() {
    let loaded = Site::new(example()).good();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let whole = Site::new(&whole_example()).good();
    assert_eq!(whole.config.job.len(), 2);
    assert_eq!(whole.config.notify.len(), 9);
}

#[test]
fn the_example_shows_the_defaults_it_says_it_shows() {
    let whole = Site::new(&whole_example()).good().config;
    let (job, plain) = (&whole.job["web"], JobConfig::default());
    assert_eq!((job.grace, job.splay), (plain.grace, plain.splay));
    assert_eq!((job.copy_wait, job.copy_stall), (plain.copy_wait, plain.copy_stall));
    assert_eq!(job.engine.nice, plain.engine.nice);
    // What it shows of limits are the defaults, at both places.
    assert_eq!(
        whole.limits_of(job),
        Limits {
            max_warnings: Some(1000),
            max_verify_age: Some(Duration::from_secs(40 * 86_400)),
            ..Limits::default()
        }
    );
    let config = Config::default();
    assert_eq!((whole.listen, whole.max_parallel_jobs), (config.listen, config.max_parallel_jobs));
    assert_eq!(
        (whole.check_interval, whole.shutdown_timeout),
        (config.check_interval, config.shutdown_timeout)
    );
    let SourceConfig::Mysql(mysql) = &job.source["database"] else { panic!("not mysql") };
    assert_eq!(mysql.timeout, MysqlConfig::default().timeout);
}

/// True for tables whose keys are part of the shape, not free.
fn has_keys(shape: &Shape) -> bool {
    matches!(shape, Shape::Table(_) | Shape::Tagged { .. })
}

/// Every key of the shape, with `*` for names of jobs and the like.
fn keys_of(shape: &Shape, at: &str, keys: &mut BTreeSet<String>) {
    let mut fields = |at: &str, fields: &BTreeMap<String, Field>| {
        for (name, field) in fields {
            match &field.shape {
                Shape::EnvironmentOnly => {}
                below if has_keys(below) => keys_of(below, &format!("{at}{name}."), keys),
                Shape::Map { value, .. } if has_keys(value) => {
                    keys_of(value, &format!("{at}{name}.*."), keys)
                }
                _ => drop(keys.insert(format!("{at}{name}"))),
            }
        }
    };
    match shape {
        Shape::Table(table) => fields(at, table),
        Shape::Tagged { variants, .. } => {
            variants.iter().for_each(|(kind, table)| fields(&format!("{at}{kind}:"), table));
        }
        _ => {}
    }
}

/// The same for the keys a text sets.
fn keys_in(table: &toml::Table, shape: &Shape, at: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in table {
        let (below, key) = match shape {
            Shape::Table(fields) => (&fields[name].shape, format!("{at}{name}")),
            Shape::Tagged { variants, tag } => {
                let kind = table[tag].as_str().unwrap();
                (&variants[kind][name].shape, format!("{at}{kind}:{name}"))
            }
            _ => return,
        };
        match (value, below) {
            (toml::Value::Table(table), Shape::Map { value, .. }) if has_keys(value) => {
                for item in table.values() {
                    keys_in(item.as_table().unwrap(), value, &format!("{key}.*."), keys);
                }
            }
            (toml::Value::Table(table), below) if has_keys(below) => {
                keys_in(table, below, &format!("{key}."), keys)
            }
            _ => drop(keys.insert(key)),
        }
    }
}

#[test]
fn every_key_stands_in_the_example() {
    let (mut known, mut shown) = (BTreeSet::new(), BTreeSet::new());
    keys_of(Shape::root(), "", &mut known);
    keys_in(&whole_example().parse().unwrap(), Shape::root(), "", &mut shown);
    assert!(known.len() > 90, "the shape has lost its keys: {known:?}");
    // Limits are one type at two places, and each is shown where it is usually set.
    for limit in LIMITS {
        known.remove(&match limit.scope {
            LimitScope::Job => format!("health.{}", limit.key),
            LimitScope::Agent => format!("job.*.health.{}", limit.key),
        });
    }
    known.retain(|key| cfg!(feature = "azblob") || !key.starts_with("target.*.azblob:"));
    // Encryption is one type at two places, too.
    let encryption: Vec<String> =
        known.iter().filter_map(|key| key.strip_prefix("encryption.")).map(str::to_owned).collect();
    assert!(encryption.len() >= 4, "{encryption:?}");
    for key in encryption {
        let places = [format!("encryption.{key}"), format!("job.*.encryption.{key}")];
        if places.iter().any(|place| shown.contains(place)) {
            for place in places {
                known.remove(&place);
                shown.remove(&place);
            }
        }
    }
    // What every kind of target has is shown at one.
    let of_all =
        |key: &str| key != "type" && key != "path" && known.contains(&format!("target.*.directory:{key}"));
    let again: Vec<String> = ["azblob", "s3", "sftp", "webdav"]
        .iter()
        .flat_map(|kind| known.iter().filter(move |k| k.starts_with(&format!("target.*.{kind}:"))))
        .filter(|key| key.split_once(':').is_some_and(|(_, key)| of_all(key)))
        .cloned()
        .collect();
    for key in &again {
        known.remove(key);
    }
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn what_is_shown_can_be_loaded_and_means_the_same() {
    let whole = Site::new(&whole_example()).good();
    let shown = show(&whole.config);
    assert!(shown.contains("url = \"[redacted]\""), "{shown}");
    let again = Site::new(&shown.replace("[redacted]", "http://127.0.0.1:8000/ping/web")).good();
    assert_eq!(show(&again.config), shown);
}

#[test]
fn the_schema_describes_every_key_and_holds_nothing_of_this_host() {
    fn look(at: &str, value: &serde_json::Value) {
        for (name, property) in value.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
            assert!(name != "password", "{at}.{name} may stand in no file");
            let described = property.get("description").is_some() || property.get("const").is_some();
            assert!(described, "{at}.{name} has no description");
            look(&format!("{at}.{name}"), property);
        }
        for key in ["patternProperties", "oneOf"] {
            match value.get(key) {
                Some(serde_json::Value::Object(map)) => map.values().for_each(|value| look(at, value)),
                Some(serde_json::Value::Array(list)) => list.iter().for_each(|value| look(at, value)),
                _ => {}
            }
        }
    }
    let schema = schema::schema();
    let text = schema.to_string();
    assert!(!text.contains("x-kind") && !text.contains("null"), "{text}");
    assert_eq!(schema["properties"]["timezone"].get("default"), None);
    assert_eq!(schema["additionalProperties"], false);
    look("", &schema);
}
