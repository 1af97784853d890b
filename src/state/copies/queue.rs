//! The persisted queue of copies still to be made.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::super::counters::{bump, names};
use super::super::sql::{get_word, int, ms, opt_ms, uint, waits};
use super::super::{LONGEST_PAUSE, State, StateError};
use super::{Copy, CopyStatus, note_target, set_copied, set_verified};
use crate::model::{JobName, RunId, TargetName};

/// Why a copy could not be made.
#[derive(Debug, Clone)]
pub struct CopyFailure {
    /// The chain of errors, for people.
    pub error: String,
    /// When to try again, [`LONGEST_PAUSE`] from now at most; none: not by itself (see [`State::retry_copies`]). It
    /// stays pending either way.
    pub next_attempt: Option<DateTime<Utc>>,
    /// Whether trying again does not mend it (wrong credentials, wrong share).
    pub permanent: bool,
}

impl State {
    /// Copies that are due and that nobody works on, newest backup first.
    pub fn pending_copies(&self, now: DateTime<Utc>) -> Result<Vec<Copy>, StateError> {
        self.read("read the queue of copies", |tx| {
            // A claim that a wrong clock made long is that of a process, which is asked whether it lives.
            tx.prepare_cached(&format!(
                "SELECT * FROM copies WHERE status = 'pending' AND NOT {}
                     AND (claimed_until IS NULL OR claimed_until <= ?1)
                 ORDER BY started DESC, run_id DESC, target",
                waits("next_attempt", "?1", LONGEST_PAUSE)
            ))?
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
        self.claim_copy_beside(run_id, target, claimer, now, lease, usize::MAX)
    }

    /// The same, unless `at_most` other copies are being made at the target already, by whomever.
    pub fn claim_copy_beside(
        &self,
        run_id: &RunId,
        target: &TargetName,
        claimer: &str,
        now: DateTime<Utc>,
        lease: Duration,
        at_most: usize,
    ) -> Result<bool, StateError> {
        let until = now + chrono::Duration::from_std(lease).unwrap_or(chrono::Duration::days(1));
        self.write(&format!("claim the copy of run {run_id} to {target}"), |tx| {
            let changed = tx.execute(
                "UPDATE copies SET claimed_until = ?3, claimer = ?4
                 WHERE run_id = ?1 AND target = ?2 AND status = 'pending'
                     AND (claimed_until IS NULL OR claimed_until <= ?5 OR claimer = ?4)
                     AND (SELECT count(*) FROM copies WHERE target = ?2 AND run_id <> ?1 AND status = 'pending'
                              AND claimed_until > ?5) < ?6",
                params![
                    run_id.as_str(),
                    target.as_str(),
                    ms(until),
                    claimer,
                    ms(now),
                    i64::try_from(at_most).unwrap_or(i64::MAX)
                ],
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
                     claimed_until = NULL, claimer = NULL, pin_stored = 0, retained_until = NULL
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

    /// Lets no pending copy at a target be due before `until`: what one of them met, the others would meet too.
    /// Those that wait for longer, or are not tried by themselves, stay as they are.
    pub fn hold_copies(&self, target: &TargetName, until: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("let the copies to {target} wait"), |tx| {
            tx.execute(
                &format!(
                    "UPDATE copies SET next_attempt = ?2
                     WHERE target = ?1 AND status = 'pending' AND NOT {}",
                    waits("next_attempt", "?2", LONGEST_PAUSE)
                ),
                params![target.as_str(), ms(until)],
            )?;
            Ok(())
        })
    }

    /// Makes those pending copies at a target due that wait only because another one failed.
    pub fn release_held_copies(&self, target: &TargetName, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("let the copies to {target} wait no longer"), |tx| {
            tx.execute(
                "UPDATE copies SET next_attempt = ?2
                 WHERE target = ?1 AND status = 'pending' AND attempts = 0 AND next_attempt > ?2",
                params![target.as_str(), ms(now)],
            )?;
            Ok(())
        })
    }

    /// How many of the pending copies at a target failed at least once.
    pub fn failing_count(&self, target: &TargetName) -> Result<u64, StateError> {
        self.read("count the copies that fail", |tx| {
            tx.query_row(
                "SELECT count(*) AS n FROM copies WHERE target = ?1 AND status = 'pending' AND attempts > 0",
                [target.as_str()],
                |row| uint(row, "n"),
            )
        })
    }

    /// The targets that have pending copies whose last failure was permanent.
    pub fn stopped_targets(&self) -> Result<Vec<TargetName>, StateError> {
        self.read("read which targets refuse copies", |tx| {
            tx.prepare_cached(
                "SELECT DISTINCT target FROM copies WHERE status = 'pending' AND permanent = 1",
            )?
            .query_map([], |row| get_word(row, "target"))?
            .collect()
        })
    }

    /// The pending copies, newest first.
    pub fn queued_copies(&self) -> Result<Vec<Copy>, StateError> {
        self.read("read the queue of copies", |tx| {
            tx.prepare_cached(
                "SELECT * FROM copies WHERE status = 'pending' ORDER BY started DESC, run_id DESC, target",
            )?
            .query_map([], Copy::from_row)?
            .collect()
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
}
