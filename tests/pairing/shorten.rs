//! The shipped rules and Alertmanager's configuration, with their durations shortened and their addresses
//! replaced. Nothing else is changed: what is tested is what is shipped.
//!
//! Each text must be there, and nothing that waits longer may be left, so that a new rule or route comes here
//! before its test can pass.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// How long Alertmanager collects before it tells, and between two messages about the same group.
pub const GROUP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the rules wait for. Limits in expressions are left alone: the state is moved into the past instead.
const RULES: &[(&str, &str)] = &[
    ("    interval: 1m\n", "    interval: 500ms\n"),
    ("        for: 5m\n", "        for: 2s\n"),
    ("        for: 15m\n", "        for: 4s\n"),
];

const ALERTMANAGER: &[(&str, &str)] =
    &[("group_wait: 30s\n", "group_wait: 500ms\n"), ("group_interval: 5m\n", "group_interval: 1s\n")];

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn shorten(name: &str, table: &[(&str, &str)]) -> String {
    let mut text = shipped(name);
    for (from, to) in table {
        assert!(text.contains(from), "alerts/{name} does not contain {from:?} any more: adapt the table");
        text = text.replace(from, to);
    }
    text
}

/// Lines that begin with one of these keys, and whose value is not among the shortened ones.
fn left_over(text: &str, keys: &[&str], table: &[(&str, &str)]) -> Vec<String> {
    let known: Vec<&str> = table.iter().map(|(_, to)| to.trim()).collect();
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    let waits = |line: &&str| keys.iter().any(|key| line.starts_with(&format!("{key}:")));
    lines.filter(waits).filter(|line| !known.contains(line)).map(str::to_owned).collect()
}

/// The shipped rules.
pub fn rules() -> String {
    let text = shorten("backup-agent.rules.yml", RULES);
    let left = left_over(&text, &["for", "interval", "keep_firing_for"], RULES);
    assert!(left.is_empty(), "these of the rules take too long for a test: {left:?}");
    text
}

/// The shipped configuration of Alertmanager, with mail going to `relay`.
pub fn alertmanager(relay: SocketAddr) -> String {
    let text = shorten("alertmanager.yml", ALERTMANAGER);
    let left = left_over(&text, &["group_wait", "group_interval"], ALERTMANAGER);
    assert!(left.is_empty(), "these of the routes take too long for a test: {left:?}");
    let smarthost = "smtp_smarthost: 'localhost:25'";
    assert!(text.contains(smarthost), "alerts/alertmanager.yml: no {smarthost}");
    text.replace(smarthost, &format!("smtp_smarthost: '{relay}'"))
}
