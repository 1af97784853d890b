//! SQLite databases, copied by SQLite itself while others use them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Capture, Context, Part, RANK_DATABASE, Ready, Source, StreamSource};
use crate::config::SqliteConfig;
use crate::event::Interrupted;
use crate::manifest::{Content, Kind};
use crate::model::ComponentName;

/// The first bytes of every database that is neither empty nor encrypted.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Pages copied between two looks at whether the run should stop: 16 MiB of usual pages.
const PAGES_PER_STEP: i32 = 4096;
/// How long SQLite waits for a lock before we look whether the run should stop.
const BUSY_SLICE: Duration = Duration::from_millis(200);
/// How many of the problems that the integrity check found are told.
const SHOWN_PROBLEMS: usize = 5;

/// One database file.
///
/// The copy is made by the online backup API inside one read transaction, so that it is one moment's state
/// and a busy writer cannot make it start over. With a write-ahead log nobody waits for it; without one,
/// writers wait until the pages are copied. The copy is checked (`PRAGMA integrity_check`) before its first
/// byte is streamed: a damaged database never becomes a good backup.
#[derive(Debug)]
pub struct SqliteSource {
    name: ComponentName,
    config: SqliteConfig,
}

impl SqliteSource {
    /// Makes the source; the file is not looked at yet.
    pub fn new(name: ComponentName, config: SqliteConfig) -> Self {
        Self { name, config }
    }

    fn path(&self) -> &Path {
        &self.config.path
    }

    /// Translates what SQLite says about the source into what is wrong with it.
    fn explain(&self, error: rusqlite::Error) -> anyhow::Error {
        let path = self.path().display();
        let sentence = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => format!("the SQLite database {path} is damaged"),
            Some(ErrorCode::NotADatabase) => format!("{path} is not an SQLite database, or an encrypted one"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
                "the SQLite database {path} was locked by a writer for {}",
                humantime::format_duration(self.config.timeout)
            ),
            Some(ErrorCode::CannotOpen) => format!("the SQLite database {path} cannot be opened"),
            _ => format!("the SQLite database {path} cannot be read"),
        };
        anyhow!(error).context(sentence)
    }

    /// Opens the database and begins a read transaction, waiting for a writer until the time is up.
    fn begin(&self, context: &Context) -> anyhow::Result<Connection> {
        let deadline = Instant::now() + self.config.timeout;
        let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        loop {
            ensure!(!context.progress.is_cancelled(), Interrupted);
            let error = match self.try_begin(flags) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if Instant::now() < deadline => {}
                // What a crashed writer left (a hot journal, a log without its index) is recovered by a
                // connection that may write, and by no other.
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)
                    if flags == OpenFlags::SQLITE_OPEN_READ_ONLY =>
                {
                    flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
                }
                _ => return Err(self.explain(error)),
            }
        }
    }

    fn try_begin(&self, mode: OpenFlags) -> rusqlite::Result<Connection> {
        // Without SQLITE_OPEN_URI: a path that begins with `file:` is still a path.
        let connection = Connection::open_with_flags(self.path(), mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_SLICE)?;
        connection.execute_batch("BEGIN")?;
        // The lock is taken by the first read, not by BEGIN.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    }

    fn copy(&self, source: &Connection, copy: &Path, context: &Context) -> anyhow::Result<()> {
        let to_scratch = || format!("writing a copy of {} to {}", self.path().display(), copy.display());
        let mut target = Connection::open(copy).with_context(to_scratch)?;
        // The copy need not survive a crash: the run would not either.
        target
            .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            .with_context(to_scratch)?;
        {
            let backup = Backup::new(source, &mut target).with_context(to_scratch)?;
            let deadline = Instant::now() + self.config.timeout;
            loop {
                ensure!(!context.progress.is_cancelled(), Interrupted);
                match backup.step(PAGES_PER_STEP) {
                    Ok(StepResult::Done) => break,
                    Ok(StepResult::More) => {}
                    Ok(_) if Instant::now() < deadline => thread::sleep(BUSY_SLICE / 4),
                    Ok(_) => bail!("the copy of {} is locked by somebody else", self.path().display()),
                    Err(error) if is_about_space(&error) => return Err(anyhow!(error).context(to_scratch())),
                    Err(error) => return Err(self.explain(error)),
                }
            }
        }
        let problems =
            check(&target, context).map_err(|error| match error.downcast::<rusqlite::Error>() {
                Ok(error) => self.explain(error),
                Err(error) => error,
            })?;
        ensure!(
            problems.is_empty(),
            "the SQLite database {} is damaged; its integrity check says: {}",
            self.path().display(),
            problems.join("; ")
        );
        target.close().map_err(|(_, error)| error).with_context(to_scratch)
    }
}

fn is_about_space(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// What `PRAGMA integrity_check` finds; ends early when the run is to stop.
fn check(connection: &Connection, context: &Context) -> anyhow::Result<Vec<String>> {
    let interrupt = connection.get_interrupt_handle();
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if context.progress.is_cancelled() {
                    interrupt.interrupt();
                }
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        let result = (|| {
            let mut statement = connection.prepare(&format!("PRAGMA integrity_check({SHOWN_PROBLEMS})"))?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        })();
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    });
    ensure!(!context.progress.is_cancelled(), Interrupted);
    let mut lines = result?;
    lines.retain(|line| line != "ok");
    Ok(lines)
}

impl Source for SqliteSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "sqlite"
    }

    fn preflight(&self, _: &Context) -> anyhow::Result<Ready> {
        let path = self.path();
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("the SQLite database {} cannot be opened", path.display()))?;
        let meta = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
        ensure!(meta.is_file(), "{} is not a file, so it is no SQLite database", path.display());
        ensure!(meta.len() > 0, "the SQLite database {} is an empty file: it holds no table", path.display());
        let mut magic = [0; 16];
        let whole = file.read_exact(&mut magic).is_ok();
        ensure!(
            whole && magic == *MAGIC,
            "{} is not an SQLite database, or an encrypted one",
            path.display()
        );
        Ok(Ready::whole(Part::whole(&self.name, "sqlite", Kind::Stream, Content::Sqlite)))
    }

    fn open(&self, _: &Part, context: &Context) -> anyhow::Result<Capture> {
        // An empty file would be copied to nothing at all.
        self.preflight(context)?;
        let copy = Copy(context.scratch.join(format!("{}.sqlite", self.name)));
        copy.remove();
        let source = self.begin(context)?;
        self.copy(&source, &copy.0, context)?;
        drop(source);
        let file = File::open(&copy.0).with_context(|| format!("opening {}", copy.0.display()))?;
        let expected = file.metadata().with_context(|| format!("looking at {}", copy.0.display()))?.len();
        Ok(Capture::Stream(Box::new(CopyStream { file: file.take(expected), expected, _copy: copy })))
    }

    fn rank(&self) -> u8 {
        RANK_DATABASE
    }
}

/// A copy in the scratch folder, removed with what SQLite puts beside it.
#[derive(Debug)]
struct Copy(PathBuf);

impl Copy {
    fn remove(&self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            // Mostly there is none; the run removes the whole folder anyway.
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}

struct CopyStream {
    file: std::io::Take<File>,
    expected: u64,
    _copy: Copy,
}

impl StreamSource for CopyStream {
    fn reader(&mut self) -> &mut (dyn Read + Send) {
        &mut self.file
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let missing = self.file.limit();
        ensure!(missing == 0, "the last {missing} of {} bytes of the copy were not read", self.expected);
        Ok(())
    }
}
