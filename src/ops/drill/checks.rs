//! What the configuration wants to be true of restored files and databases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::Proof;
use super::databases::{Databases, Made};
use crate::config::{CommandCheck, DrillCheck, SourceConfig, SqlCheck};
use crate::event::{Interrupted, Progress};
use crate::model::ComponentName;
use crate::process::{self, Command};
use crate::state::Copy;

/// How much of a program's output, or of an answer, is looked at.
const MOST: usize = 1 << 20;
/// How much of an unexpected answer is shown.
const SHOWN: usize = 200;
/// How often it is looked whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// What is checked.
pub(super) struct Subject<'a> {
    /// The scratch folder; each component has a folder of its name in it.
    pub folder: &'a Path,
    /// What was restored.
    pub proof: &'a Proof,
    /// The dumps that were loaded.
    pub databases: &'a Databases<'a>,
    /// The job's sources.
    pub sources: &'a BTreeMap<ComponentName, SourceConfig>,
    /// The backup.
    pub copy: &'a Copy,
}

/// Makes one check; the error says what is not as it should be.
pub(super) fn check(check: &DrillCheck, subject: &Subject<'_>, progress: &Progress) -> Result<()> {
    match check {
        DrillCheck::Command(check) => command(check, subject, progress),
        DrillCheck::Sql(check) => sql(check, subject, progress),
    }
}

fn command(check: &CommandCheck, subject: &Subject<'_>, progress: &Progress) -> Result<()> {
    let folder = subject.folder.to_str().context("the scratch folder's path is not UTF-8")?;
    let mut words = check.command.iter().map(|word| word.replace("{folder}", folder));
    let program = words.next().context("the command is empty")?;
    let command = Command::new(program)
        .args(words)
        .env("BACKUP_DRILL_FOLDER", folder)
        .env("BACKUP_DRILL_JOB", subject.copy.job.as_str())
        .env("BACKUP_DRILL_RUN", subject.copy.run_id.as_str())
        .env("BACKUP_DRILL_TARGET", subject.copy.target.as_str())
        .timeout(check.timeout)
        .max_output(MOST);
    // The work is asked about from another thread, which outlives no borrow.
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let (send, receive) = channel();
    thread::Builder::new().name("drill-check".to_owned()).spawn(move || {
        let _ = send.send(process::output(command, &(Arc::new(move || asked.load(Ordering::Relaxed)) as _)));
    })?;
    loop {
        match receive.recv_timeout(TICK) {
            Ok(result) if progress.is_cancelled() => {
                drop(result);
                return Err(Interrupted.into());
            }
            Ok(result) => return result.map(drop).map_err(anyhow::Error::from),
            Err(RecvTimeoutError::Timeout) => stop.store(progress.is_cancelled(), Ordering::Relaxed),
            Err(RecvTimeoutError::Disconnected) => bail!("the thread of the check ended unexpectedly"),
        }
    }
}

/// A database made of what was restored.
enum ScratchDatabase<'a> {
    /// An SQLite database file.
    Sqlite(PathBuf),
    /// A dump that was loaded into a server.
    Loaded(&'a Made),
}

/// The restored database that a check asks.
fn scratch_database<'a>(check: &SqlCheck, subject: &Subject<'a>) -> Result<ScratchDatabase<'a>> {
    let source = &check.source;
    match subject.sources.get(source) {
        Some(SourceConfig::Sqlite(_)) => {
            let stream = subject.proof.streams.get(source).with_context(|| {
                format!("the backup has no component {source}; it was made before the source was configured")
            })?;
            Ok(ScratchDatabase::Sqlite(stream.path.clone()))
        }
        Some(SourceConfig::Mysql(_) | SourceConfig::Postgres(_)) => {
            Ok(ScratchDatabase::Loaded(subject.databases.find(source, check.database.as_deref())?))
        }
        Some(_) => bail!("a drill cannot make a database of the source {source}"),
        None => bail!("the job has no source {source}"),
    }
}

fn sql(check: &SqlCheck, subject: &Subject<'_>, progress: &Progress) -> Result<()> {
    let answer = match scratch_database(check, subject)? {
        ScratchDatabase::Sqlite(file) => ask(&file, &check.query, check.timeout, progress)?,
        ScratchDatabase::Loaded(made) => subject.databases.ask(made, &check.query, check.timeout)?,
    };
    if let Some(expected) = &check.expect
        && answer.trim_end() != expected.trim_end()
    {
        bail!("the answer is {:?}, not {:?}", shown(&answer), shown(expected));
    }
    if let Some(least) = check.at_least {
        let number: f64 = answer
            .trim()
            .parse()
            .map_err(|_| anyhow!("the answer is {:?}, which is no number", shown(&answer)))?;
        if number < least as f64 {
            bail!("the answer is {number}, less than {least}");
        }
    }
    Ok(())
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The whole answer as text: columns divided by tabs, rows by line ends.
fn ask(file: &Path, query: &str, timeout: Duration, progress: &Progress) -> Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(file, flags)
        .with_context(|| format!("opening the restored database {}", file.display()))?;
    let handle = database.get_interrupt_handle();
    let (done, deadline) = (AtomicBool::new(false), Instant::now() + timeout);
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if progress.is_cancelled() || Instant::now() >= deadline {
                    handle.interrupt();
                }
                thread::park_timeout(TICK.min(Duration::from_millis(20)));
            }
        });
        let answer = rows(&database, query);
        done.store(true, Ordering::Relaxed);
        answer
    });
    match answer {
        Ok(answer) => Ok(answer),
        Err(_) if progress.is_cancelled() => Err(Interrupted.into()),
        Err(_) if Instant::now() >= deadline => {
            bail!("the query did not end within {}", humantime::format_duration(timeout))
        }
        Err(e) => Err(e.context("asking the restored database")),
    }
}

fn rows(database: &Connection, query: &str) -> Result<String> {
    let mut statement = database.prepare(query)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut text = String::new();
    while let Some(row) = rows.next()? {
        if !text.is_empty() {
            text.push('\n');
        }
        for column in 0..columns {
            if column > 0 {
                text.push('\t');
            }
            match row.get_ref(column)? {
                ValueRef::Null => text.push_str("NULL"),
                ValueRef::Integer(number) => text.push_str(&number.to_string()),
                ValueRef::Real(number) => text.push_str(&number.to_string()),
                ValueRef::Text(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
                ValueRef::Blob(bytes) => text.push_str(&hex::encode(bytes)),
            }
        }
        if text.len() > MOST {
            bail!("the answer is longer than 1 MiB");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sqlite");
        let made = Connection::open(&file).unwrap();
        made.execute_batch(
            "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (NULL, x'00ff'), (2.5, 'ü')",
        )
        .unwrap();
        (folder, file)
    }

    #[test]
    fn an_answer_is_columns_by_tabs_and_rows_by_lines() {
        let (_folder, file) = database();
        let answer = ask(&file, "SELECT a, b FROM t", Duration::from_secs(60), &Progress::default()).unwrap();
        assert_eq!(answer, "1\tx\nNULL\t00ff\n2.5\tü");
    }

    #[test]
    fn a_query_can_change_nothing_and_ends_in_time() {
        let (_folder, file) = database();
        let ask = |query: &str, timeout| ask(&file, query, timeout, &Progress::default()).unwrap_err();
        let error = format!("{:#}", ask("DELETE FROM t", Duration::from_secs(60)));
        assert!(error.contains("readonly"), "{error}");
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        let error = format!("{:#}", ask(endless, Duration::from_millis(200)));
        assert!(error.contains("did not end within 200ms"), "{error}");
    }
}
