//! The start page: one line that answers whether everything is fine, then every job, those that need
//! somebody first.

use std::collections::BTreeMap;

use askama::Template;
use chrono_tz::Tz;

use super::View;
use super::chart::{Chart, charts, good_runs, small};
use super::drill::Drills;
use super::frame::Frame;
use super::parts::{Copies, Mark, Progress, Todos, class, counted, job_mark, living, of_job, zone};
use super::text::clip;
use super::when::{When, took};
use crate::config::{JobConfig, Trigger};
use crate::health::{self, Finding};
use crate::manifest::FileWarning;
use crate::model::{ByteSize, JobName, RunId, WarningKind, plural};
use crate::state::{HealthStatus, JobState, Run};

/// Up to so many jobs, each has a card. With more, those in order become lines of a table.
const CARDS_FOR_ALL: usize = 8;
/// More cards than this nobody looks at one by one: the rest are lines, too.
const CARDS_MAX: usize = 10;
/// Files with warnings a card lists.
const FILES: usize = 5;

/// The page.
#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    class: &'static str,
    heading: String,
    /// Sentences below it.
    summary: Vec<String>,
    /// Findings that belong to no job.
    agent: Todos,
    cards: Vec<Card>,
    rows: Vec<Row>,
    targets: Vec<TargetRow>,
    /// Jobs of the state that the configuration no longer has.
    gone: Vec<JobName>,
    jobs: usize,
}

/// One job, with all that matters of it.
struct Card {
    name: JobName,
    mark: Mark,
    /// Beside another state: whether a run is in progress.
    running: bool,
    progress: Option<Progress>,
    todos: Todos,
    last_success: Option<When>,
    /// The last run, when it was no good one, and a link to it.
    last_bad: Option<(RunId, Mark, When)>,
    paused_until: Option<When>,
    next_run: Option<When>,
    external: bool,
    charts: Vec<Chart>,
    good_runs: String,
    copies: Copies,
    drills: Option<Drills>,
    files: Option<Files>,
}

/// Files that changed, vanished or could not be read in the last run.
struct Files {
    run: RunId,
    text: String,
    listed: Vec<(WarningKind, String)>,
    more: u64,
}

/// One job in a line.
struct Row {
    name: JobName,
    mark: Mark,
    running: bool,
    last_success: Option<When>,
    next_run: Option<When>,
    size: Option<ByteSize>,
    chart: Option<Chart>,
    took: Option<String>,
    copies: String,
}

struct TargetRow {
    name: String,
    mark: Mark,
    /// Percent in use, and what is free in words.
    used: Option<u8>,
    free: String,
    error: Option<String>,
    looked: When,
}

/// The page. `warnings` are the files of jobs' last runs.
pub(super) fn render(view: &View, warnings: &BTreeMap<RunId, Vec<FileWarning>>) -> askama::Result<String> {
    let findings = health::findings(&view.snapshot, &view.config, view.now, &view.extra);
    let mut jobs: Vec<Seen> =
        view.config.job.iter().map(|(name, job)| Seen::new(view, name, job, &findings)).collect();
    // Stable, so that within a state jobs keep the order of their names.
    jobs.sort_by_key(|job| job.rank());
    let needing = jobs.iter().filter(|job| job.needs_a_look()).count();
    let cards = match jobs.len() {
        0..=CARDS_FOR_ALL => jobs.len(),
        _ => needing.min(CARDS_MAX),
    };
    let (shown, lines) = jobs.split_at(cards);
    let agent: Vec<&Finding> = findings.iter().filter(|finding| finding.job.is_none()).collect();
    let status = health::worst(findings.iter().map(|finding| finding.status));
    let (class, heading, title) = heading(status, &jobs, &findings);
    Overview {
        frame: Frame::new(view, title, class, "/".to_owned()),
        class,
        heading,
        summary: summary(view, &jobs),
        agent: Todos::new(&agent, &view.command),
        cards: shown.iter().map(|job| job.card(view, warnings)).collect(),
        rows: lines.iter().map(|job| job.row(view)).collect(),
        targets: targets(view),
        gone: gone(view),
        jobs: jobs.len(),
    }
    .render()
}

/// A job while the page is made.
struct Seen<'a> {
    name: &'a JobName,
    job: &'a JobConfig,
    state: Option<&'a JobState>,
    findings: Vec<&'a Finding>,
    running: Option<&'a Run>,
    mark: Mark,
    tz: Tz,
}

impl<'a> Seen<'a> {
    fn new(view: &'a View, name: &'a JobName, job: &'a JobConfig, findings: &'a [Finding]) -> Self {
        let state = view.snapshot.job(name);
        let findings = of_job(findings, name);
        let mark = job_mark(view.now, state, &findings);
        Self { name, job, state, running: living(view, state), mark, findings, tz: zone(view, Some(job)) }
    }

    fn status(&self) -> HealthStatus {
        health::worst(self.findings.iter().map(|finding| finding.status))
    }

    /// The order of the page: what needs somebody, what happens now, what is in order, what rests.
    fn rank(&self) -> u8 {
        match (self.status(), self.mark.class) {
            (HealthStatus::Critical, _) => 0,
            (HealthStatus::Warning, _) => 1,
            (HealthStatus::Unknown, _) => 2,
            _ if self.running.is_some() => 3,
            (_, "unknown") => 4,
            (_, "paused") => 6,
            _ => 5,
        }
    }

    fn needs_a_look(&self) -> bool {
        self.rank() < 4
    }

    fn last_success(&self, view: &View) -> Option<When> {
        let run = self.state?.last_success.as_ref()?;
        Some(When::new(run.ended.unwrap_or(run.started), view.now, self.tz))
    }

    fn next_run(&self, view: &View) -> Option<When> {
        let next = health::next_run(&view.config, self.job, self.state.map(|state| &state.row), view.now)?;
        Some(When::new(next, view.now, self.tz))
    }

    fn card(&self, view: &View, warnings: &BTreeMap<RunId, Vec<FileWarning>>) -> Card {
        let (now, tz) = (view.now, self.tz);
        let history = self.state.map(|state| state.history.as_slice()).unwrap_or_default();
        let last = self.state.and_then(|state| state.last_run.as_ref());
        let bad = last.filter(|run| !run.is_good());
        let paused = self.state.and_then(|state| state.row.paused_until).filter(|until| *until > now);
        Card {
            name: self.name.clone(),
            mark: self.mark,
            running: self.running.is_some(),
            progress: self.running.map(|run| Progress::new(run, view.progress.get(self.name), now)),
            todos: Todos::new(&self.findings, &view.command),
            last_success: self.last_success(view),
            last_bad: bad.map(|run| {
                let mark = super::parts::run_mark(run.outcome, !run.degraded.is_empty(), false);
                (run.run_id.clone(), mark, When::new(run.ended.unwrap_or(run.started), now, tz))
            }),
            paused_until: paused.map(|until| When::new(until, now, tz)),
            next_run: self.next_run(view),
            external: self.job.trigger == Trigger::External,
            charts: charts(history),
            good_runs: good_runs(history),
            copies: Copies::new(&view.config, Some(self.job), self.state, now, tz),
            // Without drills in the configuration an old one says little about today: the job's page has it.
            drills: self
                .job
                .drill
                .as_ref()
                .and_then(|_| Drills::new(&view.config, Some(self.job), self.state, now, tz)),
            files: last.and_then(|run| Files::new(run, warnings.get(&run.run_id))),
        }
    }

    fn row(&self, view: &View) -> Row {
        let measured = self.state.and_then(health::measured_run);
        let now = view.now;
        let success = self.state.and_then(|state| state.last_success.as_ref());
        let next = health::next_run(&view.config, self.job, self.state.map(|state| &state.row), now);
        Row {
            name: self.name.clone(),
            mark: self.mark,
            running: self.running.is_some(),
            last_success: success.map(|run| When::short(run.ended.unwrap_or(run.started), now, self.tz)),
            next_run: next.map(|next| When::short(next, now, self.tz)),
            size: measured.map(|run| ByteSize(run.stored_bytes)),
            chart: self.state.and_then(|state| small(&state.history)),
            took: success.and_then(Run::duration).map(took),
            copies: Copies::new(&view.config, Some(self.job), self.state, now, self.tz).line(),
        }
    }
}

impl Files {
    fn new(run: &Run, warnings: Option<&Vec<FileWarning>>) -> Option<Self> {
        let total = run.warning_counts.total();
        if total == 0 {
            return None;
        }
        let known = warnings.map(Vec::as_slice).unwrap_or_default();
        let listed: Vec<_> = known
            .iter()
            .filter(|warning| warning.kind != WarningKind::Skipped)
            .take(FILES)
            .map(|warning| (warning.kind, clip(&warning.path.display(), 160).into_owned()))
            .collect();
        Some(Self {
            run: run.run_id.clone(),
            text: counted(&run.warning_counts),
            more: total.saturating_sub(listed.len() as u64),
            listed,
        })
    }
}

/// Class, heading and title of the page.
fn heading(status: HealthStatus, jobs: &[Seen<'_>], findings: &[Finding]) -> (&'static str, String, String) {
    if jobs.is_empty() {
        return ("unknown", "Nothing is backed up: no job is configured".into(), "No jobs".into());
    }
    let critical = jobs.iter().filter(|job| job.status() == HealthStatus::Critical).count() as u64;
    let problems = findings.iter().filter(|finding| finding.status != HealthStatus::Ok).count() as u64;
    let good = jobs.iter().filter(|job| job.mark.class == "ok").count();
    let text = match status {
        HealthStatus::Critical if critical == 0 => "The agent needs attention".to_owned(),
        HealthStatus::Critical => match critical {
            1 => "1 job needs attention".to_owned(),
            n => format!("{n} jobs need attention"),
        },
        HealthStatus::Warning => format!("{} to look at", plural(problems, "warning", "warnings")),
        HealthStatus::Unknown => "Something cannot be told".to_owned(),
        HealthStatus::Ok if good == 0 => "Nothing is wrong, but there is no backup yet".to_owned(),
        HealthStatus::Ok => "Everything is fine".to_owned(),
    };
    let class = if status == HealthStatus::Ok && good == 0 { "unknown" } else { class(status) };
    (class, text.clone(), text)
}

/// How many jobs are in order, what is wrong with the others, and what happens next.
fn summary(view: &View, jobs: &[Seen<'_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    let words = |job: &Seen<'_>| match job.mark.word {
        "failed" => format!("{} failed", job.name),
        "warning" => format!("{} has a warning", job.name),
        "no backup yet" => format!("{} has no backup yet", job.name),
        "unknown" => format!("{} cannot be told", job.name),
        word => format!("{} is {word}", job.name),
    };
    let other: Vec<String> = jobs.iter().filter(|job| job.mark.class != "ok").map(words).collect();
    let good = jobs.len() - other.len();
    match jobs.len() {
        0 => {}
        1 if good == 1 => sentences.push("The job has a good backup.".to_owned()),
        all if good == all => sentences.push(format!("All {all} jobs have a good backup.")),
        all => sentences.push(format!("{good} of {} in order.", plural(all as u64, "job", "jobs"))),
    }
    match other.as_slice() {
        [] => {}
        few if few.len() <= 3 => sentences.push(format!("{}.", few.join(", "))),
        many => sentences.push(format!("{}, and {} more.", many[..3].join(", "), many.len() - 3)),
    }
    let next = jobs
        .iter()
        .filter_map(|job| {
            let row = job.state.map(|state| &state.row);
            Some((health::next_run(&view.config, job.job, row, view.now)?, job.name))
        })
        .min();
    if let Some((at, name)) = next {
        let span = health::words(health::since(view.now, at));
        sentences.push(format!("Next run: {name} in {span}."));
    }
    sentences
}

fn targets(view: &View) -> Vec<TargetRow> {
    let known = view.config.target.keys().filter_map(|name| Some((name, view.snapshot.targets.get(name)?)));
    known
        .map(|(name, probe)| {
            let used = match (probe.free_bytes, probe.size_bytes) {
                (Some(free), Some(size)) if size > 0 => {
                    Some((size.saturating_sub(free) as f64 / size as f64 * 100.0) as u8)
                }
                _ => None,
            };
            TargetRow {
                name: name.to_string(),
                mark: match probe.up {
                    true => Mark { class: "ok", word: "usable" },
                    false => Mark { class: "critical", word: "down" },
                },
                used,
                free: match (probe.free_bytes, probe.size_bytes) {
                    (Some(free), Some(size)) => format!("{} of {} free", ByteSize(free), ByteSize(size)),
                    (Some(free), None) => format!("{} free", ByteSize(free)),
                    _ => "–".to_owned(),
                },
                error: probe.error.as_deref().map(|error| clip(error, 300).into_owned()),
                looked: When::short(probe.at, view.now, view.config.timezone),
            }
        })
        .collect()
}

fn gone(view: &View) -> Vec<JobName> {
    let known = view.snapshot.jobs.iter().map(|state| &state.row.job);
    known.filter(|name| !view.config.job.contains_key(*name)).take(20).cloned().collect()
}
