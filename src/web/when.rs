//! Moments and durations on a page: in words and in time.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::health::{moment, since, words};

/// A moment: `3 h ago`, and beside it `2026-11-24 03:05 CET`.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "when.html")]
pub(super) struct When {
    /// For programs.
    machine: String,
    /// Seen from now.
    words: String,
    /// In the zone.
    exact: String,
    /// Whether there is little room: the exact time then shows when it is pointed at.
    short: bool,
    /// Where the words lead.
    to: Option<String>,
}

impl When {
    /// With both, words and time.
    pub(super) fn new(at: DateTime<Utc>, now: DateTime<Utc>, tz: Tz) -> Self {
        let words = match at > now {
            true => format!("in {}", words(since(now, at))),
            false if since(at, now) < Duration::from_secs(1) => "now".to_owned(),
            false => format!("{} ago", words(since(at, now))),
        };
        let exact = format!("{} {}", moment(at, tz), at.with_timezone(&tz).format("%Z"));
        Self { machine: at.format("%Y-%m-%dT%H:%M:%SZ").to_string(), words, exact, short: false, to: None }
    }

    /// With words that lead to a path.
    pub(super) fn to(self, path: String) -> Self {
        Self { to: Some(path), ..self }
    }

    /// With words alone.
    pub(super) fn short(at: DateTime<Utc>, now: DateTime<Utc>, tz: Tz) -> Self {
        Self { short: true, ..Self::new(at, now, tz) }
    }
}

/// A duration of a run or a step: parts of a second matter below ten.
pub(super) fn took(duration: Duration) -> String {
    match duration.as_millis() {
        0..10 => "under 10 ms".to_owned(),
        ms @ 10..1_000 => format!("{ms} ms"),
        ms @ 1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => words(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_from_now_and_in_the_zone() {
        let at: DateTime<Utc> = "2026-11-24T02:05:00Z".parse().unwrap();
        let tz = chrono_tz::Europe::Berlin;
        assert_eq!(
            When::new(at, at + chrono::TimeDelta::hours(3), tz).to_string(),
            "<time datetime=\"2026-11-24T02:05:00Z\">3 h ago <span class=\"exact\">2026-11-24 03:05 CET</span></time>"
        );
        assert_eq!(
            When::short(at, at - chrono::TimeDelta::hours(3), tz).to_string(),
            "<time datetime=\"2026-11-24T02:05:00Z\" title=\"2026-11-24 03:05 CET\">in 3 h</time>"
        );
        assert!(When::new(at, at, tz).to_string().contains(">now <"));
    }

    #[test]
    fn a_short_step_is_told_in_parts_of_a_second() {
        for (ms, text) in [(3, "under 10 ms"), (120, "120 ms"), (1_250, "1.2 s"), (95_000, "1 min 35 s")] {
            assert_eq!(took(Duration::from_millis(ms)), text);
        }
    }
}
