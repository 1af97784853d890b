//! Durations and moments for people.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

/// A duration in at most two units: `45 s`, `3 min 20 s`, `42 min`, `3 h 12 min`, `2 days 4 h`, `20 days`.
/// Cut, not rounded: nothing is said to be older than it is.
pub fn words(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let s = duration.as_secs();
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match s {
        0..MINUTE => format!("{s} s"),
        // Seconds matter for a short run, not for one of an hour.
        MINUTE..600 => two(s / MINUTE, "min", s % MINUTE, "s"),
        600..HOUR => format!("{} min", s / MINUTE),
        // "30 h" is clearer than "1 day 6 h", and there is no "1 day" to get the plural wrong.
        HOUR..172_800 => two(s / HOUR, "h", s % HOUR / MINUTE, "min"),
        172_800..1_209_600 => two(s / DAY, "days", s % DAY / HOUR, "h"),
        _ => format!("{} days", s / DAY),
    }
}

/// From `then` to `now`; zero when `then` lies ahead, as after a clock was set back.
pub fn since(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

/// A moment in a zone, to the minute: `2026-11-24 03:05`.
pub fn moment(at: DateTime<Utc>, tz: Tz) -> String {
    at.with_timezone(&tz).format("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (200, "3 min 20 s"),
            (2_559, "42 min"),
            (3_600, "1 h"),
            (11_520, "3 h 12 min"),
            (108_000, "30 h"),
            (187_200, "2 days 4 h"),
            (172_800, "2 days"),
            (1_728_000, "20 days"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn a_moment_is_shown_in_the_zone_and_the_future_is_not_ago() {
        let at: DateTime<Utc> = "2026-11-24T02:05:30Z".parse().unwrap();
        assert_eq!(moment(at, chrono_tz::Europe::Berlin), "2026-11-24 03:05");
        assert_eq!(since(at, at - chrono::TimeDelta::hours(1)), Duration::ZERO);
    }
}
