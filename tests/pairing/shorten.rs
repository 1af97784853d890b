//! The shipped rules and Alertmanager's configuration, with their durations shortened and their places replaced.
//! Nothing else is changed: what is tested is what is shipped.
//!
//! Each text must be there, and nothing that waits longer may be left, so that a new rule or route comes here
//! before its test can pass.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// How long Alertmanager waits between two messages about the same group.
pub const GROUP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the rules wait for. Where an expression compares with the agent's own times, it is left alone: the
/// agent's state is moved into the past instead.
const RULES: &[(&str, &str)] = &[
    ("    interval: 1m\n", "    interval: 500ms\n"),
    ("        for: 5m\n", "        for: 2s\n"),
    ("        for: 10m\n", "        for: 3s\n"),
    ("        for: 15m\n", "        for: 4s\n"),
    ("        for: 30m\n", "        for: 5s\n"),
    ("        for: 1h\n", "        for: 6s\n"),
    ("        for: 6h\n", "        for: 9s\n"),
    ("        keep_firing_for: 10m\n", "        keep_firing_for: 3s\n"),
    // How long an agent that restarts may be away.
    ("[10m]", "[8s]"),
    (
        "time() - backup:agent_seen:timestamp_seconds > 120\n",
        "time() - backup:agent_seen:timestamp_seconds > 2\n",
    ),
];

/// Samples of a week, once an hour: no test waits for them.
const KEPT_RULES: &[&str] = &["interval: 1h"];

const ALERTMANAGER: &[(&str, &str)] = &[
    ("group_wait: 30s\n", "group_wait: 500ms\n"),
    ("group_interval: 5m\n", "group_interval: 1s\n"),
    // Each host stands for one that has a Prometheus and an Alertmanager of its own: what is told of one does
    // not come again in the next mail, about another.
    ("group_by: [alertname]\n", "group_by: [alertname, instance]\n"),
];

/// The watchdog's.
const KEPT_ALERTMANAGER: &[&str] = &["group_wait: 0s", "group_interval: 1m"];

/// Where the shipped configuration of Alertmanager leads.
pub struct Places<'a> {
    pub relay: SocketAddr,
    pub other_relay: SocketAddr,
    pub webhooks: SocketAddr,
    pub secrets: &'a Path,
}

fn shorten(name: &str, table: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    table.iter().fold(text, |text, (from, to)| replace(name, &text, from, to))
}

fn replace(name: &str, text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "alerts/{name} does not contain {from:?} any more: adapt the table");
    text.replace(from, to)
}

/// No line with one of these keys has another value than those known.
fn nothing_left(name: &str, text: &str, keys: &[&str], table: &[(&str, &str)], kept: &[&str]) {
    let known: Vec<&str> = table.iter().map(|(_, to)| to.trim()).chain(kept.iter().copied()).collect();
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    let waits = |line: &&str| keys.iter().any(|key| line.starts_with(&format!("{key}:")));
    let left: Vec<&str> = lines.filter(waits).filter(|line| !known.contains(line)).collect();
    assert!(left.is_empty(), "alerts/{name}: these take too long for a test: {left:?}");
}

/// The shipped rules.
pub fn rules() -> String {
    let name = "backup-agent.rules.yml";
    let text = shorten(name, RULES);
    nothing_left(name, &text, &["for", "interval", "keep_firing_for"], RULES, KEPT_RULES);
    text
}

/// The shipped configuration of Alertmanager.
pub fn alertmanager(places: &Places<'_>) -> String {
    let name = "alertmanager.yml";
    let mut text = shorten(name, ALERTMANAGER);
    nothing_left(name, &text, &["group_wait", "group_interval"], ALERTMANAGER, KEPT_ALERTMANAGER);
    let webhooks = format!("http://{}/", places.webhooks);
    let secrets = format!("{}/", places.secrets.display());
    for (from, to) in [
        ("relay.example.org:587", places.relay.to_string()),
        ("other-relay.example.net:587", places.other_relay.to_string()),
        ("https://oncall.example.org/", webhooks.clone()),
        ("https://deadman.example.net/", webhooks),
        ("/etc/alertmanager/secrets/", secrets),
    ] {
        text = replace(name, &text, from, &to);
    }
    text
}
