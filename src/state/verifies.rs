//! Reading back on a schedule: what was read lately, against the budget of a day; and copies repaired.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::params;

use super::copies::{note_target, set_copied, set_verified};
use super::sql::{int, ms, uint};
use super::{State, StateError};
use crate::model::{RunId, TargetName};

/// How long single reads are remembered; the budget is one of a day.
const KEPT: TimeDelta = TimeDelta::days(7);

impl State {
    /// Records that so many bytes were read back at a target.
    pub fn add_verify_read(
        &self,
        target: &TargetName,
        bytes: u64,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.write(&format!("record what was read back at {target}"), |tx| {
            tx.execute("DELETE FROM verify_reads WHERE at < ?1 OR at > ?2", [ms(now - KEPT), ms(now)])?;
            tx.execute(
                "INSERT INTO verify_reads (target, at, bytes) VALUES (?1, ?2, ?3)",
                params![target.as_str(), ms(now), int(bytes)],
            )?;
            Ok(())
        })
    }

    /// Bytes read back at a target on the schedule since `since`. What is dated later than now is not believed.
    pub fn verify_read_since(
        &self,
        target: &TargetName,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<u64, StateError> {
        self.read(&format!("read what was read back at {target}"), |tx| {
            tx.query_row(
                "SELECT coalesce(sum(bytes), 0) AS n FROM verify_reads WHERE target = ?1 AND at > ?2 AND at <= ?3",
                params![target.as_str(), ms(since), ms(now)],
                |row| uint(row, "n"),
            )
        })
    }

    /// Records that a damaged copy was replaced by one at `location`, which was read back and is equal.
    pub fn copy_repaired(
        &self,
        run_id: &RunId,
        target: &TargetName,
        location: &str,
        bytes: u64,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        self.change_copy("record the repair", run_id, target, |tx, copy| {
            tx.execute(
                "UPDATE copies SET status = 'verified', location = ?3, bytes = ?4, created_at = ?5,
                     verified_at = ?5, verify_ok = 1, last_error = NULL, pin_stored = 0, retained_until = NULL
                 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), location, int(bytes), ms(now)],
            )?;
            // What is looked at as the newest good backup is where its run says.
            tx.execute(
                "UPDATE runs SET location = ?3 WHERE run_id = ?1 AND target = ?2",
                params![run_id.as_str(), target.as_str(), location],
            )?;
            note_target(tx, &copy.job, target)?;
            set_copied(tx, &copy.job, target, now)?;
            set_verified(tx, &copy.job, target, true, now)
        })
    }
}
