//! Runs as they are remembered: found, listed, counted, and what they usually hold.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::jobs::one_job;
use super::run::{ComponentSummary, Run};
use super::sql::{from_ms, get_json, get_word, int, ms, opt_ms, time, uint, word};
use super::{State, StateError};
use crate::model::{ComponentName, JobName, Outcome, RunId};

/// How many good runs the baseline is the median of.
const BASELINE_RUNS: usize = 7;

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
) -> rusqlite::Result<BTreeMap<ComponentName, Baseline>> {
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
    let mut values = BTreeMap::<ComponentName, (Vec<u64>, Vec<u64>)>::new();
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

/// How much of a run is read: [`Run::from_row`] or [`Run::without_paths`].
type Reading = fn(&Row<'_>) -> rusqlite::Result<Run>;

pub(super) fn last_run(tx: &Transaction<'_>, job: &JobName, read: Reading) -> rusqlite::Result<Option<Run>> {
    tx.prepare_cached("SELECT * FROM runs WHERE job = ?1 AND outcome IS NOT NULL ORDER BY seq DESC LIMIT 1")?
        .query_row([job.as_str()], read)
        .optional()
}

pub(super) fn last_success(
    tx: &Transaction<'_>,
    job: &JobName,
    read: Reading,
) -> rusqlite::Result<Option<Run>> {
    tx.prepare_cached(
        "SELECT * FROM runs WHERE job = ?1 AND outcome IN ('success', 'warning') ORDER BY seq DESC LIMIT 1",
    )?
    .query_row([job.as_str()], read)
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

    /// When the latest `limit` runs of all jobs started, newest first.
    pub fn run_starts(&self, limit: usize) -> Result<Vec<DateTime<Utc>>, StateError> {
        self.read("read when runs started", |tx| {
            tx.prepare_cached("SELECT started FROM runs ORDER BY seq DESC LIMIT ?1")?
                .query_map([int(limit as u64)], |row| time(row, "started"))?
                .collect()
        })
    }

    /// The last run of a job that ended, however.
    pub fn last_run(&self, job: &JobName) -> Result<Option<Run>, StateError> {
        self.read(&format!("read the last run of job {job}"), |tx| last_run(tx, job, Run::from_row))
    }

    /// The last good run of a job.
    pub fn last_success(&self, job: &JobName) -> Result<Option<Run>, StateError> {
        self.read(&format!("read the last good run of job {job}"), |tx| last_success(tx, job, Run::from_row))
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

    /// What every component of a job usually holds, as [`State::baseline`] says for one.
    pub fn baselines(
        &self,
        job: &JobName,
        exclude: Option<&RunId>,
    ) -> Result<BTreeMap<ComponentName, Baseline>, StateError> {
        self.read(&format!("read the baselines of job {job}"), |tx| {
            let since = one_job(tx, job)?.and_then(|row| row.baseline_ack_at);
            baselines(tx, job, since, exclude)
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
}
