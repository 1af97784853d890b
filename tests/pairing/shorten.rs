//! The shipped rules and Alertmanager's configuration, with their durations shortened and their places replaced.
//! Nothing else is changed: what is tested is what is shipped.
//!
//! Each text must be there, and nothing that waits longer may be left, so that a new rule or route comes here
//! before its test can pass.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// How short a second of the shipped files' time is: 1 on a machine with time to spare. All durations are
/// multiplied by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace(pub u32);

impl Pace {
    /// How long Alertmanager waits between two messages about the same group.
    pub fn group_interval(self) -> Duration {
        Duration::from_secs(1) * self.0
    }

    /// How often Prometheus reads an agent.
    pub fn scrape_interval(self) -> Duration {
        Duration::from_secs(1) * self.0
    }

    /// A text with `<2000>` in it, a number of milliseconds, and `<10 s>`, a number of seconds without a unit.
    fn fill(self, text: &str) -> String {
        let Some((before, rest)) = text.split_once('<') else { return text.to_owned() };
        let (number, after) = rest.split_once('>').expect("what begins with < ends with >");
        match number.strip_suffix(" s") {
            Some(seconds) => format!("{before}{}{after}", seconds.parse::<u32>().unwrap() * self.0),
            None => format!("{before}{}ms{after}", number.parse::<u32>().unwrap() * self.0),
        }
    }
}

/// What the rules wait for. Where an expression compares with the agent's own times, it is left alone: the
/// agent's state is moved into the past instead.
const RULES: &[(&str, &str)] = &[
    ("    interval: 1m\n", "    interval: <500>\n"),
    ("        for: 5m\n", "        for: <2000>\n"),
    ("        for: 10m\n", "        for: <3000>\n"),
    ("        for: 15m\n", "        for: <4000>\n"),
    ("        for: 30m\n", "        for: <5000>\n"),
    ("        for: 1h\n", "        for: <6000>\n"),
    ("        for: 6h\n", "        for: <9000>\n"),
    ("        keep_firing_for: 10m\n", "        keep_firing_for: <3000>\n"),
    // How long an agent that restarts may be away.
    ("[10m]", "[<20000>]"),
    ("backup:agent_seen:timestamp_seconds > 120\n", "backup:agent_seen:timestamp_seconds > <10 s>\n"),
];

/// Samples of a week, once an hour: no test waits for them.
const KEPT_RULES: &[&str] = &["interval: 1h"];

const ALERTMANAGER: &[(&str, &str)] = &[
    ("group_wait: 30s\n", "group_wait: <500>\n"),
    ("group_interval: 5m\n", "group_interval: <1000>\n"),
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

fn shorten(name: &str, table: &[(&str, &str)], pace: Pace) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    table.iter().fold(text, |text, (from, to)| replace(name, &text, from, &pace.fill(to)))
}

fn replace(name: &str, text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "alerts/{name} does not contain {from:?} any more: adapt the table");
    text.replace(from, to)
}

/// No line with one of these keys has another value than a shortened one, or one that is known.
fn nothing_left(name: &str, text: &str, keys: &[&str], kept: &[&str]) {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    let waits = |line: &&str| keys.iter().any(|key| line.starts_with(&format!("{key}:")));
    let left: Vec<&str> =
        lines.filter(waits).filter(|line| !line.ends_with("ms") && !kept.contains(line)).collect();
    assert!(left.is_empty(), "alerts/{name}: these take too long for a test: {left:?}");
}

/// The shipped rules.
pub fn rules(pace: Pace) -> String {
    let name = "backup-agent.rules.yml";
    let text = shorten(name, RULES, pace);
    nothing_left(name, &text, &["for", "interval", "keep_firing_for"], KEPT_RULES);
    text
}

/// The shipped configuration of Alertmanager.
pub fn alertmanager(places: &Places<'_>, pace: Pace) -> String {
    let name = "alertmanager.yml";
    let text = shorten(name, ALERTMANAGER, pace);
    nothing_left(name, &text, &["group_wait", "group_interval"], KEPT_ALERTMANAGER);
    let webhooks = format!("http://{}/", places.webhooks);
    [
        ("relay.example.org:587", places.relay.to_string()),
        ("other-relay.example.net:587", places.other_relay.to_string()),
        ("https://oncall.example.org/", webhooks.clone()),
        ("https://deadman.example.net/", webhooks),
        ("/etc/alertmanager/secrets/", format!("{}/", places.secrets.display())),
    ]
    .iter()
    .fold(text, |text, (from, to)| replace(name, &text, from, to))
}
