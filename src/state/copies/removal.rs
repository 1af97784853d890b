//! Copies that retention removes: noted before anything is touched, and again when it is gone, or could not go.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::super::sql::{ms, opt_ms};
use super::super::{State, StateError};
use super::{Copy, note_target};
use crate::model::{JobName, RunId, TargetName};

impl State {
    /// Records that retention is about to remove a copy. From here on it is no backup any more, whatever
    /// becomes of the removal; until [`State::copy_expired`] it is one of [`State::half_removed_copies`]. False, and
    /// nothing is to be removed, when somebody pinned it meanwhile: the target may not know of that.
    pub fn copy_expiring(&self, run_id: &RunId, target: &TargetName) -> Result<bool, StateError> {
        let mut expiring = false;
        self.change_copy("record the coming removal", run_id, target, |tx, _| {
            let changed = tx.execute(
                "UPDATE copies SET status = 'expired', expired_at = NULL, next_attempt = NULL,
                     claimed_until = NULL, claimer = NULL
                 WHERE run_id = ?1 AND target = ?2 AND NOT pinned",
                params![run_id.as_str(), target.as_str()],
            )?;
            expiring = changed > 0;
            Ok(())
        })?;
        Ok(expiring)
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

    /// Records that the storage did not let go of a copy that retention was about to remove: it is as it was, and
    /// stays until then.
    pub fn copy_retained(
        &self,
        run_id: &RunId,
        target: &TargetName,
        until: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.put_back(run_id, target, Some(until))
    }

    /// Records that a copy that retention was about to remove stays after all: somebody pinned it at the target.
    pub fn copy_spared(&self, run_id: &RunId, target: &TargetName) -> Result<(), StateError> {
        self.put_back(run_id, target, None)
    }

    fn put_back(
        &self,
        run_id: &RunId,
        target: &TargetName,
        until: Option<DateTime<Utc>>,
    ) -> Result<(), StateError> {
        self.change_copy("take back the removal", run_id, target, |tx, _| {
            tx.execute(
                "UPDATE copies SET expired_at = NULL, retained_until = coalesce(?3, retained_until),
                     status = CASE verify_ok WHEN 1 THEN 'verified' WHEN 0 THEN 'corrupt' ELSE 'complete' END
                 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), opt_ms(until)],
            )?;
            Ok(())
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
}
