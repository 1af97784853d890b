//! Pieces that several pages have: states, findings, progress, copies.
//!
//! Each is a template of its own, whose values are escaped in it; the pages put it in with `|safe`, which
//! they do with nothing else but these and the style sheet.

use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::text::{Marked, clip, first_line, marked};
use super::when::When;
use super::{RunProgress, View};
use crate::config::{Config, JobConfig, TargetConfig};
use crate::health::{self, Finding, since, words};
use crate::model::{ByteSize, JobName, Outcome, TargetName, WarningCounts, plural};
use crate::state::{HealthStatus, JobState, JobTargetState, Run};

/// Bytes of one message on a page, and of the advice that goes with it.
const MESSAGE_ROOM: usize = 500;
const HINT_ROOM: usize = 400;

/// A state: its colour and sign by `class`, and the word for it. Never the colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Template)]
#[template(path = "state.html")]
pub(super) struct Mark {
    /// `ok`, `warning`, `critical`, `unknown`, `running`, `paused`.
    pub class: &'static str,
    /// One word or two.
    pub word: &'static str,
}

/// The class of a status in the style sheet.
pub(super) fn class(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Ok => "ok",
        HealthStatus::Warning => "warning",
        HealthStatus::Critical => "critical",
        HealthStatus::Unknown => "unknown",
    }
}

/// The one word about a job. `findings` are its own.
pub(super) fn job_mark(now: DateTime<Utc>, state: Option<&JobState>, findings: &[&Finding]) -> Mark {
    let status = health::worst(findings.iter().map(|finding| finding.status));
    let bad = |check: &str| {
        findings.iter().any(|finding| finding.check == check && finding.status == HealthStatus::Critical)
    };
    let word = match status {
        _ if bad("overdue") => "overdue",
        _ if bad("last-outcome") => "failed",
        HealthStatus::Critical => "broken",
        HealthStatus::Warning => "warning",
        HealthStatus::Unknown => "unknown",
        HealthStatus::Ok => match state {
            // Nothing is wrong, but nothing is protected either: not the colour of good.
            Some(state) if state.row.paused_until.is_some_and(|until| until > now) => {
                return Mark { class: "paused", word: "paused" };
            }
            Some(state) if state.last_success.is_some() => "good",
            _ => return Mark { class: "unknown", word: "no backup yet" },
        },
    };
    Mark { class: class(status), word }
}

/// The one word about a run.
pub(super) fn run_mark(outcome: Option<Outcome>, degraded: bool, dead: bool) -> Mark {
    let (class, word) = match outcome {
        None if dead => ("critical", "died"),
        None => ("running", "running"),
        Some(Outcome::Success | Outcome::Warning) if degraded => ("warning", "good, degraded"),
        Some(Outcome::Success) => ("ok", "good"),
        Some(Outcome::Warning) => ("ok", "good, with warnings"),
        Some(Outcome::Partial) => ("warning", "incomplete"),
        Some(Outcome::Interrupted) => ("warning", "interrupted"),
        Some(Outcome::Failure) => ("critical", "failed"),
    };
    Mark { class, word }
}

/// Findings that need somebody, each with what to do.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "todos.html")]
pub(super) struct Todos(Vec<Todo>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Todo {
    class: &'static str,
    message: String,
    hint: Option<Marked>,
}

impl Todos {
    /// Those of the findings that are not ok, the worst first.
    pub(super) fn new(findings: &[&Finding], command: &str) -> Self {
        let report = health::Report::new(findings.iter().map(|finding| (*finding).clone()).collect());
        let todo = |finding: &&Finding| Todo {
            class: class(finding.status),
            message: clip(&finding.message, MESSAGE_ROOM).into_owned(),
            hint: finding.hint.as_deref().map(|hint| marked(hint, command, HINT_ROOM)),
        };
        Self(report.problems().iter().map(todo).collect())
    }

    /// Whether nothing needs anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How far a run in progress is.
#[derive(Debug, Clone, PartialEq, Template)]
#[template(path = "progress.html")]
pub(super) struct Progress {
    percent: Option<u8>,
    text: String,
}

impl Progress {
    /// Of a run that is known to live. `progress` is there when it runs in this process.
    pub(super) fn new(run: &Run, progress: Option<&RunProgress>, now: DateTime<Utc>) -> Self {
        let ratio = progress.and_then(RunProgress::ratio).or(run.progress);
        let step = run.step.map(|step| format!(": {step}")).unwrap_or_default();
        let read = match progress {
            Some(RunProgress { source_bytes, expected_bytes: Some(expected) }) => {
                format!(", {} of about {} read", ByteSize(*source_bytes), ByteSize(*expected))
            }
            Some(RunProgress { source_bytes, expected_bytes: None }) => {
                format!(", {} read", ByteSize(*source_bytes))
            }
            None => String::new(),
        };
        // It is seen to be cut, never to be done before it is.
        let percent = ratio.map(|ratio| (ratio.clamp(0.0, 1.0) * 100.0) as u8);
        Self { percent, text: format!("Running for {}{step}{read}", words(since(run.started, now))) }
    }
}

/// The run of a job that is in progress; one that died is none.
pub(super) fn living<'a>(view: &View, state: Option<&'a JobState>) -> Option<&'a Run> {
    state?.running.as_ref().filter(|run| !view.extra.dead_runs.contains(&run.run_id))
}

/// A job's backups at each of its targets.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "copies.html")]
pub(super) struct Copies(Vec<CopyRow>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct CopyRow {
    target: TargetName,
    kept: u64,
    size: Option<ByteSize>,
    newest: Option<When>,
    pending: u64,
    corrupt: u64,
    read_back: Option<When>,
    read_back_differs: bool,
    /// Why nothing is read back there, where that is meant so.
    not_read_back: Option<&'static str>,
    /// What keeps copies or retention from it.
    errors: Vec<String>,
}

impl Copies {
    /// Of the targets of the configuration, in its order; without one, of those the state knows.
    pub(super) fn new(
        config: &Config,
        job: Option<&JobConfig>,
        state: Option<&JobState>,
        now: DateTime<Utc>,
        tz: Tz,
    ) -> Self {
        let nothing = JobTargetState::default();
        let known = |target: &TargetName| state.and_then(|state| state.targets.get(target));
        let targets: Vec<&TargetName> = match job {
            Some(job) => job.targets.iter().collect(),
            None => state.iter().flat_map(|state| state.targets.keys()).collect(),
        };
        let row = |target: &TargetName| {
            let at = known(target).unwrap_or(&nothing);
            let copy = if at.stopped { "copies stopped" } else { "copy" };
            let errors = [(copy, &at.last_error), ("cleaning up", &at.retention_error)];
            CopyRow {
                target: target.clone(),
                kept: at.kept,
                size: (at.kept > 0).then_some(ByteSize(at.kept_bytes)),
                newest: at.newest.map(|newest| When::short(newest, now, tz)),
                pending: at.pending,
                corrupt: at.corrupt,
                read_back: at.last_verify.map(|last| When::short(last, now, tz)),
                read_back_differs: at.last_verify_ok == Some(false),
                not_read_back: config.target.get(target).and_then(TargetConfig::not_read_back),
                errors: errors
                    .into_iter()
                    .filter_map(|(what, error)| Some((what, error.as_deref()?)))
                    .map(|(what, error)| format!("{what}: {}", first_line(error, 200)))
                    .collect(),
            }
        };
        Self(targets.into_iter().map(row).collect())
    }

    /// In one line: `local 10, nas 31 (2 to copy)`.
    pub(super) fn line(&self) -> String {
        let one = |row: &CopyRow| match (row.pending, row.corrupt) {
            (0, 0) => format!("{} {}", row.target, row.kept),
            (pending, 0) => format!("{} {} ({pending} to copy)", row.target, row.kept),
            (_, corrupt) => format!("{} {} ({corrupt} damaged)", row.target, row.kept),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// What happened to files while they were read, in words: `2 files changed, 1 vanished`.
pub(super) fn counted(counts: &WarningCounts) -> String {
    let parts: Vec<String> =
        [(counts.changed, "changed"), (counts.vanished, "vanished"), (counts.unreadable, "unreadable")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .enumerate()
            .map(|(n, (count, word))| match n {
                0 => format!("{} {word}", plural(count, "file", "files")),
                _ => format!("{count} {word}"),
            })
            .collect();
    parts.join(", ")
}

/// The zone a job's times are shown in.
pub(super) fn zone(view: &View, job: Option<&JobConfig>) -> Tz {
    job.map_or(view.config.timezone, |job| view.config.job_timezone(job))
}

/// The findings about one job.
pub(super) fn of_job<'a>(findings: &'a [Finding], name: &JobName) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.job.as_ref() == Some(name)).collect()
}
