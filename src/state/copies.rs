//! Backups at targets, and the persisted queue of copies still to be made.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::counters::{bump, names};
use super::sql::{get_word, int, ms, opt_ms, opt_time, time, uint, words};
use super::{State, StateError};
use crate::model::{JobName, Outcome, RunId, TargetName};

words! {
    /// How a backup stands at one target.
    CopyStatus {
        /// Still to be made.
        Pending = "pending",
        /// Written, not read back.
        Complete = "complete",
        /// Read back and equal to its digests.
        Verified = "verified",
        /// Read back and different, or missing.
        Corrupt = "corrupt",
        /// Removed by retention.
        Expired = "expired",
    }
}

impl CopyStatus {
    /// True when a complete backup is there.
    pub fn is_kept(self) -> bool {
        matches!(self, CopyStatus::Complete | CopyStatus::Verified)
    }
}

/// A backup at a target, to be recorded with the end of its run.
#[derive(Debug, Clone)]
pub struct NewCopy {
    /// The target.
    pub target: TargetName,
    /// True for the job's first target.
    pub primary: bool,
    /// `Pending` for copies still to be made.
    pub status: CopyStatus,
    /// Folder relative to the target; none for a pending copy whose folder is not decided.
    pub location: Option<String>,
    /// Bytes stored.
    pub bytes: u64,
}

/// A backup at a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// The run that made the backup.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// The target.
    pub target: TargetName,
    /// True for the job's first target at that time.
    pub primary: bool,
    /// How it stands.
    pub status: CopyStatus,
    /// Folder relative to the target.
    pub location: Option<String>,
    /// Bytes stored.
    pub bytes: u64,
    /// Outcome of the run.
    pub outcome: Outcome,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// When the copy was asked for.
    pub queued_at: DateTime<Utc>,
    /// When it was complete.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was last read back.
    pub verified_at: Option<DateTime<Utc>>,
    /// Whether it was equal then.
    pub verify_ok: Option<bool>,
    /// When retention removed it.
    pub expired_at: Option<DateTime<Utc>>,
    /// Attempts that failed.
    pub attempts: u64,
    /// When the next attempt is due; none while pending means: not by itself.
    pub next_attempt: Option<DateTime<Utc>>,
    /// Whether the last failure was one that trying again does not mend.
    pub permanent: bool,
    /// The last failure.
    pub last_error: Option<String>,
    /// Until when somebody works on it.
    pub claimed_until: Option<DateTime<Utc>>,
    /// Who.
    pub claimer: Option<String>,
    /// Kept by a person, whatever retention says.
    #[serde(default)]
    pub pinned: bool,
}

impl Copy {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run_id: get_word(row, "run_id")?,
            job: get_word(row, "job")?,
            target: get_word(row, "target")?,
            primary: row.get("is_primary")?,
            status: get_word(row, "status")?,
            location: row.get("location")?,
            bytes: uint(row, "bytes")?,
            outcome: get_word(row, "outcome")?,
            started: time(row, "started")?,
            queued_at: time(row, "queued_at")?,
            created_at: opt_time(row, "created_at")?,
            verified_at: opt_time(row, "verified_at")?,
            verify_ok: row.get("verify_ok")?,
            expired_at: opt_time(row, "expired_at")?,
            attempts: uint(row, "attempts")?,
            next_attempt: opt_time(row, "next_attempt")?,
            permanent: row.get("permanent")?,
            last_error: row.get("last_error")?,
            claimed_until: opt_time(row, "claimed_until")?,
            claimer: row.get("claimer")?,
            pinned: row.get("pinned")?,
        })
    }
}

/// Why a copy could not be made.
#[derive(Debug, Clone)]
pub struct CopyFailure {
    /// The chain of errors, for people.
    pub error: String,
    /// When to try again; none: not by itself (see [`State::retry_copies`]). It stays pending either way.
    pub next_attempt: Option<DateTime<Utc>>,
    /// Whether trying again does not mend it (wrong credentials, wrong share).
    pub permanent: bool,
}

pub(super) fn insert_copy(
    tx: &Transaction<'_>,
    job: &JobName,
    run_id: &RunId,
    started: DateTime<Utc>,
    outcome: Outcome,
    copy: &NewCopy,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let kept = copy.status.is_kept().then(|| ms(now));
    let verified = (copy.status == CopyStatus::Verified).then(|| ms(now));
    tx.prepare_cached(
        "INSERT INTO copies (run_id, target, job, is_primary, status, location, bytes, outcome, started,
             queued_at, created_at, verified_at, verify_ok, next_attempt)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (run_id, target) DO UPDATE SET status = excluded.status, location = excluded.location,
             bytes = excluded.bytes, created_at = excluded.created_at, verified_at = excluded.verified_at,
             verify_ok = excluded.verify_ok, next_attempt = excluded.next_attempt",
    )?
    .execute(params![
        run_id.as_str(),
        copy.target.as_str(),
        job.as_str(),
        copy.primary,
        copy.status.as_str(),
        copy.location,
        int(copy.bytes),
        outcome.as_str(),
        ms(started),
        ms(now),
        kept,
        verified,
        verified.map(|_| true),
        (copy.status == CopyStatus::Pending).then(|| ms(now)),
    ])?;
    note_target(tx, job, &copy.target)?;
    if kept.is_some() {
        set_copied(tx, job, &copy.target, now)?;
    }
    if verified.is_some() {
        set_verified(tx, job, &copy.target, true, now)?;
    }
    Ok(())
}

fn note_target(tx: &Transaction<'_>, job: &JobName, target: &TargetName) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO job_targets (job, target) VALUES (?1, ?2)")?
        .execute(params![job.as_str(), target.as_str()])?;
    Ok(())
}

fn set_copied(
    tx: &Transaction<'_>,
    job: &JobName,
    target: &TargetName,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE job_targets SET last_copy_success = ?3 WHERE job = ?1 AND target = ?2")?
        .execute(params![job.as_str(), target.as_str(), ms(now)])?;
    Ok(())
}

fn set_verified(
    tx: &Transaction<'_>,
    job: &JobName,
    target: &TargetName,
    ok: bool,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE job_targets SET last_verify = ?3, last_verify_ok = ?4 WHERE job = ?1 AND target = ?2",
    )?
    .execute(params![job.as_str(), target.as_str(), ms(now), ok])?;
    Ok(())
}

fn one_copy(tx: &Transaction<'_>, run_id: &RunId, target: &TargetName) -> rusqlite::Result<Option<Copy>> {
    tx.prepare_cached("SELECT * FROM copies WHERE run_id = ?1 AND target = ?2")?
        .query_row(params![run_id.as_str(), target.as_str()], Copy::from_row)
        .optional()
}

impl State {
    /// All copies, newest first, of one job or all, at one target or all; expired ones too.
    pub fn copies(
        &self,
        job: Option<&JobName>,
        target: Option<&TargetName>,
    ) -> Result<Vec<Copy>, StateError> {
        self.read("read the copies", |tx| {
            tx.prepare_cached(
                "SELECT * FROM copies WHERE (?1 IS NULL OR job = ?1) AND (?2 IS NULL OR target = ?2)
                 ORDER BY started DESC, run_id DESC, target",
            )?
            .query_map(params![job.map(JobName::as_str), target.map(TargetName::as_str)], Copy::from_row)?
            .collect()
        })
    }

    /// All copies of one backup, the primary first.
    pub fn copies_of(&self, run_id: &RunId) -> Result<Vec<Copy>, StateError> {
        self.read(&format!("read the copies of run {run_id}"), |tx| {
            tx.prepare_cached("SELECT * FROM copies WHERE run_id = ?1 ORDER BY is_primary DESC, target")?
                .query_map([run_id.as_str()], Copy::from_row)?
                .collect()
        })
    }

    /// One copy.
    pub fn copy(&self, run_id: &RunId, target: &TargetName) -> Result<Option<Copy>, StateError> {
        self.read(&format!("read the copy of run {run_id} at {target}"), |tx| one_copy(tx, run_id, target))
    }

    /// Copies that are due and that nobody works on, newest backup first.
    pub fn pending_copies(&self, now: DateTime<Utc>) -> Result<Vec<Copy>, StateError> {
        self.read("read the queue of copies", |tx| {
            tx.prepare_cached(
                "SELECT * FROM copies WHERE status = 'pending' AND next_attempt <= ?1
                     AND (claimed_until IS NULL OR claimed_until <= ?1)
                 ORDER BY started DESC, run_id DESC, target",
            )?
            .query_map([ms(now)], Copy::from_row)?
            .collect()
        })
    }

    /// Pending copies that somebody has claimed, to be asked whether that somebody still lives.
    pub fn claimed_copies(&self, now: DateTime<Utc>) -> Result<Vec<Copy>, StateError> {
        self.read("read who makes copies", |tx| {
            tx.prepare_cached("SELECT * FROM copies WHERE status = 'pending' AND claimed_until > ?1")?
                .query_map([ms(now)], Copy::from_row)?
                .collect()
        })
    }

    /// How many copies of a job are still to be made at a target.
    pub fn pending_count(&self, job: &JobName, target: &TargetName) -> Result<u64, StateError> {
        self.read("count the queue of copies", |tx| {
            tx.query_row(
                "SELECT count(*) AS n FROM copies WHERE job = ?1 AND target = ?2 AND status = 'pending'",
                params![job.as_str(), target.as_str()],
                |row| uint(row, "n"),
            )
        })
    }

    /// Takes a pending copy, until `lease` from now, so that no other process makes it at the same time.
    /// The same claimer may claim again, to prolong. False when it is somebody else's or no longer
    /// pending.
    pub fn claim_copy(
        &self,
        run_id: &RunId,
        target: &TargetName,
        claimer: &str,
        now: DateTime<Utc>,
        lease: Duration,
    ) -> Result<bool, StateError> {
        let until = now + chrono::Duration::from_std(lease).unwrap_or(chrono::Duration::days(1));
        self.write(&format!("claim the copy of run {run_id} to {target}"), |tx| {
            let changed = tx.execute(
                "UPDATE copies SET claimed_until = ?3, claimer = ?4
                 WHERE run_id = ?1 AND target = ?2 AND status = 'pending'
                     AND (claimed_until IS NULL OR claimed_until <= ?5 OR claimer = ?4)",
                params![run_id.as_str(), target.as_str(), ms(until), claimer, ms(now)],
            )?;
            Ok(changed == 1)
        })
    }

    /// Gives a claimed copy back, neither made nor failed (the agent is stopping).
    pub fn release_copy(&self, run_id: &RunId, target: &TargetName, claimer: &str) -> Result<(), StateError> {
        self.write(&format!("give back the copy of run {run_id} to {target}"), |tx| {
            tx.execute(
                "UPDATE copies SET claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2 AND claimer = ?3",
                params![run_id.as_str(), target.as_str(), claimer],
            )?;
            Ok(())
        })
    }

    /// Records where a copy will stand, before it is published there.
    pub fn set_copy_location(
        &self,
        run_id: &RunId,
        target: &TargetName,
        location: &str,
    ) -> Result<(), StateError> {
        self.write(&format!("record the folder of run {run_id} at {target}"), |tx| {
            tx.execute(
                "UPDATE copies SET location = ?3 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), location],
            )?;
            Ok(())
        })
    }

    /// Records that a copy was made, and whether it was read back and found equal.
    pub fn copy_done(
        &self,
        run_id: &RunId,
        target: &TargetName,
        location: &str,
        bytes: u64,
        verified: bool,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.change_copy("record the copy", run_id, target, |tx, copy| {
            let status = if verified { CopyStatus::Verified } else { CopyStatus::Complete };
            let verified_at = verified.then(|| ms(now));
            tx.execute(
                "UPDATE copies SET status = ?3, location = ?4, bytes = ?5, created_at = ?6, verified_at = ?7,
                     verify_ok = ?8, next_attempt = NULL, permanent = 0, last_error = NULL,
                     claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2",
                params![
                    run_id.as_str(),
                    target.as_str(),
                    status.as_str(),
                    location,
                    int(bytes),
                    ms(now),
                    verified_at,
                    verified_at.map(|_| true)
                ],
            )?;
            note_target(tx, &copy.job, target)?;
            set_copied(tx, &copy.job, target, now)?;
            if verified { set_verified(tx, &copy.job, target, true, now) } else { Ok(()) }
        })
    }

    /// Records that a copy could not be made, counts it, and gives it back to the queue.
    pub fn copy_failed(
        &self,
        run_id: &RunId,
        target: &TargetName,
        failure: &CopyFailure,
    ) -> Result<(), StateError> {
        self.change_copy("record the failed copy", run_id, target, |tx, copy| {
            tx.execute(
                "UPDATE copies SET attempts = attempts + 1, next_attempt = ?3, permanent = ?4, last_error = ?5,
                     claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2 AND status = 'pending'",
                params![
                    run_id.as_str(),
                    target.as_str(),
                    opt_ms(failure.next_attempt),
                    failure.permanent,
                    failure.error
                ],
            )?;
            bump(tx, names::COPY_FAILURES, copy.job.as_str(), target.as_str(), 1)
        })
    }

    /// Makes every pending copy due now, also those that failed for good; returns how many.
    pub fn retry_copies(&self, target: Option<&TargetName>, now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("make the queue of copies due", |tx| {
            tx.execute(
                "UPDATE copies SET next_attempt = ?2 WHERE status = 'pending' AND (?1 IS NULL OR target = ?1)",
                params![target.map(TargetName::as_str), ms(now)],
            )
        })
    }

    /// Records a read-back: equal (the copy is `verified`), or the sentence that says what was wrong
    /// (it is `corrupt`, and retention no longer counts it).
    pub fn record_verify(
        &self,
        run_id: &RunId,
        target: &TargetName,
        result: Result<(), &str>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.change_copy("record the verification", run_id, target, |tx, copy| {
            // Removed while it was being read: what was found says nothing.
            if copy.status == CopyStatus::Expired {
                return Ok(());
            }
            let status = if result.is_ok() { CopyStatus::Verified } else { CopyStatus::Corrupt };
            tx.execute(
                "UPDATE copies SET status = ?3, verified_at = ?4, verify_ok = ?5, last_error = ?6
                 WHERE run_id = ?1 AND target = ?2",
                params![
                    run_id.as_str(),
                    target.as_str(),
                    status.as_str(),
                    ms(now),
                    result.is_ok(),
                    result.err()
                ],
            )?;
            note_target(tx, &copy.job, target)?;
            set_verified(tx, &copy.job, target, result.is_ok(), now)
        })
    }

    /// Keeps a copy from retention, or lets it go again. False when nothing changed.
    pub fn set_pinned(&self, run_id: &RunId, target: &TargetName, pinned: bool) -> Result<bool, StateError> {
        let doing = if pinned { "pin the copy" } else { "unpin the copy" };
        let mut changed = false;
        self.change_copy(doing, run_id, target, |tx, copy| {
            changed = copy.pinned != pinned;
            tx.execute(
                "UPDATE copies SET pinned = ?3 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), pinned],
            )?;
            Ok(())
        })?;
        Ok(changed)
    }

    /// Records that retention is about to remove a copy. From here on it is no backup any more, whatever
    /// becomes of the removal; until [`State::copy_expired`] it is one of [`State::half_removed_copies`].
    pub fn copy_expiring(&self, run_id: &RunId, target: &TargetName) -> Result<(), StateError> {
        self.change_copy("record the coming removal", run_id, target, |tx, _| {
            tx.execute(
                "UPDATE copies SET status = 'expired', expired_at = NULL, next_attempt = NULL,
                     claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str()],
            )?;
            Ok(())
        })
    }

    /// Copies of a job at a target whose removal began and is not known to have ended.
    pub fn half_removed_copies(&self, job: &JobName, target: &TargetName) -> Result<Vec<Copy>, StateError> {
        self.read("read the removals that did not end", |tx| {
            tx.prepare_cached(
                "SELECT * FROM copies WHERE job = ?1 AND target = ?2 AND status = 'expired'
                     AND expired_at IS NULL AND location IS NOT NULL
                 ORDER BY started, run_id",
            )?
            .query_map([job.as_str(), target.as_str()], Copy::from_row)?
            .collect()
        })
    }

    /// Records that retention removed a copy.
    pub fn copy_expired(
        &self,
        run_id: &RunId,
        target: &TargetName,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.change_copy("record the removal", run_id, target, |tx, _| {
            tx.execute(
                "UPDATE copies SET status = 'expired', expired_at = ?3, next_attempt = NULL,
                     claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), ms(now)],
            )?;
            Ok(())
        })
    }

    /// Records a backup found at a target whose run this state may not know (after the state was lost, or
    /// for a target that was added). Replaces what was known of it there.
    pub fn import_copy(
        &self,
        job: &JobName,
        run_id: &RunId,
        started: DateTime<Utc>,
        outcome: Outcome,
        copy: &NewCopy,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.write(&format!("record the backup of run {run_id} at {}", copy.target), |tx| {
            insert_copy(tx, job, run_id, started, outcome, copy, now)
        })
    }

    /// Records that retention went over a job's copies at a target; `error` when it could not do all.
    /// Only a pass without an error moves `last_retention`.
    pub fn record_retention(
        &self,
        job: &JobName,
        target: &TargetName,
        error: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.write(&format!("record retention of job {job} at {target}"), |tx| {
            note_target(tx, job, target)?;
            tx.execute(
                "UPDATE job_targets SET retention_error = ?3, last_retention = coalesce(?4, last_retention)
                 WHERE job = ?1 AND target = ?2",
                params![job.as_str(), target.as_str(), error, error.is_none().then(|| ms(now))],
            )?;
            Ok(())
        })
    }

    /// When a copy of a job was last made at a target.
    pub fn last_copy_success(
        &self,
        job: &JobName,
        target: &TargetName,
    ) -> Result<Option<DateTime<Utc>>, StateError> {
        self.read(&format!("read the last copy of job {job} at {target}"), |tx| {
            let found = tx
                .query_row(
                    "SELECT last_copy_success FROM job_targets WHERE job = ?1 AND target = ?2",
                    params![job.as_str(), target.as_str()],
                    |row| opt_time(row, "last_copy_success"),
                )
                .optional()?;
            Ok(found.flatten())
        })
    }

    fn change_copy(
        &self,
        doing: &str,
        run_id: &RunId,
        target: &TargetName,
        change: impl FnOnce(&Transaction<'_>, &Copy) -> rusqlite::Result<()>,
    ) -> Result<(), StateError> {
        let found = self.write(&format!("{doing} of run {run_id} at {target}"), |tx| {
            let Some(copy) = one_copy(tx, run_id, target)? else { return Ok(false) };
            change(tx, &copy).map(|()| true)
        })?;
        if found { Ok(()) } else { Err(StateError::UnknownRun { run_id: run_id.clone() }) }
    }
}
