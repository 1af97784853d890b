//! What a page shows beside the snapshot: everything about one job's latest runs, or about one run, each
//! read in one transaction.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use super::copies::Copy;
use super::outbox::Message;
use super::run::Run;
use super::sql::{get_json, get_word, int};
use super::{State, StateError};
use crate::manifest::FileWarning;
use crate::model::{JobName, RunId};

/// How many messages of one run are read; a run has a few for each channel.
const MESSAGES: usize = 50;

/// The latest runs of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobRecord {
    /// The runs, newest first, also the one in progress.
    pub runs: Vec<Run>,
    /// Their backups at every target, also those that expired, ordered by run and target.
    pub copies: Vec<Copy>,
}

/// All that is known of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The run.
    pub run: Run,
    /// Its backups at every target, the primary first.
    pub copies: Vec<Copy>,
    /// The messages about it, oldest first; they are kept for 30 days.
    pub messages: Vec<Message>,
    /// Its log, while it is kept.
    pub log: Option<String>,
}

impl State {
    /// The latest `limit` runs of a job with their backups.
    pub fn job_record(&self, job: &JobName, limit: usize) -> Result<JobRecord, StateError> {
        self.read(&format!("read the record of job {job}"), |tx| {
            let values = params![job.as_str(), int(limit as u64)];
            let runs = tx
                .prepare_cached("SELECT * FROM runs WHERE job = ?1 ORDER BY seq DESC LIMIT ?2")?
                .query_map(values, Run::from_row)?
                .collect::<rusqlite::Result<_>>()?;
            let copies = tx
                .prepare_cached(
                    "SELECT * FROM copies WHERE run_id IN
                         (SELECT run_id FROM runs WHERE job = ?1 ORDER BY seq DESC LIMIT ?2)
                     ORDER BY run_id, is_primary DESC, target",
                )?
                .query_map(values, Copy::from_row)?
                .collect::<rusqlite::Result<_>>()?;
            Ok(JobRecord { runs, copies })
        })
    }

    /// All that is known of one run; none when there is no such run.
    pub fn run_record(&self, run_id: &RunId) -> Result<Option<RunRecord>, StateError> {
        self.read(&format!("read the record of run {run_id}"), |tx| {
            let id = run_id.as_str();
            let run = tx
                .prepare_cached("SELECT * FROM runs WHERE run_id = ?1")?
                .query_row([id], Run::from_row)
                .optional()?;
            let Some(run) = run else { return Ok(None) };
            let copies = tx
                .prepare_cached("SELECT * FROM copies WHERE run_id = ?1 ORDER BY is_primary DESC, target")?
                .query_map([id], Copy::from_row)?
                .collect::<rusqlite::Result<_>>()?;
            // By job, for which there is an index.
            let messages = tx
                .prepare_cached("SELECT * FROM outbox WHERE job = ?1 AND run_id = ?2 ORDER BY id LIMIT ?3")?
                .query_map(params![run.job.as_str(), id, int(MESSAGES as u64)], Message::from_row)?
                .collect::<rusqlite::Result<_>>()?;
            let log = tx
                .prepare_cached("SELECT text FROM run_logs WHERE run_id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            Ok(Some(RunRecord { run, copies, messages, log }))
        })
    }

    /// The file warnings kept with these runs; runs without any, and unknown ones, are left out.
    pub fn warnings_of(&self, runs: &[RunId]) -> Result<BTreeMap<RunId, Vec<FileWarning>>, StateError> {
        self.read("read the warnings of runs", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT run_id, warnings FROM runs WHERE run_id = ?1 AND warnings_total > 0",
            )?;
            let mut found = BTreeMap::new();
            for run in runs {
                let row = statement
                    .query_row([run.as_str()], |row| {
                        Ok((get_word(row, "run_id")?, get_json(row, "warnings")?))
                    })
                    .optional()?;
                found.extend(row);
            }
            Ok(found)
        })
    }
}
