//! What is wrong, what is still good, what happens by itself, what to do.

use chrono::{DateTime, Utc};

use super::captured::stored;
use super::headline::one_line;
use super::{Block, Section, para, section};
use crate::event::Step;
use crate::model::{ByteSize, ComponentName, Outcome, WarningKind, plural};
use crate::notify::facts::{GoodBackup, LastGood, RunFacts, Streak};
use crate::notify::hints;
use crate::notify::message::Kind;
use crate::notify::text::{between, line, lines, moment, span};
use crate::state::CopyStatus;

/// Lines of an error chain a message shows at most.
const SHOWN_ERROR_LINES: usize = 12;

pub(super) fn what_happened(kind: Kind, facts: &RunFacts, streak: Option<&Streak>) -> Vec<Block> {
    let zone = facts.timezone;
    let took = between(facts.started, facts.ended);
    let mut rows = Vec::new();
    let mut blocks = Vec::new();
    let bad = Kind::of_bad(facts.outcome).is_some();
    if bad {
        let failed = place(facts.failed_component.as_ref(), facts.failed_step);
        rows.extend(
            failed.map(|f| (if kind == Kind::Interrupted { "Interrupted" } else { "What failed" }, f)),
        );
    }
    rows.push((
        "Started",
        match took.as_secs() {
            0 => moment(facts.started, zone),
            _ => format!("{}, ended after {}", moment(facts.started, zone), span(took)),
        },
    ));
    if !bad {
        let warnings = match facts.warning_counts.total() {
            0 => String::new(),
            n => format!(" ({})", plural(n, "warning", "warnings")),
        };
        rows.push(("Result", format!("{}{warnings}, {} stored", facts.outcome, ByteSize(stored(facts)))));
    }
    if let Some(streak) = streak.filter(|s| kind != Kind::Recovery && s.runs > 1) {
        rows.push((
            "Failing since",
            format!("{}, {} so far", moment(streak.since, zone), plural(streak.runs, "run", "runs")),
        ));
    }
    rows.push(("Run", facts.run_id.to_string()));
    blocks.push(Block::Facts(rows));
    let error = error_lines(facts.error.as_deref());
    if bad && !error.is_empty() {
        blocks.push(para("The error:"));
        blocks.push(Block::Lines(error));
    }
    if !facts.degraded.is_empty() {
        blocks.push(para(match facts.degraded.len() {
            1 => "What failed beside it:".to_owned(),
            n => format!("{n} things failed beside it:"),
        }));
        blocks.push(Block::List(facts.degraded.iter().take(20).map(|d| line(d, 400)).collect()));
    }
    blocks
}

pub(super) fn what_it_was(facts: &RunFacts, streak: Option<&Streak>) -> Option<Section> {
    let streak = streak?;
    let mut rows = vec![("Since", moment(streak.since, facts.timezone))];
    let place = place(streak.component.as_ref(), streak.step);
    rows.extend(place.map(|p| ("What failed", p)));
    rows.extend(streak.error.as_deref().and_then(one_line).map(|e| ("Error", e)));
    let mut blocks = vec![Block::Facts(rows)];
    if !streak.told {
        blocks.push(para(
            "You were not told about it at that time: no message about it could be delivered. This is the \
             only one.",
        ));
    }
    Some(section("What had failed", blocks))
}

/// Where a run failed, in words: `database, in the step capture`.
fn place(component: Option<&ComponentName>, step: Option<Step>) -> Option<String> {
    match (component, step) {
        (Some(component), Some(step)) => Some(format!("{component}, in the step {step}")),
        (Some(component), None) => Some(component.to_string()),
        (None, Some(step)) => Some(format!("the step {step}")),
        (None, None) => None,
    }
}

/// The error chain, one line a cause.
fn error_lines(error: Option<&str>) -> Vec<String> {
    lines(error.unwrap_or_default(), SHOWN_ERROR_LINES)
}

/// The newest verified backup, as a message about a run names it: a good run that was read back is itself the
/// newest; the state may not know it yet.
pub fn newest_verified(facts: &RunFacts) -> LastGood {
    let own = |state: CopyStatus| {
        let copy = facts.copies.iter().find(|c| facts.outcome.is_good() && c.state == state.as_str())?;
        Some(GoodBackup {
            run_id: facts.run_id.clone(),
            taken: facts.started,
            target: copy.target.clone(),
            location: None,
        })
    };
    match (own(CopyStatus::Verified), &facts.newest_verified) {
        (Some(own), _) => LastGood::Backup(own),
        (None, LastGood::Unread(_) | LastGood::Nothing) => {
            own(CopyStatus::Complete).map_or_else(|| facts.newest_verified.clone(), LastGood::Unread)
        }
        (None, known) => known.clone(),
    }
}

pub(super) fn still_good(kind: Kind, facts: &RunFacts, now: DateTime<Utc>) -> Section {
    let mut blocks = Vec::new();
    match &newest_verified(facts) {
        newest @ (LastGood::Backup(backup) | LastGood::Unread(backup)) => {
            let age = span(between(backup.taken, now));
            let what = match newest {
                LastGood::Backup(_) => "The newest verified backup is",
                _ => "No backup of this job was read back. The newest that was stored is",
            };
            blocks.push(para(format!(
                "{what} {age} old: {} of {}, at {}{}.",
                backup.run_id,
                moment(backup.taken, facts.timezone),
                backup.target,
                backup.location.as_deref().map(|l| format!(" ({})", line(l, 200))).unwrap_or_default()
            )));
            match facts.outcome {
                _ if kind == Kind::Recovery => {}
                Outcome::Partial => blocks.push(para(
                    "The incomplete backup is kept as well: what could be read can be restored from it.",
                )),
                Outcome::Failure | Outcome::Interrupted => blocks.push(para(
                    "This failure did not touch it. What changed since then exists only on the server.",
                )),
                Outcome::Success | Outcome::Warning => {}
            }
        }
        LastGood::Unknown => blocks.push(para(
            "Unknown: the agent could not read its own state. Look at the targets themselves: every folder \
             with a manifest.json in it is a finished backup, and its RESTORE.txt tells how to check it.",
        )),
        LastGood::Nothing => blocks.push(para(
            "NOTHING: there is no verified backup of this job. What is on the server now exists nowhere else.",
        )),
    }
    if !facts.copies.is_empty() {
        blocks.push(para("Copies of this run:"));
        blocks.push(Block::List(
            facts
                .copies
                .iter()
                .map(|copy| match &copy.detail {
                    Some(detail) => {
                        format!("{}: {} ({})", copy.target, line(&copy.state, 40), line(detail, 300))
                    }
                    None => format!("{}: {}", copy.target, line(&copy.state, 40)),
                })
                .collect(),
        ));
    }
    section(if kind == Kind::Recovery { "What you have now" } else { "What is still good" }, blocks)
}

pub(super) fn next(facts: &RunFacts, now: DateTime<Utc>) -> Section {
    let text = match facts.next_run {
        Some(at) if at > now => format!(
            "The job runs again by itself on {}, in {}. You get one message when it is good again.",
            moment(at, facts.timezone),
            span(between(now, at))
        ),
        Some(_) => {
            "The job runs again by itself in a moment. You get one message when it is good again.".to_owned()
        }
        None => "The job has no schedule here: it does not run again until somebody or something starts it."
            .to_owned(),
    };
    section("What happens by itself", vec![para(text)])
}

pub(super) fn to_do(kind: Kind, facts: &RunFacts) -> Section {
    let command = line(&facts.command, 200);
    let mut blocks = Vec::new();
    let mut evidence: Vec<&str> = facts.error.iter().map(String::as_str).collect();
    evidence.extend(facts.degraded.iter().map(String::as_str));
    if facts.outcome == Outcome::Partial {
        evidence.extend(
            facts
                .first_warnings
                .iter()
                .filter(|w| w.kind == WarningKind::Unreadable)
                .map(|w| w.detail.as_str()),
        );
    }
    for hint in hints::find(&evidence) {
        blocks.push(para(hint));
    }
    let look = format!("Look closer (on {}):", line(&facts.host, 64));
    let mut rows = vec![(look, format!("{command} show {}", facts.run_id))];
    if kind == Kind::Degraded || (kind == Kind::Reminder && facts.outcome.is_good()) {
        rows.push(("Try again what is pending:".to_owned(), format!("{command} tend --retry")));
    } else {
        rows.push((
            "Once the cause is gone, do not wait for the schedule:".to_owned(),
            format!("{command} backup {}", facts.job),
        ));
    }
    rows.push(("See everything that can be restored:".to_owned(), format!("{command} list")));
    blocks.push(Block::Commands(rows));
    section("What to do", blocks)
}
