//! Counters that survive restarts, and lock contention.

use chrono::{DateTime, Duration, Utc};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::jobs::ensure_job;
use super::sql::{int, ms, opt_time, uint};
use super::{State, StateError};
use crate::model::JobName;

/// Names of the counters kept here: those of the metrics they become.
pub mod names {
    /// Ended runs, by job.
    pub const RUNS: &str = "backup_runs_total";
    /// Runs that ended as failure, by job.
    pub const RUNS_FAILED: &str = "backup_runs_failed_total";
    /// Runs that ended as partial, by job.
    pub const RUNS_PARTIAL: &str = "backup_runs_partial_total";
    /// Runs that were interrupted, by job.
    pub const RUNS_INTERRUPTED: &str = "backup_runs_interrupted_total";
    /// File warnings, by job; the label is the kind.
    pub const WARNINGS: &str = "backup_warnings_total";
    /// Times a run found its lock held, by job.
    pub const CONTENTION: &str = "backup_lock_contention_total";
    /// Copies that failed, by job; the label is the target.
    pub const COPY_FAILURES: &str = "backup_copy_failures_total";
    /// Messages accepted; the label is the channel.
    pub const NOTIFICATIONS: &str = "backup_notifications_total";
    /// Attempts to deliver a message that failed; the label is the channel.
    pub const NOTIFICATION_FAILURES: &str = "backup_notification_failures_total";
    /// Messages refused for good; the label is the channel.
    pub const NOTIFICATIONS_REFUSED: &str = "backup_notifications_refused_total";
}

/// How long single contentions are remembered.
const CONTENTION_DAYS: i64 = 7;

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name, one of [`names`].
    pub name: String,
    /// The job, or "".
    pub job: String,
    /// A further label (kind, target or channel), or "".
    pub label: String,
    /// Its value.
    pub value: u64,
}

/// How often a job's runs found the lock held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contention {
    /// Ever.
    pub total: u64,
    /// In the last 24 hours.
    pub last_24h: u64,
    /// The last time.
    pub last: Option<DateTime<Utc>>,
}

pub(super) fn bump(
    tx: &Transaction<'_>,
    name: &str,
    job: &str,
    label: &str,
    by: u64,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO counters VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name, job, label) DO UPDATE SET value = value + excluded.value",
    )?
    .execute(params![name, job, label, int(by)])?;
    Ok(())
}

pub(super) fn all_counters(tx: &Transaction<'_>) -> rusqlite::Result<Vec<Counter>> {
    tx.prepare_cached("SELECT name, job, label, value FROM counters ORDER BY name, job, label")?
        .query_map([], |row| {
            Ok(Counter {
                name: row.get(0)?,
                job: row.get(1)?,
                label: row.get(2)?,
                value: uint(row, "value")?,
            })
        })?
        .collect()
}

pub(super) fn contention(
    tx: &Transaction<'_>,
    job: &JobName,
    now: DateTime<Utc>,
) -> rusqlite::Result<Contention> {
    tx.prepare_cached(
        "SELECT (SELECT last_contention FROM jobs WHERE job = ?1) AS last,
                (SELECT count(*) FROM contentions WHERE job = ?1 AND at > ?2) AS recent,
                coalesce((SELECT value FROM counters WHERE name = ?3 AND job = ?1 AND label = ''), 0) AS total",
    )?
    .query_row(params![job.as_str(), ms(now - Duration::hours(24)), names::CONTENTION], |row| {
        Ok(Contention { total: uint(row, "total")?, last_24h: uint(row, "recent")?, last: opt_time(row, "last")? })
    })
}

impl State {
    /// Adds to a counter; `by` 0 makes it exist, so that it is exported as 0 from the start.
    pub fn bump(&self, name: &str, job: &str, label: &str, by: u64) -> Result<(), StateError> {
        self.write(&format!("count {name}"), |tx| bump(tx, name, job, label, by))
    }

    /// All counters, by name, job and label.
    pub fn counters(&self) -> Result<Vec<Counter>, StateError> {
        self.read("read the counters", all_counters)
    }

    /// Records that a run of a job found the lock held.
    pub fn record_contention(&self, job: &JobName, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("record that job {job} was locked"), |tx| {
            ensure_job(tx, job, now)?;
            tx.execute(
                "UPDATE jobs SET last_contention = ?2 WHERE job = ?1",
                params![job.as_str(), ms(now)],
            )?;
            tx.execute("INSERT INTO contentions VALUES (?1, ?2)", params![job.as_str(), ms(now)])?;
            tx.execute(
                "DELETE FROM contentions WHERE job = ?1 AND at < ?2",
                params![job.as_str(), ms(now - Duration::days(CONTENTION_DAYS))],
            )?;
            bump(tx, names::CONTENTION, job.as_str(), "", 1)
        })
    }

    /// How often runs of a job found the lock held.
    pub fn contention(&self, job: &JobName, now: DateTime<Utc>) -> Result<Contention, StateError> {
        self.read(&format!("read the lock contention of job {job}"), |tx| contention(tx, job, now))
    }
}
