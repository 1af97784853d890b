//! The subject's part that says what happened, and the first sentence.

use chrono::{DateTime, Utc};

use super::Tone;
use super::captured::stored;
use crate::model::{ByteSize, Outcome, plural};
use crate::notify::facts::{RunFacts, Streak};
use crate::notify::message::Kind;
use crate::notify::text::{between, line, moment, span};
use crate::process::STDERR_BEFORE;

/// The subject's part that says what happened.
pub fn run_summary(kind: Kind, facts: &RunFacts, streak: Option<&Streak>, now: DateTime<Utc>) -> String {
    let with_error = |what: String| match first_error(facts) {
        Some(error) => format!("{what}: {error}"),
        None => what,
    };
    match kind {
        Kind::Failure => with_error(failed_at(facts)),
        Kind::Partial => match facts.warning_counts.unreadable {
            0 => with_error("backup is incomplete".to_owned()),
            n => format!("backup is incomplete, {} unreadable", plural(n, "file was", "files were")),
        },
        Kind::Interrupted => match facts.failed_step {
            Some(step) => format!("the run was interrupted in {step}"),
            None => "the run was interrupted".to_owned(),
        },
        Kind::Degraded => match facts.degraded.as_slice() {
            [] => "backup is good, but something after it failed".to_owned(),
            [one] => format!("backup is good, but {}", line(one, 200)),
            more => format!("backup is good, but {}, and {} more", line(&more[0], 120), more.len() - 1),
        },
        Kind::Recovery => match streak {
            Some(streak) => format!(
                "good again, after {} (since {})",
                bad_runs(streak),
                moment(streak.since, facts.timezone)
            ),
            None => "good again".to_owned(),
        },
        Kind::Reminder => match streak {
            Some(streak) if Kind::of_bad(facts.outcome).is_some() => with_error(format!(
                "still failing after {} and {}",
                span(between(streak.since, now)),
                plural(streak.runs, "run", "runs")
            )),
            _ => match facts.degraded.first() {
                Some(first) => format!("still degraded: {}", line(first, 200)),
                None => with_error("still failing".to_owned()),
            },
        },
        _ => format!(
            "good, {}{} in {}",
            ByteSize(stored(facts)),
            match facts.warning_counts.total() {
                0 => String::new(),
                n => format!(", {}", plural(n, "warning", "warnings")),
            },
            span(between(facts.started, facts.ended))
        ),
    }
}

pub(super) fn headline(
    kind: Kind,
    facts: &RunFacts,
    streak: Option<&Streak>,
    now: DateTime<Utc>,
) -> (Tone, String) {
    let (job, host) = (&facts.job, line(&facts.host, 64));
    match kind {
        Kind::Failure => {
            (Tone::Bad, format!("The backup of {job} on {host} failed. There is no new backup."))
        }
        Kind::Partial => (
            Tone::Bad,
            format!(
                "The backup of {job} on {host} is incomplete: something could not be read. What could be read is kept."
            ),
        ),
        Kind::Interrupted => (
            Tone::Bad,
            format!(
                "The backup of {job} on {host} was interrupted before it was finished. There is no new backup."
            ),
        ),
        Kind::Degraded => {
            (Tone::Middling, format!("The backup of {job} on {host} is good, but something after it failed."))
        }
        Kind::Reminder if facts.outcome.is_good() => (
            Tone::Middling,
            format!("The backup of {job} on {host} is good, but what failed after it still fails."),
        ),
        Kind::Reminder => (
            Tone::Bad,
            match streak {
                Some(streak) => format!(
                    "The backup of {job} on {host} has been failing for {}: {} in a row.",
                    span(between(streak.since, now)),
                    plural(streak.runs, "bad run", "bad runs")
                ),
                None => format!("The backup of {job} on {host} still fails."),
            },
        ),
        Kind::Recovery => (Tone::Good, recovery_headline(facts, streak, now)),
        _ => (Tone::Good, format!("The backup of {job} on {host} is good.")),
    }
}

fn recovery_headline(facts: &RunFacts, streak: Option<&Streak>, now: DateTime<Utc>) -> String {
    let (job, host) = (&facts.job, line(&facts.host, 64));
    // A degradation may end after the run, when a late copy arrives.
    let degraded = streak.is_some_and(|s| s.outcome.is_good());
    let good = moment(if degraded { now } else { facts.ended }, facts.timezone);
    match streak {
        Some(streak) => format!(
            "The backup of {job} on {host} {} on {}, and is good again since {good}, after {}.",
            match streak.outcome {
                Outcome::Failure => "failed",
                Outcome::Partial => "was incomplete",
                Outcome::Interrupted => "was interrupted",
                Outcome::Success | Outcome::Warning => "was degraded",
            },
            moment(streak.since, facts.timezone),
            bad_runs(streak)
        ),
        None => format!("The backup of {job} on {host} is good again since {good}."),
    }
}

fn bad_runs(streak: &Streak) -> String {
    match streak.outcome.is_good() {
        true => plural(streak.runs, "degraded run", "degraded runs"),
        false => plural(streak.runs, "bad run", "bad runs"),
    }
}

/// Where a run failed, in words: `database failed in capture`.
fn failed_at(facts: &RunFacts) -> String {
    match (&facts.failed_component, facts.failed_step) {
        (Some(component), Some(step)) => format!("{component} failed in {step}"),
        (Some(component), None) => format!("{component} failed"),
        (None, Some(step)) => format!("failed in {step}"),
        (None, None) => "failed".to_owned(),
    }
}

fn first_error(facts: &RunFacts) -> Option<String> {
    one_line(facts.error.as_deref()?)
}

/// An error chain of several lines as one line.
pub(super) fn one_line(error: &str) -> Option<String> {
    let lines = error.lines().map(str::trim).take_while(|line| *line != STDERR_BEFORE);
    let causes: Vec<&str> = lines.map(|line| line.trim_end_matches(':')).filter(|l| !l.is_empty()).collect();
    Some(line(&causes.join(": "), 300)).filter(|e| !e.is_empty())
}
