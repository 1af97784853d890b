//! Backups at targets: what they are, how they are recorded, found and read back.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `copies` | a copy, and what is known of it |
//! | `queue` | copies still to be made: due, claimed, made, failed |
//! | `removal` | copies that retention removes, or may not |
//! | `pins` | copies that a person keeps |

mod pins;
mod queue;
mod removal;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::sql::{get_word, int, ms, opt_time, time, uint, words};
use super::{State, StateError};
use crate::manifest::Pin;
use crate::model::{JobName, Outcome, RunId, TargetName};

pub use pins::PinChange;
pub use queue::CopyFailure;

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
    /// An archive that another program made: never removed, nor copied.
    #[serde(default)]
    pub imported: bool,
    /// Kept by a person, whatever retention says.
    #[serde(default)]
    pub pinned: bool,
    /// Why, when, and by whom; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// Whether the target is known to have that pin.
    #[serde(default)]
    pub pin_stored: bool,
    /// Until when the storage refuses to remove it, as it said when retention wanted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_until: Option<DateTime<Utc>>,
}

/// What retention asks of a copy that is there. There may be a hundred thousand of them, and a whole [`Copy`] takes
/// ten times as long to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentCopy {
    /// The run that made the backup.
    pub run_id: RunId,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// Outcome of the run.
    pub outcome: Outcome,
    /// How it stands.
    pub status: CopyStatus,
    /// Bytes stored.
    pub bytes: u64,
    /// Kept by a person, whatever retention says.
    pub pinned: bool,
    /// Until when the storage refuses to remove it, as it said when retention wanted to.
    pub retained_until: Option<DateTime<Utc>>,
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
            imported: row.get("imported")?,
            pinned: row.get("pinned")?,
            pin: row.get::<_, Option<String>>("pin")?.map(|text| Pin::parse(text.as_bytes())),
            pin_stored: row.get("pin_stored")?,
            retained_until: opt_time(row, "retained_until")?,
        })
    }
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
             queued_at, created_at, verified_at, verify_ok, next_attempt, pinned, pin)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
             -- A backup that is kept everywhere is kept where it comes later, too.
             coalesce((SELECT min(pinned) FROM copies WHERE run_id = ?1 AND status <> 'expired'), 0),
             (SELECT max(pin) FROM copies WHERE run_id = ?1 AND pinned))
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

pub(super) fn note_target(tx: &Transaction<'_>, job: &JobName, target: &TargetName) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO job_targets (job, target) VALUES (?1, ?2)")?
        .execute(params![job.as_str(), target.as_str()])?;
    Ok(())
}

pub(super) fn set_copied(
    tx: &Transaction<'_>,
    job: &JobName,
    target: &TargetName,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE job_targets SET last_copy_success = ?3 WHERE job = ?1 AND target = ?2")?
        .execute(params![job.as_str(), target.as_str(), ms(now)])?;
    Ok(())
}

pub(super) fn set_verified(
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
            // What was asked stands in the text: with `?1 IS NULL OR …` no index would serve.
            let (by_job, by_target) = match (job.is_some(), target.is_some()) {
                (true, _) => ("job = ?1", "(?2 IS NULL OR target = ?2)"),
                (false, true) => ("?1 IS NULL", "target = ?2"),
                (false, false) => ("?1 IS NULL", "?2 IS NULL"),
            };
            tx.prepare_cached(&format!(
                "SELECT * FROM copies WHERE {by_job} AND {by_target}
                 ORDER BY started DESC, run_id DESC, target"
            ))?
            .query_map(params![job.map(JobName::as_str), target.map(TargetName::as_str)], Copy::from_row)?
            .collect()
        })
    }

    /// The copies of a job at a target that are there, whole or damaged, in no order. Without what another program
    /// made: that is not retention's.
    pub fn present_copies(&self, job: &JobName, target: &TargetName) -> Result<Vec<PresentCopy>, StateError> {
        self.read(&format!("read the copies of job {job} at {target}"), |tx| {
            tx.prepare_cached(
                "SELECT run_id, started, outcome, status, bytes, pinned, retained_until
                 FROM copies INDEXED BY copies_present
                 WHERE job = ?1 AND target = ?2 AND status IN ('complete', 'verified', 'corrupt')
                     AND status <> 'expired' AND NOT imported",
            )?
            .query_map([job.as_str(), target.as_str()], |row| {
                Ok(PresentCopy {
                    run_id: get_word(row, 0)?,
                    started: time(row, 1)?,
                    outcome: get_word(row, 2)?,
                    status: get_word(row, 3)?,
                    bytes: uint(row, 4)?,
                    pinned: row.get(5)?,
                    retained_until: opt_time(row, 6)?,
                })
            })?
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

    pub(super) fn change_copy(
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
