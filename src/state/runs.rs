//! Runs: begun, followed, ended, remembered.

use chrono::{DateTime, Duration, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::copies::{NewCopy, insert_copy};
use super::counters::{bump, names};
use super::jobs::{ensure_job, one_job, set_occurrence};
use super::outbox::{NewMessage, insert_messages, mark_superseded};
use super::sql::{
    from_ms, get_json, get_word, int, json, ms, opt_ms, opt_time, opt_word, time, uint, word, words,
};
use super::{State, StateError};
use crate::event::Step;
use crate::manifest::FileWarning;
use crate::model::{ComponentName, JobName, Outcome, RunId, TargetName, WarningCounts, WarningKind};

/// How many file warnings are kept with a run; all of them stand in the backup itself.
pub const WARNINGS_KEPT: usize = 50;
/// How many good runs the baseline is the median of.
const BASELINE_RUNS: usize = 7;
/// How long the log of a run is kept.
const LOG_DAYS: i64 = 90;

words! {
    /// What started a run.
    RunTrigger {
        /// A person at a shell.
        Manual = "manual",
        /// The daemon's scheduler.
        Schedule = "schedule",
        /// The daemon, for an occurrence missed while it was down.
        CatchUp = "catch-up",
        /// Something else that keeps time, such as cron.
        Cron = "cron",
    }
}

/// A run about to begin.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// What started it.
    pub trigger: RunTrigger,
    /// The scheduled moment it answers.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// Process that executes it.
    pub pid: u32,
    /// Boot the pid belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its start.
    pub started: DateTime<Utc>,
}

/// How long one step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// Milliseconds.
    pub ms: u64,
}

/// What a run stored for one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSummary {
    /// The component.
    pub name: ComponentName,
    /// Bytes of content read from the source.
    pub source_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Entries of the archive; 0 for a plain stream.
    pub entries: u64,
    /// Files that changed, vanished, were unreadable or skipped.
    #[serde(default)]
    pub warning_counts: WarningCounts,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub struct EndedRun {
    /// The run.
    pub run_id: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed beside the outcome, a sentence each.
    pub degraded: Vec<String>,
    /// The step that failed.
    pub failed_step: Option<Step>,
    /// The chain of errors, for people.
    pub error: Option<String>,
    /// Time of each step, in order.
    pub steps: Vec<StepTime>,
    /// Bytes read from all sources.
    pub source_bytes: u64,
    /// Bytes stored at the primary target; 0 when nothing was kept.
    pub stored_bytes: u64,
    /// What was stored for each component.
    pub components: Vec<ComponentSummary>,
    /// Warnings of all components.
    pub warning_counts: WarningCounts,
    /// The first warnings; those past [`WARNINGS_KEPT`] are dropped.
    pub warnings: Vec<FileWarning>,
    /// End of the run.
    pub ended: DateTime<Utc>,
    /// Messages not delivered yet that this end makes pointless (see [`State::undelivered_failures`]);
    /// closed in the same transaction that adds the message which replaces them.
    pub supersedes: Vec<i64>,
}

impl EndedRun {
    /// An end of which only the outcome is known; the other fields are empty.
    pub fn new(run_id: RunId, outcome: Outcome, ended: DateTime<Utc>) -> Self {
        Self {
            run_id,
            outcome,
            degraded: Vec::new(),
            failed_step: None,
            error: None,
            steps: Vec::new(),
            source_bytes: 0,
            stored_bytes: 0,
            components: Vec::new(),
            warning_counts: WarningCounts::default(),
            warnings: Vec::new(),
            ended,
            supersedes: Vec::new(),
        }
    }
}

/// A run, running or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// What started it.
    pub trigger: RunTrigger,
    /// The scheduled moment it answers.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// Process that executes or executed it.
    pub pid: Option<u32>,
    /// Boot the pid belongs to.
    pub boot_id: Option<String>,
    /// Its start.
    pub started: DateTime<Utc>,
    /// The step it is in, or was in when it ended.
    pub step: Option<Step>,
    /// Since when.
    pub step_since: Option<DateTime<Utc>>,
    /// How far it is, 0 to 1, where that can be told.
    pub progress: Option<f64>,
    /// Its primary target, once the final path is decided.
    pub target: Option<TargetName>,
    /// Folder of the backup, relative to the target. Known before the folder is published.
    pub location: Option<String>,
    /// Staging folder, relative to the target.
    pub staging: Option<String>,
    /// How it ended; none while it runs.
    pub outcome: Option<Outcome>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// What failed beside the outcome, a sentence each.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// The step that failed.
    pub failed_step: Option<Step>,
    /// The chain of errors, for people.
    pub error: Option<String>,
    /// Time of each step, in order.
    #[serde(default)]
    pub steps: Vec<StepTime>,
    /// Bytes read from all sources.
    pub source_bytes: u64,
    /// Bytes stored at the primary target.
    pub stored_bytes: u64,
    /// What was stored for each component.
    #[serde(default)]
    pub components: Vec<ComponentSummary>,
    /// Warnings of all components.
    #[serde(default)]
    pub warning_counts: WarningCounts,
    /// The first warnings. Empty in a [`super::Snapshot`], which others may read: these are paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<FileWarning>,
}

impl Run {
    /// True while it runs, or died without anybody having noticed.
    pub fn is_running(&self) -> bool {
        self.outcome.is_none()
    }

    /// True when it ended with `success` or `warning`.
    pub fn is_good(&self) -> bool {
        self.outcome.is_some_and(Outcome::is_good)
    }

    /// From start to end; never negative, also when the clock was set back between.
    pub fn duration(&self) -> Option<std::time::Duration> {
        self.ended.map(|ended| (ended - self.started).to_std().unwrap_or_default())
    }

    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run_id: get_word(row, "run_id")?,
            job: get_word(row, "job")?,
            trigger: get_word(row, "started_by")?,
            scheduled_for: opt_time(row, "scheduled_for")?,
            pid: row.get("pid")?,
            boot_id: row.get("boot_id")?,
            started: time(row, "started")?,
            step: opt_word(row, "step")?,
            step_since: opt_time(row, "step_since")?,
            progress: row.get("progress")?,
            target: opt_word(row, "target")?,
            location: row.get("location")?,
            staging: row.get("staging")?,
            outcome: opt_word(row, "outcome")?,
            ended: opt_time(row, "ended")?,
            degraded: get_json(row, "degraded")?,
            failed_step: opt_word(row, "failed_step")?,
            error: row.get("error")?,
            steps: get_json(row, "steps")?,
            source_bytes: uint(row, "source_bytes")?,
            stored_bytes: uint(row, "stored_bytes")?,
            components: get_json(row, "components")?,
            warning_counts: get_json(row, "warning_counts")?,
            warnings: get_json(row, "warnings")?,
        })
    }
}

/// One line of a job's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunBrief {
    /// The run.
    pub run_id: RunId,
    /// Its start.
    pub started: DateTime<Utc>,
    /// Its end.
    pub ended: DateTime<Utc>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether something failed beside the outcome.
    pub degraded: bool,
    /// Milliseconds from start to end.
    pub duration_ms: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Warnings.
    pub warnings: u64,
}

/// What a component usually holds: medians over the latest good runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Bytes of content.
    pub source_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// How many runs it is the median of, at most 7.
    pub runs: u64,
}

/// How many runs ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounts {
    /// Everything stored.
    pub success: u64,
    /// Good, with warnings.
    pub warning: u64,
    /// Something unreadable.
    pub partial: u64,
    /// No backup.
    pub failure: u64,
    /// Ended from outside.
    pub interrupted: u64,
}

pub(super) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    match values.len() {
        0 => 0,
        n if n % 2 == 1 => values[n / 2],
        // Rounded down; the sum of two halves cannot overflow.
        n => values[n / 2 - 1] / 2 + values[n / 2] / 2 + (values[n / 2 - 1] % 2 + values[n / 2] % 2) / 2,
    }
}

/// The baselines of every component of a job. A component counts in those of the latest good runs that
/// have it.
pub(super) fn baselines(
    tx: &Transaction<'_>,
    job: &JobName,
    since: Option<DateTime<Utc>>,
    exclude: Option<&RunId>,
) -> rusqlite::Result<std::collections::BTreeMap<ComponentName, Baseline>> {
    let runs: Vec<Vec<ComponentSummary>> = tx
        .prepare_cached(
            "SELECT components FROM runs
             WHERE job = ?1 AND outcome IN ('success', 'warning') AND started >= ?2 AND run_id <> ?3
             ORDER BY seq DESC LIMIT ?4",
        )?
        .query_map(
            params![
                job.as_str(),
                opt_ms(since).unwrap_or(i64::MIN),
                exclude.map_or("", |id| id.as_str()),
                BASELINE_RUNS as i64
            ],
            |row| get_json(row, "components"),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let mut values = std::collections::BTreeMap::<ComponentName, (Vec<u64>, Vec<u64>)>::new();
    for component in runs.into_iter().flatten() {
        let (bytes, entries) = values.entry(component.name).or_default();
        bytes.push(component.source_bytes);
        entries.push(component.entries);
    }
    Ok(values
        .into_iter()
        .map(|(name, (bytes, entries))| {
            let runs = bytes.len() as u64;
            (name, Baseline { source_bytes: median(bytes), entries: median(entries), runs })
        })
        .collect())
}

pub(super) fn last_run(tx: &Transaction<'_>, job: &JobName) -> rusqlite::Result<Option<Run>> {
    tx.prepare_cached("SELECT * FROM runs WHERE job = ?1 AND outcome IS NOT NULL ORDER BY seq DESC LIMIT 1")?
        .query_row([job.as_str()], Run::from_row)
        .optional()
}

pub(super) fn last_success(tx: &Transaction<'_>, job: &JobName) -> rusqlite::Result<Option<Run>> {
    tx.prepare_cached(
        "SELECT * FROM runs WHERE job = ?1 AND outcome IN ('success', 'warning') ORDER BY seq DESC LIMIT 1",
    )?
    .query_row([job.as_str()], Run::from_row)
    .optional()
}

/// Running rows, newest first, of one job or of all.
pub(super) fn running(tx: &Transaction<'_>, job: Option<&JobName>) -> rusqlite::Result<Vec<Run>> {
    tx.prepare_cached(
        "SELECT * FROM runs INDEXED BY runs_running
         WHERE outcome IS NULL AND (?1 IS NULL OR job = ?1) ORDER BY seq DESC",
    )?
    .query_map([job.map(JobName::as_str)], Run::from_row)?
    .collect()
}

pub(super) fn history(tx: &Transaction<'_>, job: &JobName, limit: usize) -> rusqlite::Result<Vec<RunBrief>> {
    tx.prepare_cached(
        "SELECT run_id, started, ended, outcome, degraded <> '[]', stored_bytes, warnings_total
         FROM runs WHERE job = ?1 AND outcome IS NOT NULL ORDER BY seq DESC LIMIT ?2",
    )?
    .query_map(params![job.as_str(), int(limit as u64)], |row| {
        // By number, not by name: this is the one query a snapshot reads thousands of rows of.
        let (started, ended) = (from_ms(row.get(1)?)?, from_ms(row.get(2)?)?);
        let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        Ok(RunBrief {
            run_id: word(text(0)?)?,
            started,
            ended,
            outcome: word(text(3)?)?,
            degraded: row.get(4)?,
            duration_ms: u64::try_from((ended - started).num_milliseconds()).unwrap_or(0),
            stored_bytes: row.get::<_, i64>(5)?.unsigned_abs(),
            warnings: row.get::<_, i64>(6)?.unsigned_abs(),
        })
    })?
    .collect()
}

impl State {
    /// Records that a run has its locks and begins.
    pub fn begin_run(&self, run: &NewRun) -> Result<(), StateError> {
        self.write(&format!("record the start of run {}", run.run_id), |tx| {
            ensure_job(tx, &run.job, run.started)?;
            tx.execute(
                "INSERT INTO runs (run_id, job, started_by, scheduled_for, pid, boot_id, started)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    run.run_id.as_str(),
                    run.job.as_str(),
                    run.trigger.as_str(),
                    opt_ms(run.scheduled_for),
                    run.pid,
                    run.boot_id,
                    ms(run.started)
                ],
            )?;
            run.scheduled_for.map_or(Ok(()), |occurrence| set_occurrence(tx, &run.job, occurrence))
        })
    }

    /// Records the step a run is in.
    pub fn set_step(&self, run_id: &RunId, step: Step, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("record step {step} of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET step = ?2, step_since = ?3 WHERE run_id = ?1 AND outcome IS NULL",
                params![run_id.as_str(), step.as_str(), ms(now)],
            )?;
            Ok(())
        })
    }

    /// Records how far a run is, 0 to 1. A commit with fsync each: call it every few seconds at most.
    pub fn set_progress(&self, run_id: &RunId, ratio: f64) -> Result<(), StateError> {
        let ratio = if ratio.is_finite() { ratio.clamp(0.0, 1.0) } else { 0.0 };
        self.write(&format!("record the progress of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET progress = ?2 WHERE run_id = ?1 AND outcome IS NULL",
                params![run_id.as_str(), ratio],
            )?;
            Ok(())
        })
    }

    /// Records where the backup is being staged and where it will stand, both relative to the target's
    /// folder. To be called before the rename, so that a crash right after it leaves a folder that can
    /// be found and adopted.
    pub fn set_location(
        &self,
        run_id: &RunId,
        target: &TargetName,
        location: &str,
        staging: &str,
    ) -> Result<(), StateError> {
        let changed = self.write(&format!("record the folder of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET target = ?2, location = ?3, staging = ?4 WHERE run_id = ?1",
                params![run_id.as_str(), target.as_str(), location, staging],
            )
        })?;
        // Without this record a crash would lose the backup, so a row that is not there is an error.
        if changed == 0 { Err(StateError::UnknownRun { run_id: run_id.clone() }) } else { Ok(()) }
    }

    /// Ends a run in one transaction: the row, counters, the streak of failures, its copies, and the
    /// messages about it. Also used to adopt a run that died after it had published.
    ///
    /// False, and nothing written, when the run had ended before.
    pub fn end_run(
        &self,
        ended: &EndedRun,
        copies: &[NewCopy],
        messages: &[NewMessage],
    ) -> Result<bool, StateError> {
        let done = self.write(&format!("record the end of run {}", ended.run_id), |tx| {
            end_in(tx, ended, copies, messages)
        })?;
        done.ok_or_else(|| StateError::UnknownRun { run_id: ended.run_id.clone() })
    }

    /// Marks a run that died as `interrupted`, with the step it was last seen in, and queues the messages
    /// about it. False, and nothing written, when the run had ended before.
    pub fn interrupt_run(
        &self,
        run_id: &RunId,
        now: DateTime<Utc>,
        reason: &str,
        messages: &[NewMessage],
    ) -> Result<bool, StateError> {
        let mut ended = EndedRun::new(run_id.clone(), Outcome::Interrupted, now);
        ended.error = Some(reason.to_owned());
        ended.failed_step = self.run(run_id)?.and_then(|run| run.step);
        self.end_run(&ended, &[], messages)
    }

    /// Adds a sentence to what failed beside the outcome. One that is there already is not added again.
    pub fn add_degraded(&self, run_id: &RunId, text: &str) -> Result<(), StateError> {
        self.change_degraded(run_id, |list| {
            if !list.iter().any(|t| t == text) {
                list.push(text.to_owned());
            }
        })
    }

    /// Takes sentences away from what failed beside the outcome, once they no longer hold (a copy that
    /// came late after all). True when the run is no longer degraded.
    pub fn retain_degraded(&self, run_id: &RunId, keep: impl Fn(&str) -> bool) -> Result<bool, StateError> {
        self.change_degraded(run_id, |list| list.retain(|text| keep(text)))?;
        Ok(self.run(run_id)?.is_none_or(|run| run.degraded.is_empty()))
    }

    fn change_degraded(
        &self,
        run_id: &RunId,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), StateError> {
        let done = self.write(&format!("record what degraded run {run_id}"), |tx| {
            let before: Option<Vec<String>> = tx
                .query_row("SELECT degraded FROM runs WHERE run_id = ?1", [run_id.as_str()], |row| {
                    get_json(row, "degraded")
                })
                .optional()?;
            let Some(mut list) = before else { return Ok(false) };
            change(&mut list);
            tx.execute(
                "UPDATE runs SET degraded = ?2 WHERE run_id = ?1",
                params![run_id.as_str(), json(&list)?],
            )?;
            Ok(true)
        })?;
        if done { Ok(()) } else { Err(StateError::UnknownRun { run_id: run_id.clone() }) }
    }

    /// One run.
    pub fn run(&self, run_id: &RunId) -> Result<Option<Run>, StateError> {
        self.read(&format!("read run {run_id}"), |tx| {
            tx.prepare_cached("SELECT * FROM runs WHERE run_id = ?1")?
                .query_row([run_id.as_str()], Run::from_row)
                .optional()
        })
    }

    /// Runs whose id begins with `text`, or whose six random digits are `text`, newest first.
    pub fn find_runs(&self, text: &str) -> Result<Vec<Run>, StateError> {
        self.read("look for a run", |tx| {
            tx.prepare(
                "SELECT * FROM runs
                 WHERE substr(run_id, 1, length(?1)) = ?1 OR substr(run_id, 18) = ?1 ORDER BY seq DESC",
            )?
            .query_map([text], Run::from_row)?
            .collect()
        })
    }

    /// The latest `limit` runs, newest first, of one job or of all.
    pub fn runs(&self, job: Option<&JobName>, limit: usize) -> Result<Vec<Run>, StateError> {
        self.read("read the history", |tx| match job {
            Some(job) => tx
                .prepare_cached("SELECT * FROM runs WHERE job = ?1 ORDER BY seq DESC LIMIT ?2")?
                .query_map(params![job.as_str(), int(limit as u64)], Run::from_row)?
                .collect(),
            None => tx
                .prepare_cached("SELECT * FROM runs ORDER BY seq DESC LIMIT ?1")?
                .query_map([int(limit as u64)], Run::from_row)?
                .collect(),
        })
    }

    /// The last run of a job that ended, however.
    pub fn last_run(&self, job: &JobName) -> Result<Option<Run>, StateError> {
        self.read(&format!("read the last run of job {job}"), |tx| last_run(tx, job))
    }

    /// The last good run of a job.
    pub fn last_success(&self, job: &JobName) -> Result<Option<Run>, StateError> {
        self.read(&format!("read the last good run of job {job}"), |tx| last_success(tx, job))
    }

    /// The `running` row of a job. It may belong to a process that died.
    pub fn running(&self, job: &JobName) -> Result<Option<Run>, StateError> {
        self.read(&format!("look for a run of job {job}"), |tx| {
            Ok(running(tx, Some(job))?.into_iter().next())
        })
    }

    /// All `running` rows, newest first.
    pub fn all_running(&self) -> Result<Vec<Run>, StateError> {
        self.read("look for runs", |tx| running(tx, None))
    }

    /// What a component usually holds: the median of the 7 latest good runs that started after the last
    /// acknowledgement, `exclude` (the run being judged) left out. None when there are none.
    pub fn baseline(
        &self,
        job: &JobName,
        component: &ComponentName,
        exclude: Option<&RunId>,
    ) -> Result<Option<Baseline>, StateError> {
        self.read(&format!("read the baseline of job {job}"), |tx| {
            let since = one_job(tx, job)?.and_then(|row| row.baseline_ack_at);
            Ok(baselines(tx, job, since, exclude)?.remove(component))
        })
    }

    /// End of the first of the running streak of failures, partials and interruptions.
    pub fn failing_since(&self, job: &JobName) -> Result<Option<DateTime<Utc>>, StateError> {
        Ok(self.job(job)?.and_then(|row| row.failing_since))
    }

    /// How many runs of a job that started at `since` or later ended how.
    pub fn outcome_counts(&self, job: &JobName, since: DateTime<Utc>) -> Result<OutcomeCounts, StateError> {
        self.read(&format!("count the runs of job {job}"), |tx| {
            let mut counts = OutcomeCounts::default();
            let mut statement = tx.prepare_cached(
                "SELECT outcome, count(*) AS n FROM runs
                 WHERE job = ?1 AND outcome IS NOT NULL AND started >= ?2 GROUP BY outcome",
            )?;
            let mut rows = statement.query(params![job.as_str(), ms(since)])?;
            while let Some(row) = rows.next()? {
                let slot = match get_word::<Outcome>(row, "outcome")? {
                    Outcome::Success => &mut counts.success,
                    Outcome::Warning => &mut counts.warning,
                    Outcome::Partial => &mut counts.partial,
                    Outcome::Failure => &mut counts.failure,
                    Outcome::Interrupted => &mut counts.interrupted,
                };
                *slot = uint(row, "n")?;
            }
            Ok(counts)
        })
    }

    /// Keeps the log of a run, replacing what was kept before.
    pub fn set_run_log(&self, run_id: &RunId, text: &str, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("keep the log of run {run_id}"), |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO run_logs (run_id, written_at, text) VALUES (?1, ?2, ?3)",
                params![run_id.as_str(), ms(now), text],
            )?;
            Ok(())
        })
    }

    /// The log of a run, while it is kept.
    pub fn run_log(&self, run_id: &RunId) -> Result<Option<String>, StateError> {
        self.read(&format!("read the log of run {run_id}"), |tx| {
            tx.query_row("SELECT text FROM run_logs WHERE run_id = ?1", [run_id.as_str()], |row| row.get(0))
                .optional()
        })
    }

    /// Removes logs older than 90 days; returns how many.
    pub fn expire_logs(&self, now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("remove old logs", |tx| {
            tx.execute("DELETE FROM run_logs WHERE written_at < ?1", [ms(now - Duration::days(LOG_DAYS))])
        })
    }
}

/// None for an unknown run, `Some(false)` for one that had ended.
fn end_in(
    tx: &Transaction<'_>,
    ended: &EndedRun,
    copies: &[NewCopy],
    messages: &[NewMessage],
) -> rusqlite::Result<Option<bool>> {
    let run = tx
        .query_row("SELECT * FROM runs WHERE run_id = ?1", [ended.run_id.as_str()], Run::from_row)
        .optional()?;
    let Some(run) = run else { return Ok(None) };
    if run.outcome.is_some() {
        return Ok(Some(false));
    }
    let kept = &ended.warnings[..ended.warnings.len().min(WARNINGS_KEPT)];
    tx.execute(
        "UPDATE runs SET outcome = ?2, ended = ?3, degraded = ?4, failed_step = ?5, error = ?6, steps = ?7,
             source_bytes = ?8, stored_bytes = ?9, components = ?10, warning_counts = ?11, warnings = ?12,
             warnings_total = ?13, progress = NULL
         WHERE run_id = ?1",
        params![
            ended.run_id.as_str(),
            ended.outcome.as_str(),
            ms(ended.ended),
            json(&ended.degraded)?,
            ended.failed_step.map(Step::as_str),
            ended.error,
            json(&ended.steps)?,
            int(ended.source_bytes),
            int(ended.stored_bytes),
            json(&ended.components)?,
            json(&ended.warning_counts)?,
            json(kept)?,
            int(ended.warning_counts.total()),
        ],
    )?;
    count(tx, &run.job, ended)?;
    let streak = match ended.outcome.is_good() {
        true => "UPDATE jobs SET failing_since = NULL WHERE job = ?1 AND ?2 IS NOT NULL",
        false => "UPDATE jobs SET failing_since = coalesce(failing_since, ?2) WHERE job = ?1",
    };
    tx.execute(streak, params![run.job.as_str(), ms(ended.ended)])?;
    for copy in copies {
        insert_copy(tx, &run.job, &run.run_id, run.started, ended.outcome, copy, ended.ended)?;
    }
    mark_superseded(tx, &ended.supersedes, ended.ended)?;
    insert_messages(tx, messages, ended.ended)?;
    Ok(Some(true))
}

fn count(tx: &Transaction<'_>, job: &JobName, ended: &EndedRun) -> rusqlite::Result<()> {
    bump(tx, names::RUNS, job.as_str(), "", 1)?;
    let disjoint = match ended.outcome {
        Outcome::Success | Outcome::Warning => None,
        Outcome::Partial => Some(names::RUNS_PARTIAL),
        Outcome::Failure => Some(names::RUNS_FAILED),
        Outcome::Interrupted => Some(names::RUNS_INTERRUPTED),
    };
    if let Some(name) = disjoint {
        bump(tx, name, job.as_str(), "", 1)?;
    }
    for kind in WarningKind::COUNTED {
        bump(tx, names::WARNINGS, job.as_str(), kind.as_str(), ended.warning_counts.get(kind))?;
    }
    Ok(())
}
