//! Archives that another program made, recorded as backups that are read and never removed.

use chrono::{DateTime, Utc};
use rusqlite::{Transaction, params};

use super::copies::note_target;
use super::sql::{int, ms, uint, word};
use super::{State, StateError};
use crate::model::{JobName, RunId, Sha256, TargetName};

/// A file of an imported backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFile {
    /// Its name in the backup's folder.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest when it was imported.
    pub sha256: Sha256,
}

/// A backup of another program.
#[derive(Debug, Clone)]
pub struct ImportedRun {
    /// An id made of when it was taken and where it stands: the same at each import.
    pub run_id: RunId,
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// Its folder relative to the target; empty for the target itself.
    pub location: String,
    /// Its files.
    pub files: Vec<ImportedFile>,
}

impl State {
    /// Records backups of another program as good runs of a job with a copy at `target` that was just read.
    /// They stand before all runs of the job's own, whenever they were taken: what another program makes
    /// must not hide that the agent makes nothing. Those known already are left as they are; gives how many
    /// are new.
    pub fn import_runs(
        &self,
        job: &JobName,
        target: &TargetName,
        runs: &[ImportedRun],
        now: DateTime<Utc>,
    ) -> Result<u64, StateError> {
        self.write(&format!("record imported backups of job {job}"), |tx| {
            let mut new = 0;
            for run in runs {
                new += u64::from(import(tx, job, target, run, now)?);
            }
            note_target(tx, job, target)?;
            renumber(tx)?;
            Ok(new)
        })
    }

    /// The files of an imported backup at a target, with what they should be.
    pub fn imported_files(
        &self,
        run_id: &RunId,
        target: &TargetName,
    ) -> Result<Vec<ImportedFile>, StateError> {
        self.read(&format!("read the files of the imported backup {run_id}"), |tx| {
            tx.prepare_cached(
                "SELECT file, bytes, sha256 FROM imported_files WHERE run_id = ?1 AND target = ?2 ORDER BY file",
            )?
            .query_map(params![run_id.as_str(), target.as_str()], |row| {
                Ok(ImportedFile {
                    file: row.get("file")?,
                    bytes: uint(row, "bytes")?,
                    sha256: word(row.get_ref("sha256")?.as_str().map_err(rusqlite::Error::from)?)?,
                })
            })?
            .collect()
        })
    }
}

/// One backup; false when it is known.
fn import(
    tx: &Transaction<'_>,
    job: &JobName,
    target: &TargetName,
    run: &ImportedRun,
    now: DateTime<Utc>,
) -> rusqlite::Result<bool> {
    let bytes: u64 = run.files.iter().map(|file| file.bytes).sum();
    tx.execute(
        "INSERT OR IGNORE INTO runs (seq, run_id, job, started_by, started, ended, outcome, stored_bytes)
         VALUES ((SELECT min(0, coalesce(min(seq), 1)) - 1 FROM runs), ?1, ?2, 'import', ?3, ?3, 'success', ?4)",
        params![run.run_id.as_str(), job.as_str(), ms(run.taken), int(bytes)],
    )?;
    let added = tx.execute(
        "INSERT OR IGNORE INTO copies (run_id, target, job, is_primary, status, location, bytes, outcome,
             started, queued_at, created_at, verified_at, verify_ok, imported)
         VALUES (?1, ?2, ?3, 0, 'verified', ?4, ?5, 'success', ?6, ?7, ?6, ?7, 1, 1)",
        params![
            run.run_id.as_str(),
            target.as_str(),
            job.as_str(),
            run.location,
            int(bytes),
            ms(run.taken),
            ms(now)
        ],
    )?;
    if added == 0 {
        return Ok(false);
    }
    for file in &run.files {
        tx.execute(
            "INSERT OR REPLACE INTO imported_files VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                run.run_id.as_str(),
                target.as_str(),
                file.file,
                int(file.bytes),
                file.sha256.to_string()
            ],
        )?;
    }
    Ok(true)
}

/// Puts imported runs into the order they were taken in, all before the agent's own, which begin at 1.
fn renumber(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let ids: Vec<String> = tx
        .prepare("SELECT run_id FROM runs WHERE started_by = 'import' ORDER BY started DESC, run_id DESC")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // Out of the way first: a number can be taken once only.
    tx.execute(
        "UPDATE runs SET seq = (SELECT min(seq) FROM runs) - abs(seq) - 1 WHERE started_by = 'import'",
        [],
    )?;
    for (place, id) in (0_i64..).zip(ids) {
        tx.execute("UPDATE runs SET seq = ?2 WHERE run_id = ?1", params![id, -place])?;
    }
    Ok(())
}
