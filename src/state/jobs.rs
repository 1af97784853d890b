//! What is known of a job beside its runs.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::sql::{get_word, ms, opt_ms, opt_time, time};
use super::{State, StateError};
use crate::model::JobName;

/// What is known of a job beside its runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// The job.
    pub job: JobName,
    /// When the state first heard of it.
    pub first_seen: DateTime<Utc>,
    /// The schedule it had last.
    pub schedule: Option<String>,
    /// When the text of the schedule last changed; none while it has its first one.
    pub schedule_changed_at: Option<DateTime<Utc>>,
    /// When it was due by the schedule before that, if that time had passed unmet: an edit clears no
    /// overdue.
    #[serde(default)]
    pub due_before: Option<DateTime<Utc>>,
    /// Not to be started by the scheduler before this.
    pub paused_until: Option<DateTime<Utc>>,
    /// When a person accepted the job's present size; the baseline counts only runs from there on.
    pub baseline_ack_at: Option<DateTime<Utc>>,
    /// The latest scheduled occurrence that was started or deliberately passed over.
    pub last_occurrence: Option<DateTime<Utc>>,
    /// End of the first of the running streak of failures, partials and interruptions; none while good.
    pub failing_since: Option<DateTime<Utc>>,
    /// When a server last accepted a failure mail or a reminder.
    pub last_failure_mail: Option<DateTime<Utc>>,
    /// When a run last found the lock held.
    pub last_contention: Option<DateTime<Utc>>,
}

impl JobRow {
    /// A job that the state has just heard of.
    pub fn new(job: JobName, first_seen: DateTime<Utc>) -> Self {
        Self {
            job,
            first_seen,
            schedule: None,
            schedule_changed_at: None,
            due_before: None,
            paused_until: None,
            baseline_ack_at: None,
            last_occurrence: None,
            failing_since: None,
            last_failure_mail: None,
            last_contention: None,
        }
    }

    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            job: get_word(row, "job")?,
            first_seen: time(row, "first_seen")?,
            schedule: row.get("schedule")?,
            schedule_changed_at: opt_time(row, "schedule_changed_at")?,
            due_before: opt_time(row, "due_before")?,
            paused_until: opt_time(row, "paused_until")?,
            baseline_ack_at: opt_time(row, "baseline_ack_at")?,
            last_occurrence: opt_time(row, "last_occurrence")?,
            failing_since: opt_time(row, "failing_since")?,
            last_failure_mail: opt_time(row, "last_failure_mail")?,
            last_contention: opt_time(row, "last_contention")?,
        })
    }
}

pub(super) fn ensure_job(tx: &Transaction<'_>, job: &JobName, now: DateTime<Utc>) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO jobs (job, first_seen) VALUES (?1, ?2)")?
        .execute(params![job.as_str(), ms(now)])?;
    Ok(())
}

pub(super) fn all_jobs(tx: &Transaction<'_>) -> rusqlite::Result<Vec<JobRow>> {
    tx.prepare_cached("SELECT * FROM jobs ORDER BY job")?.query_map([], JobRow::from_row)?.collect()
}

pub(super) fn one_job(tx: &Transaction<'_>, job: &JobName) -> rusqlite::Result<Option<JobRow>> {
    tx.prepare_cached("SELECT * FROM jobs WHERE job = ?1")?
        .query_row([job.as_str()], JobRow::from_row)
        .optional()
}

impl State {
    /// Records that the configuration has this job, and with which schedule. The first call sets
    /// `first_seen`; a call with another schedule text than before sets `schedule_changed_at`. Writes
    /// only when something is new, so it may be called at every start.
    pub fn touch_job(
        &self,
        job: &JobName,
        schedule: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        if self.job(job)?.is_some_and(|row| row.schedule.as_deref() == schedule) {
            return Ok(());
        }
        self.write(&format!("record job {job}"), |tx| {
            let before = one_job(tx, job)?;
            ensure_job(tx, job, now)?;
            // A known job that gets its first schedule did change: it is due from now on, not from when it
            // was first seen.
            let changed = before.is_some_and(|row| row.schedule.as_deref() != schedule);
            tx.execute(
                "UPDATE jobs SET schedule = ?2, schedule_changed_at = coalesce(?3, schedule_changed_at) WHERE job = ?1",
                params![job.as_str(), schedule, changed.then(|| ms(now))],
            )?;
            Ok(())
        })
    }

    /// Records, before the schedule of a job is changed, a due time that passed unmet.
    pub fn keep_due(&self, job: &JobName, due: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("record when job {job} was due"), |tx| {
            ensure_job(tx, job, now)?;
            tx.execute("UPDATE jobs SET due_before = ?2 WHERE job = ?1", params![job.as_str(), ms(due)])?;
            Ok(())
        })
    }

    /// What is known of one job.
    pub fn job(&self, job: &JobName) -> Result<Option<JobRow>, StateError> {
        self.read(&format!("read job {job}"), |tx| one_job(tx, job))
    }

    /// What is known of every job ever seen, by name, also of those the configuration no longer has.
    pub fn jobs(&self) -> Result<Vec<JobRow>, StateError> {
        self.read("read the jobs", all_jobs)
    }

    /// Pauses the scheduler for a job, or (with none) lets it go on.
    pub fn set_paused(
        &self,
        job: &JobName,
        until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.write(&format!("pause job {job}"), |tx| {
            ensure_job(tx, job, now)?;
            tx.execute(
                "UPDATE jobs SET paused_until = ?2 WHERE job = ?1",
                params![job.as_str(), opt_ms(until)],
            )?;
            Ok(())
        })
    }

    /// Accepts the job's present size: the baseline counts only runs that start from now on.
    pub fn ack_baseline(&self, job: &JobName, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("acknowledge the size of job {job}"), |tx| {
            ensure_job(tx, job, now)?;
            tx.execute(
                "UPDATE jobs SET baseline_ack_at = ?2 WHERE job = ?1",
                params![job.as_str(), ms(now)],
            )?;
            Ok(())
        })
    }

    /// The latest scheduled occurrence for which a run was started, or that was deliberately passed over.
    pub fn last_occurrence(&self, job: &JobName) -> Result<Option<DateTime<Utc>>, StateError> {
        Ok(self.job(job)?.and_then(|row| row.last_occurrence))
    }

    /// Records that a scheduled occurrence needs no (further) start, so that a restart does not fire it
    /// again. [`State::begin_run`] does this by itself; this is for occurrences that met a held lock, a
    /// pause, or were collapsed into a catch-up. Never goes back.
    pub fn occurrence_done(
        &self,
        job: &JobName,
        occurrence: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.write(&format!("record a scheduled start of job {job}"), |tx| {
            ensure_job(tx, job, now)?;
            set_occurrence(tx, job, occurrence)
        })
    }
}

pub(super) fn set_occurrence(
    tx: &Transaction<'_>,
    job: &JobName,
    occurrence: DateTime<Utc>,
) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE jobs SET last_occurrence = max(coalesce(last_occurrence, ?2), ?2) WHERE job = ?1",
        params![job.as_str(), ms(occurrence)],
    )?;
    Ok(())
}
