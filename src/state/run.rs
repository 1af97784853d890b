//! What a run is: before it begins, when it ends, and as it is remembered.

use chrono::{DateTime, Utc};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::sql::{get_json, get_word, opt_time, opt_word, time, uint, words};
use crate::event::Step;
use crate::lock::ProcessIdentity;
use crate::manifest::FileWarning;
use crate::model::{ComponentName, JobName, Outcome, RunId, Sha256, TargetName, WarningCounts};

/// How many file warnings are kept with a run; all of them stand in the backup itself.
pub const WARNINGS_KEPT: usize = 50;

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
        /// Another program, long before: its backup was imported.
        Import = "import",
        /// Nobody here: its backup was found at a target.
        Found = "found",
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
    pub process: ProcessIdentity,
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
    /// SHA-256 over the stored bytes. None for a component that was not stored, and in runs of versions that
    /// did not keep it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
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
    /// Messages not delivered yet that this end makes pointless (see [`super::State::undelivered_failures`]);
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
    #[serde(default)]
    pub process: Option<ProcessIdentity>,
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

fn process(row: &Row<'_>) -> rusqlite::Result<Option<ProcessIdentity>> {
    let (Some(pid), Some(boot_id)) = (row.get("pid")?, row.get("boot_id")?) else { return Ok(None) };
    let start_ticks = row.get::<_, Option<i64>>("start_ticks")?.and_then(|ticks| u64::try_from(ticks).ok());
    Ok(Some(ProcessIdentity { boot_id, pid, start_ticks }))
}

impl Run {
    /// A run that has only just begun, for those who need its row before it ends.
    pub fn begun(run_id: &RunId, job: &JobName, trigger: RunTrigger, started: DateTime<Utc>) -> Self {
        Self {
            run_id: run_id.clone(),
            job: job.clone(),
            trigger,
            scheduled_for: None,
            process: None,
            started,
            step: None,
            step_since: None,
            progress: None,
            target: None,
            location: None,
            staging: None,
            outcome: None,
            ended: None,
            degraded: Vec::new(),
            failed_step: None,
            error: None,
            steps: Vec::new(),
            source_bytes: 0,
            stored_bytes: 0,
            components: Vec::new(),
            warning_counts: WarningCounts::default(),
            warnings: Vec::new(),
        }
    }

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
        Ok(Self { warnings: get_json(row, "warnings")?, ..Self::without_paths(row)? })
    }

    /// A run without its warnings, which are paths: most of what is stored of a run, and not for everybody.
    pub(super) fn without_paths(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run_id: get_word(row, "run_id")?,
            job: get_word(row, "job")?,
            trigger: get_word(row, "started_by")?,
            scheduled_for: opt_time(row, "scheduled_for")?,
            process: process(row)?,
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
            warnings: Vec::new(),
        })
    }
}
