//! The files of alerts/ as tests read them.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::Value;

/// A path in this project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The content of a file of this project.
pub fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A YAML file of this project, as JSON: that is what indexing is easy with.
pub fn yaml(path: &str) -> Value {
    let text = read(path);
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    let [document] = documents.as_slice() else { panic!("{path} holds {} documents", documents.len()) };
    json(document)
}

fn json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(value)) => value.as_ref().into(),
        Yaml::Sequence(values) => values.iter().map(json).collect(),
        Yaml::Mapping(values) => {
            let key = |key: &Yaml<'_>| key.as_str().expect("keys are strings").to_owned();
            Value::Object(values.iter().map(|(k, v)| (key(k), json(v))).collect())
        }
        other => panic!("a kind of YAML that these files do not need: {other:?}"),
    }
}

/// What stands under a key, as text; empty where there is none.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every rule of backup-agent.rules.yml: `record` or `alert`, `expr`, `for`, `labels`, `annotations`.
pub fn rules() -> Vec<Value> {
    let document = yaml("alerts/backup-agent.rules.yml");
    let groups = document["groups"].as_array().expect("rules have groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("a group has rules")).cloned().collect()
}

/// The rules that are alerts, with their names.
pub fn alerts() -> Vec<(String, Value)> {
    let named = |rule: Value| Some((rule["alert"].as_str()?.to_owned(), rule));
    let alerts: Vec<_> = rules().into_iter().filter_map(named).collect();
    assert!(alerts.len() > 20, "only {} alerts were read", alerts.len());
    alerts
}

/// The files with promtool's tests of the rules, as paths in this project.
pub fn rule_tests() -> Vec<String> {
    let entries = fs::read_dir(project("alerts/tests")).expect("alerts/tests is there");
    let mut files: Vec<String> = entries
        .map(|entry| format!("alerts/tests/{}", entry.unwrap().file_name().into_string().unwrap()))
        .filter(|path| path.ends_with(".yml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "alerts/tests holds no .yml");
    files
}
