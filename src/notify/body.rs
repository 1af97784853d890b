//! What a message about a run says, as headline and sections; [`super::text`] and [`super::html`] lay
//! them out.
//!
//! The order is the order of the questions somebody has who is woken by it: what is wrong, what do I
//! still have, what happens by itself, what must I do, and only then the details.

use chrono::{DateTime, Utc};

use super::facts::{GoodBackup, LastGood, RunFacts, Streak};
use super::hints;
use super::message::Kind;
use super::text::{between, line, lines, moment, span, verbatim};
use crate::model::{ByteSize, Outcome, WarningKind};
use crate::state::CopyStatus;

/// Lines of the run's log a message shows at most.
pub const SHOWN_LOG_LINES: usize = 20;
/// Files with warnings a message lists at most.
pub const SHOWN_WARNINGS: usize = 10;
/// Lines of an error chain a message shows at most.
const SHOWN_ERROR_LINES: usize = 12;

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Somebody has to act.
    Bad,
    /// Somebody should look.
    Middling,
    /// All is well.
    Good,
    /// For information.
    Plain,
}

/// A message before it is laid out. Every text in it is one harmless line.
#[derive(Debug, Clone)]
pub struct Body {
    /// How it looks.
    pub tone: Tone,
    /// The first sentence.
    pub headline: String,
    /// The rest.
    pub sections: Vec<Section>,
    /// Who sent this, and where to change it.
    pub footer: String,
}

/// A part of a message.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its title; the first part has none.
    pub title: Option<&'static str>,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone)]
pub enum Block {
    /// Sentences.
    Para(String),
    /// Names and values.
    Facts(Vec<(&'static str, String)>),
    /// A list.
    List(Vec<String>),
    /// Lines as they are.
    Lines(Vec<String>),
    /// Purposes, and the commands for them.
    Commands(Vec<(String, String)>),
}

pub(super) fn section(title: &'static str, blocks: Vec<Block>) -> Section {
    Section { title: Some(title), blocks }
}

pub(super) fn para(text: impl Into<String>) -> Block {
    Block::Para(text.into())
}

pub(super) fn footer(host: &str, command: &str) -> String {
    format!(
        "backup-agent on {}. What is told, and to whom: `{} config show`, section notify.",
        line(host, 64),
        line(command, 200)
    )
}

pub(super) fn plural(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
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

/// The error chain, one line a cause.
fn error_lines(error: Option<&str>) -> Vec<String> {
    lines(error.unwrap_or_default(), SHOWN_ERROR_LINES)
}

/// An error chain of several lines as one line.
fn one_line(error: &str) -> Option<String> {
    let causes: Vec<&str> =
        error.lines().map(|l| l.trim().trim_end_matches(':')).filter(|l| !l.is_empty()).collect();
    Some(line(&causes.join(": "), 300)).filter(|e| !e.is_empty())
}

fn first_error(facts: &RunFacts) -> Option<String> {
    one_line(facts.error.as_deref()?)
}

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

fn stored(facts: &RunFacts) -> u64 {
    facts.components.iter().map(|c| c.stored_bytes).sum()
}

/// The message about one run.
pub fn run(kind: Kind, facts: &RunFacts, streak: Option<&Streak>, now: DateTime<Utc>) -> Body {
    let (tone, headline) = headline(kind, facts, streak, now);
    let mut sections = vec![Section { title: None, blocks: what_happened(kind, facts, streak) }];
    let trouble = kind.is_trouble();
    // What could not be read is what is wrong with an incomplete backup, elsewhere it is an aside.
    let incomplete = trouble && facts.outcome == Outcome::Partial;
    if incomplete {
        sections.extend(warnings(facts));
    }
    if kind == Kind::Recovery {
        sections.extend(what_it_was(facts, streak));
    }
    if trouble || kind == Kind::Recovery {
        sections.push(still_good(kind, facts, now));
    }
    if trouble {
        sections.push(next(facts, now));
        sections.push(to_do(kind, facts));
    }
    if !incomplete {
        sections.extend(warnings(facts));
    }
    if !trouble {
        sections.extend(sizes(facts));
        let look =
            ("Look closer:".to_owned(), format!("{} show {}", line(&facts.command, 200), facts.run_id));
        sections.push(section("More", vec![Block::Commands(vec![look])]));
    }
    if trouble && !facts.log_tail.is_empty() {
        let skip = facts.log_tail.len().saturating_sub(SHOWN_LOG_LINES);
        let tail = facts.log_tail[skip..].iter().map(|l| verbatim(l)).collect();
        sections.push(section("Last log lines", vec![Block::Lines(tail)]));
    }
    if trouble {
        sections.extend(sizes(facts));
    }
    Body { tone, headline, sections, footer: footer(&facts.host, &facts.command) }
}

fn headline(kind: Kind, facts: &RunFacts, streak: Option<&Streak>, now: DateTime<Utc>) -> (Tone, String) {
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

fn bad_runs(streak: &Streak) -> String {
    match streak.outcome.is_good() {
        true => plural(streak.runs, "degraded run", "degraded runs"),
        false => plural(streak.runs, "bad run", "bad runs"),
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

fn what_happened(kind: Kind, facts: &RunFacts, streak: Option<&Streak>) -> Vec<Block> {
    let zone = facts.timezone;
    let took = between(facts.started, facts.ended);
    let mut rows = Vec::new();
    let mut blocks = Vec::new();
    let bad = Kind::of_bad(facts.outcome).is_some();
    if bad {
        let failed = match (&facts.failed_component, facts.failed_step) {
            (Some(component), Some(step)) => Some(format!("{component}, in the step {step}")),
            (Some(component), None) => Some(component.to_string()),
            (None, Some(step)) => Some(format!("the step {step}")),
            (None, None) => None,
        };
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

fn what_it_was(facts: &RunFacts, streak: Option<&Streak>) -> Option<Section> {
    let streak = streak?;
    let mut rows = vec![("Since", moment(streak.since, facts.timezone))];
    let place = match (&streak.component, streak.step) {
        (Some(component), Some(step)) => Some(format!("{component}, in the step {step}")),
        (Some(component), None) => Some(component.to_string()),
        (None, Some(step)) => Some(format!("the step {step}")),
        (None, None) => None,
    };
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

fn still_good(kind: Kind, facts: &RunFacts, now: DateTime<Utc>) -> Section {
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

fn next(facts: &RunFacts, now: DateTime<Utc>) -> Section {
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

fn to_do(kind: Kind, facts: &RunFacts) -> Section {
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
        rows.push(("Try again what is pending:".to_owned(), format!("{command} tend")));
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

fn warnings(facts: &RunFacts) -> Option<Section> {
    let counts = &facts.warning_counts;
    if counts.total() == 0 {
        return None;
    }
    let told: Vec<String> = WarningKind::COUNTED
        .into_iter()
        .filter(|k| counts.get(*k) > 0)
        .map(|k| format!("{} {k}", counts.get(k)))
        .collect();
    let mut blocks = vec![para(format!("{}: {}.", plural(counts.total(), "file", "files"), told.join(", ")))];
    // Unreadable files are what makes a backup incomplete; they must not be hidden behind the others.
    let mut listed: Vec<_> =
        facts.first_warnings.iter().filter(|w| WarningKind::COUNTED.contains(&w.kind)).collect();
    listed.sort_by_key(|w| std::cmp::Reverse(w.kind));
    let mut items: Vec<String> = listed
        .iter()
        .take(SHOWN_WARNINGS)
        .map(|w| format!("{} {} ({})", w.kind, line(&w.path.display(), 200), line(&w.detail, 120)))
        .collect();
    let rest = counts.total().saturating_sub(items.len() as u64);
    if rest > 0 && !items.is_empty() {
        items.push(format!("and {rest} more"));
    }
    if !items.is_empty() {
        blocks.push(Block::List(items));
    }
    Some(section("Warnings", blocks))
}

fn sizes(facts: &RunFacts) -> Option<Section> {
    if facts.components.is_empty() {
        return None;
    }
    let items = facts
        .components
        .iter()
        .take(30)
        .map(|c| {
            let entries = if c.entries > 0 { format!(", {} entries", c.entries) } else { String::new() };
            format!(
                "{}: {} read, {} stored{entries}",
                c.name,
                ByteSize(c.source_bytes),
                ByteSize(c.stored_bytes)
            )
        })
        .collect();
    Some(section("What was captured", vec![Block::List(items)]))
}
