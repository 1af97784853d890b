//! The log files: one for what the agent does, one for what its health checks find.
//!
//! Several processes write the same file, so each line goes out in one call on a file opened to append. A file
//! that cannot be opened, or a disk that is full, never stops a backup: the line is on standard error all the
//! same, the trouble is told there once, and the file is tried again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::{HEALTH, Settings};

/// The owner writes, a group of readers (`adm`, say) may be given by whoever rotates the file.
const MODE: u32 = 0o640;
/// How long a file that could not be opened is left alone.
const AGAIN: Duration = Duration::from_secs(5);

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Runs, copies, messages, the daemon: everything but health checks.
    Runs,
    /// Health checks.
    Health,
}

impl Purpose {
    fn of(metadata: &Metadata<'_>) -> Self {
        if metadata.target() == HEALTH { Purpose::Health } else { Purpose::Runs }
    }
}

/// The log files of this process.
pub(super) struct LogFiles {
    runs: Mutex<LogFile>,
    health: Mutex<LogFile>,
    /// Told once when a file begins to make trouble.
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl LogFiles {
    /// Files that are not open yet; `tell` is told of what goes wrong with them.
    pub(super) fn new(settings: &Settings, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            runs: Mutex::new(LogFile::new(settings.run_file.clone())),
            health: Mutex::new(LogFile::new(settings.health_file.clone())),
            tell: Box::new(tell),
        }
    }

    /// Takes over other paths; what stays the same stays open.
    pub(super) fn set_paths(&self, settings: &Settings) {
        for (file, path) in [(&self.runs, &settings.run_file), (&self.health, &settings.health_file)] {
            self.with(file, |file| {
                if file.path != *path {
                    *file = LogFile::new(path.clone());
                    file.open();
                }
            });
        }
    }

    /// Opens all files anew.
    pub(super) fn reopen(&self) {
        for file in [&self.runs, &self.health] {
            self.with(file, LogFile::open);
        }
    }

    /// What is wrong with the files, if something is. Opening is tried again first.
    pub(super) fn trouble(&self) -> Option<String> {
        let all: Vec<String> = [&self.runs, &self.health]
            .into_iter()
            .filter_map(|file| {
                self.with(file, |file| {
                    file.open_if_needed();
                    file.trouble.clone()
                })
            })
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn write(&self, purpose: Purpose, line: &[u8]) {
        let file = match purpose {
            Purpose::Runs => &self.runs,
            Purpose::Health => &self.health,
        };
        self.with(file, |file| file.append(line));
    }

    /// Works with one of the files, and tells of a trouble that is new.
    fn with<T>(&self, file: &Mutex<LogFile>, work: impl FnOnce(&mut LogFile) -> T) -> T {
        let mut file = lock(file);
        let before = file.trouble.clone();
        let result = work(&mut file);
        let new = file.trouble.clone().filter(|_| file.trouble != before);
        drop(file);
        if let Some(text) = new {
            (self.tell)(&format!("{text}. Everything goes on without it; it is tried again"));
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change leaves the data whole, so that a panic elsewhere is no reason to lose a log.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// One file.
#[derive(Debug, Default)]
struct LogFile {
    /// Where it is; `None` where nobody wants it.
    path: Option<PathBuf>,
    file: Option<File>,
    /// What is wrong with it.
    trouble: Option<String>,
    /// When it was last opened, or tried to be.
    tried: Option<Instant>,
    /// The last line could not be written to its end.
    cut: bool,
}

impl LogFile {
    fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// Opens the file anew; when that fails, the one that is open stays in use.
    fn open(&mut self) {
        let Some(path) = &self.path else { return };
        self.tried = Some(Instant::now());
        match open(path) {
            Ok(file) => {
                self.file = Some(file);
                self.trouble = None;
                self.cut = false;
            }
            Err(error) => {
                self.trouble = Some(format!("the log file {} cannot be opened: {error}", path.display()))
            }
        }
    }

    fn open_if_needed(&mut self) {
        if self.file.is_none() && self.tried.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.open();
        }
    }

    fn append(&mut self, line: &[u8]) {
        self.open_if_needed();
        let (Some(file), Some(path)) = (&mut self.file, &self.path) else { return };
        let result = (|| {
            if self.cut {
                file.write_all(b"\n")?;
                self.cut = false;
            }
            // One call for one line: another process may write the same file.
            match file.write(line)? {
                written if written == line.len() => Ok(()),
                written => {
                    self.cut = true;
                    file.write_all(&line[written..])?;
                    self.cut = false;
                    Ok(())
                }
            }
        })();
        self.trouble = result
            .err()
            .map(|error: io::Error| format!("the log file {} cannot be written: {error}", path.display()));
    }
}

/// Opens a log file to append to it, and makes it if need be.
fn open(path: &Path) -> io::Result<File> {
    // Not waiting: a pipe without a reader would hold up whoever logs.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(flags);
    let file = match options.clone().create_new(true).mode(MODE).open(path) {
        Ok(file) => {
            // Past the umask of a service, which may be stricter.
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            file
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.create(true).open(path)?,
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Writes one line to the file of its purpose.
pub(super) struct ToFile {
    files: Arc<LogFiles>,
    purpose: Purpose,
}

impl Write for ToFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.files.write(self.purpose, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a writer for each line.
#[derive(Clone)]
pub(super) struct IntoFiles(pub(super) Arc<LogFiles>);

impl<'w> MakeWriter<'w> for IntoFiles {
    type Writer = ToFile;

    fn make_writer(&'w self) -> ToFile {
        ToFile { files: Arc::clone(&self.0), purpose: Purpose::Runs }
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> ToFile {
        ToFile { files: Arc::clone(&self.0), purpose: Purpose::of(metadata) }
    }
}
