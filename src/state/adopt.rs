//! Backups found at a target become known again: their copies, and the runs that made them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Transaction, params};

use super::copies::CopyStatus;
use super::jobs::ensure_job;
use super::run::{ComponentSummary, RunTrigger};
use super::sql::{get_word, int, json, ms, opt_ms, time};
use super::{State, StateError};
use crate::model::{JobName, Outcome, RunId, TargetName, WarningCounts};

/// A backup found at a target.
#[derive(Debug, Clone)]
pub struct FoundBackup {
    /// The run that made it.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// The scheduled moment it answers.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// End of the capture.
    pub ended: DateTime<Utc>,
    /// How the run ended.
    pub outcome: Outcome,
    /// Folder relative to the target.
    pub location: String,
    /// True when the target is the job's first.
    pub primary: bool,
    /// Bytes read from all sources.
    pub source_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// What is stored for each component.
    pub components: Vec<ComponentSummary>,
    /// Warnings of all components.
    pub warning_counts: WarningCounts,
}

impl State {
    /// Records backups found at a target that are not known there, or were recorded as removed; in one
    /// transaction. They are `complete` until they are read back. A run that is not known gets a row of its
    /// own, which no counter counts, in the order of time among the others. Gives the runs whose backups
    /// were new.
    pub fn adopt(
        &self,
        target: &TargetName,
        found: &[FoundBackup],
        now: DateTime<Utc>,
    ) -> Result<Vec<RunId>, StateError> {
        self.write(&format!("record the backups found at {target}"), |tx| {
            let mut order: Vec<&FoundBackup> = found.iter().collect();
            order.sort_by(|a, b| (a.started, &a.run_id).cmp(&(b.started, &b.run_id)));
            let (mut adopted, mut new_runs) = (Vec::new(), HashSet::new());
            for backup in order {
                if !adopt_copy(tx, target, backup, now)? {
                    continue;
                }
                adopted.push(backup.run_id.clone());
                ensure_job(tx, &backup.job, backup.started)?;
                if adopt_run(tx, target, backup)? {
                    new_runs.insert(backup.run_id.clone());
                }
            }
            sort_in(tx, &new_runs)?;
            Ok(adopted)
        })
    }
}

/// False when the backup is known at the target already. One whose removal did not end is known, and going.
fn adopt_copy(
    tx: &Transaction<'_>,
    target: &TargetName,
    backup: &FoundBackup,
    now: DateTime<Utc>,
) -> rusqlite::Result<bool> {
    let changed = tx
        .prepare_cached(
            "INSERT INTO copies (run_id, target, job, is_primary, status, location, bytes, outcome, started,
                 queued_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (run_id, target) DO UPDATE SET status = excluded.status, location = excluded.location,
                 bytes = excluded.bytes, created_at = excluded.created_at, expired_at = NULL
             WHERE status = 'expired' AND expired_at IS NOT NULL",
        )?
        .execute(params![
            backup.run_id.as_str(),
            target.as_str(),
            backup.job.as_str(),
            backup.primary,
            CopyStatus::Complete.as_str(),
            backup.location,
            int(backup.stored_bytes),
            backup.outcome.as_str(),
            ms(backup.started),
            ms(now),
            ms(backup.ended),
        ])?;
    if changed == 0 {
        return Ok(false);
    }
    // The backup is as fresh as its run, not as this look at it.
    tx.prepare_cached(
        "INSERT INTO job_targets (job, target, last_copy_success) VALUES (?1, ?2, ?3)
         ON CONFLICT (job, target) DO UPDATE SET
             last_copy_success = max(coalesce(last_copy_success, 0), excluded.last_copy_success)",
    )?
    .execute(params![backup.job.as_str(), target.as_str(), ms(backup.ended)])?;
    Ok(true)
}

/// False when the run is known. One that was found at a further target is from now on the primary's.
fn adopt_run(tx: &Transaction<'_>, target: &TargetName, backup: &FoundBackup) -> rusqlite::Result<bool> {
    let changed = tx
        .prepare_cached(
            "INSERT INTO runs (run_id, job, started_by, scheduled_for, started, target, location,
                 outcome, ended, source_bytes, stored_bytes, components, warning_counts, warnings_total)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
             ON CONFLICT (run_id) DO UPDATE SET target = excluded.target, location = excluded.location
             WHERE ?15 AND started_by = excluded.started_by",
        )?
        .execute(params![
            backup.run_id.as_str(),
            backup.job.as_str(),
            RunTrigger::Found.as_str(),
            opt_ms(backup.scheduled_for),
            ms(backup.started),
            target.as_str(),
            backup.location,
            backup.outcome.as_str(),
            ms(backup.ended),
            int(backup.source_bytes),
            int(backup.stored_bytes),
            json(&backup.components)?,
            json(&backup.warning_counts)?,
            int(backup.warning_counts.total()),
            backup.primary,
        ])?;
    Ok(changed == 1)
}

/// Gives the new rows their places: each behind the last of the others that began before it. The order of the
/// others stays, whatever their clocks said.
fn sort_in(tx: &Transaction<'_>, new: &HashSet<RunId>) -> rusqlite::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let all: Vec<(i64, RunId, DateTime<Utc>)> = tx
        .prepare("SELECT seq, run_id, started FROM runs ORDER BY seq")?
        .query_map([], |row| Ok((row.get("seq")?, get_word(row, "run_id")?, time(row, "started")?)))?
        .collect::<rusqlite::Result<_>>()?;
    let (found, mut order): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, id, _)| new.contains(id));
    for run in found {
        let place = order.iter().rposition(|other| other.2 <= run.2).map_or(0, |at| at + 1);
        order.insert(place, run);
    }
    // In two passes: a number may be another row's until that has moved.
    let mut moved = tx.prepare("UPDATE runs SET seq = ?2 WHERE seq = ?1")?;
    let first = order.iter().map(|run| run.0).min().unwrap_or(1);
    let last = order.iter().map(|run| run.0).max().unwrap_or(1);
    for (old, _, _) in &order {
        moved.execute([*old, old + (last - first) + 1])?;
    }
    for (place, (old, _, _)) in order.iter().enumerate() {
        moved.execute([old + (last - first) + 1, first + place as i64])?;
    }
    Ok(())
}

impl State {
    /// Whether this installation has made a run of a job itself.
    pub fn has_own_runs(&self, job: &JobName) -> Result<bool, StateError> {
        self.read(&format!("look for runs of job {job}"), |tx| {
            tx.query_row(
                "SELECT 1 FROM runs WHERE job = ?1 AND started_by <> ?2 LIMIT 1",
                [job.as_str(), RunTrigger::Found.as_str()],
                |_| Ok(()),
            )
            .optional()
            .map(|found| found.is_some())
        })
    }
}
