//! Pings to a dead man's switch: it raises the alarm when nothing is heard any more.
//!
//! Two dialects. A heartbeat is the plainest: the address after a good run, the address + `/fail` after a
//! bad one. A ping is what healthchecks.io and those like it understand: `/start` when a run begins, the
//! exit status instead of `/fail` where that is asked for, the run's id as `rid` (a UUID) so that start and
//! end belong together, and the error with the last log lines as the body. The requests follow
//! <https://healthchecks.io/docs/http_api/>.
//!
//! Whoever knows the address can silence the switch, so it is a secret: errors and `Debug` name only the
//! host.

use std::fmt;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::facts::RunFacts;
use super::http::{Http, HttpSettings};
use super::message::Kind;
use super::{SendError, text};
use crate::model::{Outcome, RunId};

/// Longest body sent, in bytes: what every switch keeps (older ones keep 10 kB, newer ones 100).
const BODY_LIMIT: usize = 10_000;

/// How a switch is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// It hears of the beginning of runs.
    pub start: bool,
    /// It hears of good ends.
    pub success: bool,
    /// It hears of bad ends.
    pub failure: bool,
    /// Ends are told as exit statuses.
    pub exit_status: bool,
    /// It knows run ids, logs, and events that change nothing.
    pub rich: bool,
}

impl Dialect {
    /// The plainest one.
    pub const HEARTBEAT: Dialect =
        Dialect { start: false, success: true, failure: true, exit_status: false, rich: false };
}

/// What a switch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A run begins.
    Start,
    /// A run ended well.
    Success,
    /// A run ended otherwise.
    Fail,
    /// Something to note that says nothing about how it is.
    Log,
}

/// A ping as the outbox keeps it, beside its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// What is told.
    pub event: Event,
    /// The exit status `agent backup` has for it.
    pub exit_status: u8,
    /// The run.
    pub run: Option<RunId>,
}

impl Ping {
    /// The ping for the end of a run. Degraded runs are good ones here: there is a backup.
    pub fn ended(facts: &RunFacts) -> Self {
        let exit_status = match facts.outcome {
            Outcome::Success | Outcome::Warning => 0,
            Outcome::Failure => 1,
            Outcome::Partial => 3,
            Outcome::Interrupted => 130,
        };
        let event = if facts.outcome.is_good() { Event::Success } else { Event::Fail };
        Self { event, exit_status, run: Some(facts.run_id.clone()) }
    }

    /// The ping of a message that was made without one: a test, or one kept by an earlier version.
    pub(super) fn of_kind(kind: Kind) -> Self {
        if kind == Kind::Test {
            return Self { event: Event::Log, exit_status: 0, run: None };
        }
        let bad = matches!(kind, Kind::Failure | Kind::Partial | Kind::Interrupted | Kind::Reminder);
        let (event, exit_status) = if bad { (Event::Fail, 1) } else { (Event::Success, 0) };
        Self { event, exit_status, run: None }
    }
}

/// Pings one address.
pub struct Pinger {
    http: Http,
    dialect: Dialect,
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Pinger {
    /// Checks the address.
    pub fn new(settings: &HttpSettings, dialect: Dialect) -> Result<Self> {
        let what = if dialect.rich { "dead man's switch" } else { "heartbeat" };
        let http = Http::new(what, settings, true)?;
        if http.url().cannot_be_a_base() {
            bail!("the {what}'s address has no path");
        }
        Ok(Self { http, dialect })
    }

    /// Where the address leads, without what is secret in it.
    pub fn origin(&self) -> Option<super::reach::Origin> {
        self.http.origin()
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> std::time::Duration {
        self.http.timeout()
    }

    /// Pings, with `body` for people who look at the switch.
    pub async fn send(&self, ping: &Ping, body: &str, now: DateTime<Utc>) -> Result<(), SendError> {
        let url = self.address(ping);
        let body = text::cut(body, BODY_LIMIT);
        let post = self
            .http
            .post(url.clone())
            .header("content-type", "text/plain; charset=utf-8")
            .body(body.to_owned());
        let mut requests = vec![post];
        if !self.dialect.rich {
            // Some plain ones only know GET.
            requests.push(self.http.get(url));
        }
        self.http.send_any(requests, now).await
    }

    fn address(&self, ping: &Ping) -> Url {
        let mut url = self.http.url().clone();
        let end = match ping.event {
            Event::Start => Some("start".to_owned()),
            Event::Log if self.dialect.rich => Some("log".to_owned()),
            Event::Success | Event::Fail if self.dialect.exit_status => Some(ping.exit_status.to_string()),
            Event::Fail => Some("fail".to_owned()),
            Event::Success | Event::Log => None,
        };
        if let (Some(end), Ok(mut segments)) = (end, url.path_segments_mut()) {
            segments.pop_if_empty().push(&end);
        }
        if let Some(run) = ping.run.as_ref().filter(|_| self.dialect.rich) {
            url.query_pairs_mut().append_pair("rid", &run_uuid(run));
        }
        url
    }
}

/// A run's id as a UUID: always the same for the same run. Version 8, which leaves the digits to its maker;
/// here they come from a digest.
pub fn run_uuid(run: &RunId) -> String {
    use sha2::Digest as _;
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&sha2::Sha256::digest(format!("backup-agent run {run}"))[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// The body of a ping: how it ended in one line, and for a bad end the error and the last lines of the log.
/// The newest lines are what is kept when there are too many.
pub fn body(facts: &RunFacts, rich: bool) -> String {
    let first = text::line(&format!("{}: {}, run {}", facts.job, facts.outcome, facts.run_id), 300);
    if !rich || facts.outcome.is_good() {
        return first;
    }
    let mut out = first;
    out.push('\n');
    for line in text::lines(facts.error.as_deref().unwrap_or_default(), 12) {
        out.push_str(&format!("{line}\n"));
    }
    let mut room = BODY_LIMIT.saturating_sub(out.len() + 2);
    let mut tail: Vec<String> = Vec::new();
    for line in facts.log_tail.iter().rev().map(|line| text::verbatim(line)) {
        if line.len() + 1 > room {
            break;
        }
        room -= line.len() + 1;
        tail.push(line);
    }
    if !tail.is_empty() {
        tail.reverse();
        out.push_str(&format!("\n{}\n", tail.join("\n")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    fn address(dialect: Dialect, url: &str, ping: &Ping) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings =
            HttpSettings { url: Secret::new(url), timeout: std::time::Duration::from_secs(5), ca_file: None };
        Pinger::new(&settings, dialect).unwrap().address(ping).to_string()
    }

    #[test]
    fn an_address_says_event_status_and_run() {
        const RICH: Dialect =
            Dialect { start: true, success: true, failure: true, exit_status: false, rich: true };
        const STATUS: Dialect = Dialect { exit_status: true, ..RICH };
        const PLAIN: Dialect = Dialect::HEARTBEAT;
        let run: RunId = "20261124T180000Z-k3f9qa".parse().unwrap();
        let rid = run_uuid(&run);
        let ping = |event, exit_status| Ping { event, exit_status, run: Some(run.clone()) };
        let url = "https://hc.example.org/ping/abc";
        for (dialect, event, status, expected) in [
            (RICH, Event::Start, 0, format!("{url}/start?rid={rid}")),
            (RICH, Event::Success, 0, format!("{url}?rid={rid}")),
            (RICH, Event::Fail, 3, format!("{url}/fail?rid={rid}")),
            (RICH, Event::Log, 0, format!("{url}/log?rid={rid}")),
            (STATUS, Event::Success, 0, format!("{url}/0?rid={rid}")),
            (STATUS, Event::Fail, 130, format!("{url}/130?rid={rid}")),
            (PLAIN, Event::Success, 0, url.to_owned()),
            (PLAIN, Event::Fail, 1, format!("{url}/fail")),
            (PLAIN, Event::Log, 0, url.to_owned()),
        ] {
            assert_eq!(address(dialect, url, &ping(event, status)), expected);
        }
        let queried = address(RICH, "https://hc.example.org/key/web/?create=1", &ping(Event::Start, 0));
        assert_eq!(queried, format!("https://hc.example.org/key/web/start?create=1&rid={rid}"));
    }

    #[test]
    fn a_run_has_one_uuid_of_the_canonical_form() {
        let uuid = run_uuid(&"20261124T180000Z-k3f9qa".parse().unwrap());
        assert_eq!(uuid, run_uuid(&"20261124T180000Z-k3f9qa".parse().unwrap()));
        assert_ne!(uuid, run_uuid(&"20261124T180000Z-k3f9qb".parse().unwrap()));
        let parts: Vec<&str> = uuid.split('-').collect();
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('8') && "89ab".contains(&parts[3][..1]), "{uuid}");
    }
}
