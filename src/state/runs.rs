//! The life of a run: begun, followed, ended; and its log.

use chrono::{DateTime, Duration, Utc};
use rusqlite::{OptionalExtension, Transaction, params};

use super::copies::{NewCopy, insert_copy};
use super::counters::{bump, names};
use super::jobs::{ensure_job, set_occurrence};
use super::outbox::{NewMessage, insert_messages, mark_superseded};
use super::run::{EndedRun, NewRun, Run, WARNINGS_KEPT};
use super::sql::{get_json, int, json, ms, opt_ms};
use super::{State, StateError};
use crate::event::Step;
use crate::model::{JobName, Outcome, RunId, TargetName, WarningKind};

/// How long the log of a run is kept.
const LOG_DAYS: i64 = 90;

impl State {
    /// Records that a run has its locks and begins.
    pub fn begin_run(&self, run: &NewRun) -> Result<(), StateError> {
        self.write(&format!("record the start of run {}", run.run_id), |tx| {
            ensure_job(tx, &run.job, run.started)?;
            tx.execute(
                "INSERT INTO runs (run_id, job, started_by, scheduled_for, pid, boot_id, started, start_ticks)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    run.run_id.as_str(),
                    run.job.as_str(),
                    run.trigger.as_str(),
                    opt_ms(run.scheduled_for),
                    run.process.pid,
                    run.process.boot_id,
                    ms(run.started),
                    run.process.start_ticks.map(int),
                ],
            )?;
            run.scheduled_for.map_or(Ok(()), |occurrence| set_occurrence(tx, &run.job, occurrence))
        })
    }

    /// Records the step a run is in.
    pub fn set_step(&self, run_id: &RunId, step: Step, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("record step {step} of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET step = ?2, step_since = ?3 WHERE run_id = ?1 AND outcome IS NULL",
                params![run_id.as_str(), step.as_str(), ms(now)],
            )?;
            Ok(())
        })
    }

    /// Records how far a run is, 0 to 1. A commit with fsync each: call it every few seconds at most.
    pub fn set_progress(&self, run_id: &RunId, ratio: f64) -> Result<(), StateError> {
        let ratio = if ratio.is_finite() { ratio.clamp(0.0, 1.0) } else { 0.0 };
        self.write(&format!("record the progress of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET progress = ?2 WHERE run_id = ?1 AND outcome IS NULL",
                params![run_id.as_str(), ratio],
            )?;
            Ok(())
        })
    }

    /// Records where the backup is being staged and where it will stand, both relative to the target's
    /// folder. To be called before the rename, so that a crash right after it leaves a folder that can
    /// be found and adopted.
    pub fn set_location(
        &self,
        run_id: &RunId,
        target: &TargetName,
        location: &str,
        staging: &str,
    ) -> Result<(), StateError> {
        let changed = self.write(&format!("record the folder of run {run_id}"), |tx| {
            tx.execute(
                "UPDATE runs SET target = ?2, location = ?3, staging = ?4 WHERE run_id = ?1",
                params![run_id.as_str(), target.as_str(), location, staging],
            )
        })?;
        // Without this record a crash would lose the backup, so a row that is not there is an error.
        if changed == 0 { Err(StateError::UnknownRun { run_id: run_id.clone() }) } else { Ok(()) }
    }

    /// Ends a run in one transaction: the row, counters, the streak of failures, its copies, and the
    /// messages about it. Also used to adopt a run that died after it had published.
    ///
    /// False, and nothing written, when the run had ended before.
    pub fn end_run(
        &self,
        ended: &EndedRun,
        copies: &[NewCopy],
        messages: &[NewMessage],
    ) -> Result<bool, StateError> {
        let done = self.write(&format!("record the end of run {}", ended.run_id), |tx| {
            end_in(tx, ended, copies, messages)
        })?;
        done.ok_or_else(|| StateError::UnknownRun { run_id: ended.run_id.clone() })
    }

    /// Marks a run that died as `interrupted`, with the step it was last seen in, and queues the messages
    /// about it. False, and nothing written, when the run had ended before.
    pub fn interrupt_run(
        &self,
        run_id: &RunId,
        now: DateTime<Utc>,
        reason: &str,
        messages: &[NewMessage],
    ) -> Result<bool, StateError> {
        let mut ended = EndedRun::new(run_id.clone(), Outcome::Interrupted, now);
        ended.error = Some(reason.to_owned());
        ended.failed_step = self.run(run_id)?.and_then(|run| run.step);
        self.end_run(&ended, &[], messages)
    }

    /// Adds a sentence to what failed beside the outcome. One that is there already is not added again.
    pub fn add_degraded(&self, run_id: &RunId, text: &str) -> Result<(), StateError> {
        self.change_degraded(run_id, |list| {
            if !list.iter().any(|t| t == text) {
                list.push(text.to_owned());
            }
        })
    }

    /// Takes sentences away from what failed beside the outcome, once they no longer hold (a copy that
    /// came late after all). True when the run is no longer degraded.
    pub fn retain_degraded(&self, run_id: &RunId, keep: impl Fn(&str) -> bool) -> Result<bool, StateError> {
        self.change_degraded(run_id, |list| list.retain(|text| keep(text)))?;
        Ok(self.run(run_id)?.is_none_or(|run| run.degraded.is_empty()))
    }

    fn change_degraded(
        &self,
        run_id: &RunId,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), StateError> {
        let done = self.write(&format!("record what degraded run {run_id}"), |tx| {
            let before: Option<Vec<String>> = tx
                .query_row("SELECT degraded FROM runs WHERE run_id = ?1", [run_id.as_str()], |row| {
                    get_json(row, "degraded")
                })
                .optional()?;
            let Some(mut list) = before else { return Ok(false) };
            change(&mut list);
            tx.execute(
                "UPDATE runs SET degraded = ?2 WHERE run_id = ?1",
                params![run_id.as_str(), json(&list)?],
            )?;
            Ok(true)
        })?;
        if done { Ok(()) } else { Err(StateError::UnknownRun { run_id: run_id.clone() }) }
    }

    /// Keeps the log of a run, replacing what was kept before.
    pub fn set_run_log(&self, run_id: &RunId, text: &str, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("keep the log of run {run_id}"), |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO run_logs (run_id, written_at, text) VALUES (?1, ?2, ?3)",
                params![run_id.as_str(), ms(now), text],
            )?;
            Ok(())
        })
    }

    /// The log of a run, while it is kept.
    pub fn run_log(&self, run_id: &RunId) -> Result<Option<String>, StateError> {
        self.read(&format!("read the log of run {run_id}"), |tx| {
            tx.query_row("SELECT text FROM run_logs WHERE run_id = ?1", [run_id.as_str()], |row| row.get(0))
                .optional()
        })
    }

    /// Removes logs older than 90 days; returns how many.
    pub fn expire_logs(&self, now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("remove old logs", |tx| {
            tx.execute("DELETE FROM run_logs WHERE written_at < ?1", [ms(now - Duration::days(LOG_DAYS))])
        })
    }
}

/// None for an unknown run, `Some(false)` for one that had ended.
fn end_in(
    tx: &Transaction<'_>,
    ended: &EndedRun,
    copies: &[NewCopy],
    messages: &[NewMessage],
) -> rusqlite::Result<Option<bool>> {
    let run = tx
        .query_row("SELECT * FROM runs WHERE run_id = ?1", [ended.run_id.as_str()], Run::from_row)
        .optional()?;
    let Some(run) = run else { return Ok(None) };
    if run.outcome.is_some() {
        return Ok(Some(false));
    }
    let kept = &ended.warnings[..ended.warnings.len().min(WARNINGS_KEPT)];
    tx.execute(
        "UPDATE runs SET outcome = ?2, ended = ?3, degraded = ?4, failed_step = ?5, error = ?6, steps = ?7,
             source_bytes = ?8, stored_bytes = ?9, components = ?10, warning_counts = ?11, warnings = ?12,
             warnings_total = ?13, progress = NULL
         WHERE run_id = ?1",
        params![
            ended.run_id.as_str(),
            ended.outcome.as_str(),
            ms(ended.ended),
            json(&ended.degraded)?,
            ended.failed_step.map(Step::as_str),
            ended.error,
            json(&ended.steps)?,
            int(ended.source_bytes),
            int(ended.stored_bytes),
            json(&ended.components)?,
            json(&ended.warning_counts)?,
            json(kept)?,
            int(ended.warning_counts.total()),
        ],
    )?;
    count(tx, &run.job, ended)?;
    let streak = match ended.outcome.is_good() {
        true => "UPDATE jobs SET failing_since = NULL WHERE job = ?1 AND ?2 IS NOT NULL",
        false => "UPDATE jobs SET failing_since = coalesce(failing_since, ?2) WHERE job = ?1",
    };
    tx.execute(streak, params![run.job.as_str(), ms(ended.ended)])?;
    for copy in copies {
        insert_copy(tx, &run.job, &run.run_id, run.started, ended.outcome, copy, ended.ended)?;
    }
    mark_superseded(tx, &ended.supersedes, ended.ended)?;
    insert_messages(tx, messages, ended.ended)?;
    Ok(Some(true))
}

fn count(tx: &Transaction<'_>, job: &JobName, ended: &EndedRun) -> rusqlite::Result<()> {
    bump(tx, names::RUNS, job.as_str(), "", 1)?;
    let disjoint = match ended.outcome {
        Outcome::Success | Outcome::Warning => None,
        Outcome::Partial => Some(names::RUNS_PARTIAL),
        Outcome::Failure => Some(names::RUNS_FAILED),
        Outcome::Interrupted => Some(names::RUNS_INTERRUPTED),
    };
    if let Some(name) = disjoint {
        bump(tx, name, job.as_str(), "", 1)?;
    }
    for kind in WarningKind::COUNTED {
        bump(tx, names::WARNINGS, job.as_str(), kind.as_str(), ended.warning_counts.get(kind))?;
    }
    Ok(())
}
