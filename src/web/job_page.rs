//! `/jobs/NAME`: one job, its runs, and where its backups are.

use std::collections::BTreeMap;

use askama::Template;
use chrono::{DateTime, Utc};

use super::View;
use super::chart::{Chart, charts, good_runs};
use super::drill::Drills;
use super::frame::Frame;
use super::parts::{Copies, Mark, Progress, Todos, class, counted, job_mark, living, of_job, run_mark, zone};
use super::text::{clip, first_line};
use super::when::{When, took};
use crate::config::{Config, JobConfig, Trigger};
use crate::health::{self, Finding};
use crate::model::{ByteSize, ComponentName, JobName, RunId};
use crate::state::{ComponentSummary, Copy, CopyStatus, JobRecord, JobState, Run};

/// Runs the page lists, the newest ones.
pub(super) const RUNS: usize = 40;
/// Components the page lists.
const COMPONENTS: usize = 30;

/// The page.
#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    name: JobName,
    mark: Mark,
    /// Whether the configuration has it; else only its history is left.
    configured: bool,
    progress: Option<Progress>,
    /// Where the run in progress has its page.
    running: Option<RunId>,
    todos: Todos,
    last_success: Option<When>,
    next_run: Option<When>,
    paused_until: Option<When>,
    schedule: Option<String>,
    zone: &'static str,
    external: bool,
    due: Option<When>,
    overdue_at: Option<When>,
    failing_since: Option<When>,
    counters: Option<String>,
    charts: Vec<Chart>,
    good_runs: String,
    copies: Copies,
    drills: Option<Drills>,
    components: Vec<ComponentRow>,
    components_left_out: usize,
    runs: Vec<RunRow>,
    /// Whether there may be older runs than those listed.
    more_runs: bool,
    checks: Vec<CheckRow>,
    /// A moment tomorrow, for an example.
    tomorrow: String,
}

/// What a component holds, and what it usually holds.
struct ComponentRow {
    name: ComponentName,
    read: ByteSize,
    stored: ByteSize,
    entries: u64,
    usual: Option<ByteSize>,
}

struct RunRow {
    mark: Mark,
    started: When,
    took: Option<String>,
    size: Option<ByteSize>,
    /// Files that changed and the like, or why there is no backup.
    what: String,
    copies: String,
}

struct CheckRow {
    mark: Mark,
    name: &'static str,
    message: String,
}

/// The page of a job of the configuration or of the state; none for any other name.
pub(super) fn render(view: &View, name: &JobName, record: &JobRecord) -> askama::Result<Option<String>> {
    let job = view.config.job.get(name);
    let state = view.snapshot.job(name);
    if job.is_none() && state.is_none() {
        return Ok(None);
    }
    let (now, tz) = (view.now, zone(view, job));
    let findings = health::findings(&view.snapshot, &view.config, now, &view.extra);
    let findings = of_job(&findings, name);
    let mark = match job {
        Some(_) => job_mark(now, state, &findings),
        None => Mark { class: "unknown", word: "not configured" },
    };
    let when = |at| When::new(at, now, tz);
    let success = state.and_then(|state| state.last_success.as_ref());
    let running = living(view, state);
    let due = |of: fn(&Config, &JobConfig, &JobState) -> Option<DateTime<Utc>>| {
        of(&view.config, job?, state?).map(when)
    };
    let history = state.map(|state| state.history.as_slice()).unwrap_or_default();
    let (components, components_left_out) = state.map(components).unwrap_or_default();
    let page = JobPage {
        frame: Frame::new(view, format!("{name}: {}", mark.word), mark.class, format!("/jobs/{name}")),
        name: name.clone(),
        mark,
        configured: job.is_some(),
        progress: running.map(|run| Progress::new(run, view.progress.get(name), now)),
        running: running.map(|run| run.run_id.clone()),
        todos: Todos::new(&findings, &view.command),
        last_success: success
            .map(|run| when(run.ended.unwrap_or(run.started)).to(format!("/runs/{}", run.run_id))),
        next_run: job
            .and_then(|job| health::next_run(&view.config, job, state.map(|state| &state.row), now))
            .map(when),
        paused_until: state.and_then(|state| state.row.paused_until).filter(|until| *until > now).map(when),
        schedule: job.and_then(|job| job.schedule.clone()),
        zone: tz.name(),
        external: job.is_some_and(|job| job.trigger == Trigger::External),
        due: due(health::next_due),
        overdue_at: due(health::overdue_at),
        failing_since: state.and_then(|state| state.row.failing_since).map(when),
        counters: state.map(counters),
        charts: charts(history),
        good_runs: good_runs(history),
        copies: Copies::new(&view.config, job, state, now, tz),
        drills: Drills::new(&view.config, job, state, now, tz),
        components,
        components_left_out,
        runs: runs(view, record, |at| When::new(at, now, tz)),
        more_runs: record.runs.len() >= RUNS,
        checks: checks(&findings),
        tomorrow: (now.with_timezone(&tz) + chrono::TimeDelta::days(1)).format("%Y-%m-%dT08:00").to_string(),
    };
    page.render().map(Some)
}

fn counters(state: &JobState) -> String {
    let c = &state.counters;
    let parts = [(c.failed, "failed"), (c.partial, "incomplete"), (c.interrupted, "interrupted")];
    let bad: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    match bad.is_empty() {
        true => c.runs.to_string(),
        false => format!("{}, of which {}", c.runs, bad.join(", ")),
    }
}

fn components(state: &JobState) -> (Vec<ComponentRow>, usize) {
    let Some(run) = health::measured_run(state) else { return Default::default() };
    let row = |component: &ComponentSummary| {
        let usual = state.baselines.get(&component.name).filter(|baseline| baseline.runs > 0);
        ComponentRow {
            name: component.name.clone(),
            read: ByteSize(component.source_bytes),
            stored: ByteSize(component.stored_bytes),
            entries: component.entries,
            usual: usual.map(|baseline| ByteSize(baseline.source_bytes)),
        }
    };
    let rows = run.components.iter().take(COMPONENTS).map(row).collect();
    (rows, run.components.len().saturating_sub(COMPONENTS))
}

fn runs(view: &View, record: &JobRecord, when: impl Fn(DateTime<Utc>) -> When) -> Vec<RunRow> {
    let mut copies = BTreeMap::<&RunId, Vec<&Copy>>::new();
    for copy in &record.copies {
        copies.entry(&copy.run_id).or_default().push(copy);
    }
    let row = |run: &Run| RunRow {
        mark: run_mark(run.outcome, !run.degraded.is_empty(), view.extra.dead_runs.contains(&run.run_id)),
        started: when(run.started).to(format!("/runs/{}", run.run_id)),
        took: run.duration().map(took),
        size: (run.stored_bytes > 0).then_some(ByteSize(run.stored_bytes)),
        what: what(run),
        copies: copies.get(&run.run_id).map(|copies| stored_at(copies)).unwrap_or_default(),
    };
    record.runs.iter().map(row).collect()
}

/// What there is to say of a run, in at most a line.
fn what(run: &Run) -> String {
    match (&run.error, run.degraded.first()) {
        (Some(error), _) => first_line(error, 140).into_owned(),
        (None, Some(degraded)) => first_line(degraded, 140).into_owned(),
        (None, None) => counted(&run.warning_counts),
    }
}

/// Where a backup is, in words: `local, nas, offsite waits`.
fn stored_at(copies: &[&Copy]) -> String {
    if copies.iter().all(|copy| copy.status == CopyStatus::Expired) {
        return "expired".to_owned();
    }
    let one = |copy: &&Copy| match copy.status {
        CopyStatus::Complete | CopyStatus::Verified => Some(copy.target.to_string()),
        CopyStatus::Pending => Some(format!("{} waits", copy.target)),
        CopyStatus::Corrupt => Some(format!("{} damaged", copy.target)),
        CopyStatus::Expired => None,
    };
    copies.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

fn checks(findings: &[&Finding]) -> Vec<CheckRow> {
    let row = |finding: &&Finding| CheckRow {
        mark: Mark { class: class(finding.status), word: finding.status.as_str() },
        name: finding.check,
        message: clip(&finding.message, 300).into_owned(),
    };
    findings.iter().map(row).collect()
}
