//! Rules and dashboards: read by Prometheus' own tool, and naming only metrics that the agent exports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(feature = "real-peers")]
use std::process::Command;

use backup_agent::metrics::table::TABLE;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(project(folder)).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    assert!(!found.is_empty(), "{folder} holds no .{extension}");
    found
}

/// Names in a text that begin with `backup_`: metrics, and the label of a job. Names of recording rules have
/// a colon in them and begin with `backup:`.
fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c: char| !is_part(c)).filter(|name| name.starts_with("backup_")).collect()
}

#[test]
fn every_metric_named_in_rules_and_dashboards_is_exported() {
    let exported: BTreeSet<&str> = TABLE.iter().map(|metric| metric.name).collect();
    let rules = project("alerts/backup-agent.rules.yml");
    for path in [rules].into_iter().chain(files("dashboards", "json")) {
        let text = fs::read_to_string(&path).unwrap();
        let named = names(&text);
        assert!(named.len() > 3, "{}: too few names were found: {named:?}", path.display());
        let unknown: Vec<_> =
            named.iter().filter(|name| **name != "backup_job" && !exported.contains(*name)).collect();
        assert!(unknown.is_empty(), "{} names what is not exported: {unknown:?}", path.display());
    }
}

#[test]
fn dashboards_are_whole_and_ask_the_chosen_data_source() {
    for path in files("dashboards", "json") {
        let shown = path.display();
        let dashboard: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables, ["datasource", "instance", "backup_job"], "{shown}");
        let panels = dashboard["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{shown}: {title} shares its id");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{shown}: {title}");
                let expression = target["expr"].as_str().unwrap();
                assert!(expression.contains(r#"instance=~"$instance""#), "{shown}: {title}: {expression}");
            }
        }
    }
}

#[cfg(feature = "real-peers")]
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(project("."))
        .output()
        .expect("promtool is needed: install the package prometheus");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&text));
}

#[cfg(feature = "real-peers")]
#[test]
fn promtool_accepts_the_rules_and_the_scrape_configuration() {
    promtool(&["check", "rules", "alerts/backup-agent.rules.yml"]);
    promtool(&["check", "config", "deploy/prometheus-scrape.yml"]);
}

#[cfg(feature = "real-peers")]
#[test]
fn each_rule_fires_and_does_not_fire_when_it_should() {
    for path in files("alerts/tests", "yml") {
        promtool(&["test", "rules", path.to_str().unwrap()]);
    }
}

/// What a dashboard asks is put into a rule each, so that promtool reads it.
#[cfg(feature = "real-peers")]
#[test]
fn promtool_accepts_every_expression_of_the_dashboards() {
    let mut rules = "groups:\n- name: dashboards\n  rules:\n".to_owned();
    for path in files("dashboards", "json") {
        let dashboard: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let place = rules.len();
                rules.push_str(&format!("  - record: panel:{place}\n    expr: {}\n", target["expr"]));
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}
