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
    for path in files("alerts", "yml").into_iter().chain(files("dashboards", "json")) {
        let text = fs::read_to_string(&path).unwrap();
        let named = names(&text);
        assert!(named.len() > 3, "{}: too few names were found: {named:?}", path.display());
        let unknown: Vec<_> =
            named.iter().filter(|name| **name != "backup_job" && !exported.contains(*name)).collect();
        assert!(unknown.is_empty(), "{} names what is not exported: {unknown:?}", path.display());
    }
}

#[test]
fn every_rule_has_a_section_in_the_runbook_and_a_test() {
    let rules = fs::read_to_string(project("alerts/backup-agent.rules.yml")).unwrap();
    let tests = fs::read_to_string(project("alerts/tests.yml")).unwrap();
    let runbook = fs::read_to_string(project("alerts/runbook.md")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 4, "{alerts:?}");
    for alert in alerts {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "alerts/runbook.md has no section {alert}");
        let url = format!("runbook_url: alerts/runbook.md#{}", alert.to_lowercase());
        assert!(rules.contains(&url), "{alert} does not point to its section");
        assert!(tests.contains(&url), "{alert} has no test that shows it fire");
        for annotation in ["summary:", "description:", "runbook_url:"] {
            let body = rules.split(&format!("- alert: {alert}\n")).nth(1).unwrap();
            let body = body.split("- alert: ").next().unwrap();
            assert!(body.contains(annotation), "{alert} has no {annotation}");
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
    promtool(&["test", "rules", "alerts/tests.yml"]);
}
