//! `/runs/ID`: all that is known of one run.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};

use super::View;
use super::frame::Frame;
use super::parts::{Mark, Progress, counted, living, run_mark, zone};
use super::text::{Marked, clip, cost_of, marked, tail};
use super::when::{When, took};
use crate::config::TargetConfig;
use crate::event::Step;
use crate::model::{ByteSize, ChannelName, ComponentName, JobName, RunId, Sha256, TargetName, WarningKind};
use crate::notify::hints;
use crate::state::{ComponentSummary, Copy, CopyStatus, Message, MessageStatus, Run, RunRecord, StepTime};

/// What the parts of the page may take, in bytes; together they stay below 50 kB whatever a run met.
const ERROR_BEGIN: usize = 600;
const ERROR_ROOM: usize = 3_000;
const WARNINGS_ROOM: usize = 10_000;
const LOG_ROOM: usize = 10_000;
/// Lines of the log's end, and bytes of one line.
const LOG_LINES: usize = 150;
const LOG_LINE: usize = 600;
const COMPONENTS: usize = 25;
const NOTES: usize = 8;
const COPIES: usize = 12;
const MESSAGES: usize = 12;

/// The page.
#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    id: RunId,
    job: JobName,
    mark: Mark,
    progress: Option<Progress>,
    /// The chain of errors, and the step in which it happened.
    error: Option<String>,
    /// What comes after it, where the chain is long: shown when it is asked for.
    error_rest: Option<String>,
    failed_step: Option<Step>,
    hints: Vec<Marked>,
    started: When,
    ended: Option<When>,
    took: Option<String>,
    trigger: &'static str,
    scheduled_for: Option<When>,
    read: ByteSize,
    stored: ByteSize,
    /// The target and the folder in it.
    place: Option<(TargetName, String)>,
    steps: Vec<StepRow>,
    components: Vec<ComponentRow>,
    components_left_out: usize,
    copies: Vec<CopyRow>,
    notes: Vec<String>,
    told: Vec<ToldRow>,
    files: Option<Files>,
    /// The end of the log, and how many lines before it are not shown.
    log: Option<(String, usize)>,
}

struct StepRow {
    step: Step,
    took: String,
    /// Its share of the longest step, in percent.
    share: u8,
    failed: bool,
}

struct ComponentRow {
    name: ComponentName,
    read: ByteSize,
    stored: ByteSize,
    entries: u64,
    warnings: u64,
    sha256: Option<Sha256>,
}

struct CopyRow {
    target: TargetName,
    mark: Mark,
    /// Why it was not read back, where that is meant so.
    not_read_back: Option<&'static str>,
    since: When,
    folder: Option<String>,
    error: Option<String>,
}

struct ToldRow {
    channel: ChannelName,
    kind: &'static str,
    mark: Mark,
    at: When,
    /// How often it was tried, and the last refusal.
    attempts: u64,
    error: Option<String>,
}

/// Files that changed, vanished, could not be read, or were skipped.
struct Files {
    text: String,
    listed: Vec<(WarningKind, String, String)>,
    /// Those that are not listed here.
    more: u64,
}

/// The page of a run.
pub(super) fn render(view: &View, record: &RunRecord) -> askama::Result<String> {
    let RunRecord { run, copies, messages, log } = record;
    let job = view.config.job.get(&run.job);
    let (now, tz) = (view.now, zone(view, job));
    let when = |at| When::new(at, now, tz);
    let dead = view.extra.dead_runs.contains(&run.run_id);
    let mark = run_mark(run.outcome, !run.degraded.is_empty(), dead);
    let (error, error_rest) = run.error.as_deref().map(split_error).unzip();
    let error_rest = error_rest.flatten();
    let alive = living(view, view.snapshot.job(&run.job)).filter(|living| living.run_id == run.run_id);
    RunPage {
        frame: Frame::new(
            view,
            format!("{}: {}", run.job, mark.word),
            mark.class,
            format!("/runs/{}", run.run_id),
        ),
        id: run.run_id.clone(),
        job: run.job.clone(),
        mark,
        progress: alive.map(|run| Progress::new(run, view.progress.get(&run.job), now)),
        error,
        error_rest,
        failed_step: run.failed_step,
        hints: advice(run, &view.command),
        started: when(run.started),
        ended: run.ended.map(when),
        took: run.duration().map(took),
        trigger: run.trigger.as_str(),
        scheduled_for: run.scheduled_for.map(when),
        read: ByteSize(run.source_bytes),
        stored: ByteSize(run.stored_bytes),
        place: run
            .target
            .clone()
            .zip(run.location.as_deref().map(|location| clip(location, 400).into_owned()))
            .filter(|_| run.stored_bytes > 0),
        steps: steps(run),
        components: run.components.iter().take(COMPONENTS).map(ComponentRow::new).collect(),
        components_left_out: run.components.len().saturating_sub(COMPONENTS),
        copies: copies
            .iter()
            .take(COPIES)
            .map(|copy| CopyRow::new(copy, view.config.target.get(&copy.target), when))
            .collect(),
        notes: run.degraded.iter().take(NOTES).map(|note| clip(note, 400).into_owned()).collect(),
        told: messages.iter().take(MESSAGES).map(|message| ToldRow::new(message, when)).collect(),
        files: Files::new(run),
        log: log.as_deref().map(|log| tail(log, LOG_LINES, LOG_ROOM, LOG_LINE)),
    }
    .render()
}

/// The beginning of an error, and the rest of one that is too long to stand before everything else.
fn split_error(error: &str) -> (String, Option<String>) {
    let begin = clip(error, ERROR_BEGIN);
    match begin.strip_suffix('…').and_then(|begin| error.strip_prefix(begin)) {
        Some(rest) if begin.len() < error.len() => {
            (begin.into_owned(), Some(clip(rest, ERROR_ROOM).into_owned()))
        }
        _ => (error.to_owned(), None),
    }
}

/// What usually helps against the errors of a run that is no good one.
fn advice(run: &Run, command: &str) -> Vec<Marked> {
    if run.outcome.is_none() || (run.is_good() && run.degraded.is_empty()) {
        return Vec::new();
    }
    let evidence: Vec<&str> =
        run.error.as_deref().into_iter().chain(run.degraded.iter().map(String::as_str)).collect();
    let mut found: Vec<Marked> =
        hints::find(&evidence).into_iter().map(|hint| marked(hint, command, 400)).collect();
    if !run.is_good() {
        found.push(marked(&format!("To try again now: `agent backup {}`", run.job), command, 400));
    }
    found
}

fn steps(run: &Run) -> Vec<StepRow> {
    let longest = run.steps.iter().map(|step| step.ms).max().unwrap_or(0).max(1);
    let row = |step: &StepTime| StepRow {
        step: step.step,
        took: took(Duration::from_millis(step.ms)),
        share: (step.ms * 100 / longest).clamp(1, 100) as u8,
        failed: run.failed_step == Some(step.step),
    };
    let mut rows: Vec<StepRow> = run.steps.iter().map(row).collect();
    // A step that failed has no time of its own in older records.
    if let Some(step) = run.failed_step.filter(|failed| rows.iter().all(|row| row.step != *failed)) {
        rows.push(StepRow { step, took: "–".to_owned(), share: 1, failed: true });
    }
    rows
}

impl ComponentRow {
    fn new(component: &ComponentSummary) -> Self {
        Self {
            name: component.name.clone(),
            read: ByteSize(component.source_bytes),
            stored: ByteSize(component.stored_bytes),
            entries: component.entries,
            warnings: component.warning_counts.total(),
            sha256: component.sha256,
        }
    }
}

impl CopyRow {
    fn new(copy: &Copy, target: Option<&TargetConfig>, when: impl Fn(DateTime<Utc>) -> When) -> Self {
        let (class, word, since) = match copy.status {
            CopyStatus::Pending if copy.permanent => ("critical", "stopped", copy.queued_at),
            CopyStatus::Pending => ("warning", "waits", copy.queued_at),
            CopyStatus::Complete => ("ok", "stored", copy.created_at.unwrap_or(copy.queued_at)),
            CopyStatus::Verified => ("ok", "read back", copy.verified_at.unwrap_or(copy.queued_at)),
            CopyStatus::Corrupt => ("critical", "damaged", copy.verified_at.unwrap_or(copy.queued_at)),
            CopyStatus::Expired => ("unknown", "expired", copy.expired_at.unwrap_or(copy.queued_at)),
        };
        Self {
            target: copy.target.clone(),
            mark: Mark { class, word },
            not_read_back: target
                .filter(|_| copy.status == CopyStatus::Complete)
                .and_then(TargetConfig::not_read_back),
            since: when(since),
            folder: copy.location.as_deref().map(|folder| clip(folder, 200).into_owned()),
            error: copy.last_error.as_deref().map(|error| clip(error, 300).into_owned()),
        }
    }
}

impl ToldRow {
    fn new(message: &Message, when: impl Fn(DateTime<Utc>) -> When) -> Self {
        let (class, word) = match message.status {
            MessageStatus::Pending => ("warning", "waits"),
            MessageStatus::Delivered => ("ok", "accepted"),
            MessageStatus::Failed => ("critical", "given up"),
            MessageStatus::Refused => ("critical", "refused"),
            MessageStatus::Dropped => ("unknown", "dropped by a person"),
            MessageStatus::Superseded => ("unknown", "replaced by a later one"),
        };
        Self {
            channel: message.channel.clone(),
            kind: message.kind.as_str(),
            mark: Mark { class, word },
            at: when(message.closed_at.unwrap_or(message.created_at)),
            attempts: message.attempts,
            error: message.last_error.as_deref().map(|error| clip(error, 300).into_owned()),
        }
    }
}

impl Files {
    fn new(run: &Run) -> Option<Self> {
        let counts = &run.warning_counts;
        let total = counts.total() + counts.skipped;
        if total == 0 && run.warnings.is_empty() {
            return None;
        }
        let mut room = WARNINGS_ROOM;
        let mut listed = Vec::new();
        for warning in &run.warnings {
            let path = clip(&warning.path.display(), 300).into_owned();
            let detail = clip(&warning.detail, 200).into_owned();
            // With what stands around them in the template.
            let cost = cost_of(&path) + cost_of(&detail) + 60;
            let Some(left) = room.checked_sub(cost) else { break };
            room = left;
            listed.push((warning.kind, path, detail));
        }
        let mut text = counted(counts);
        if counts.skipped > 0 {
            let comma = if text.is_empty() { "" } else { ", " };
            text.push_str(&format!("{comma}{} skipped", counts.skipped));
        }
        Some(Self { text, more: total.saturating_sub(listed.len() as u64), listed })
    }
}
