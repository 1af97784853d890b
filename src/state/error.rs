//! Why the state could not be read or written.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::model::RunId;

/// Why the state could not be read or written. Each text names the file, what was tried, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no database.
    #[error("there is no state database {}: nothing has been recorded there yet", path.display())]
    NotFound {
        /// The database file.
        path: PathBuf,
    },
    /// The file or its folder may not be read or written by this user.
    #[error("no permission for the state database {} ({doing}: {detail}); run as the owner of its folder, or as root", path.display())]
    Permission {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// The system's answer.
        detail: String,
    },
    /// Written by a later program.
    #[error("the state database {} has version {found}, this program knows versions up to {known}: update the agent", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The highest version this program knows.
        known: u32,
    },
    /// Written by an earlier program, and opened only for reading, so that it cannot be migrated.
    #[error("the state database {} has version {found}, this program reads version {known}: `agent tend` brings it up to date", path.display())]
    NeedsMigration {
        /// The database file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version this program reads.
        known: u32,
    },
    /// A database of some other program.
    #[error("{} is an SQLite database of another program; name another state_dir", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("the state database {} is damaged ({doing}: {detail}); move it and its -wal and -shm aside, and a new one is begun", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// What SQLite or the decoder found.
        detail: String,
    },
    /// Another process held the write lock for the whole busy timeout.
    #[error("the state database {} is locked by another process ({doing}; waited {} s)", path.display(), super::open::BUSY_TIMEOUT.as_secs())]
    Locked {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
    },
    /// No space, or no inode, left.
    #[error("no space left for the state database {} ({doing}: {detail})", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// The system's answer.
        detail: String,
    },
    /// The file was moved, removed or replaced while it was open: what would be written now, nobody would
    /// read.
    #[error("cannot {doing}: the state database {} was moved or replaced while it was in use; restart the agent", path.display())]
    Replaced {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
    },
    /// A write through a handle that was opened for reading.
    #[error("cannot {doing}: the state database {} was opened for reading only", path.display())]
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
    },
    /// The run named is not in the database.
    #[error("the state database knows no run {run_id}")]
    UnknownRun {
        /// The run asked for.
        run_id: RunId,
    },
    /// The file system failed.
    #[error("cannot {doing} ({})", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// SQLite failed in another way.
    #[error("cannot {doing} in the state database {}", path.display())]
    Sql {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
}

impl StateError {
    /// True when what was found in the database keeps everybody from using it, whoever asks and whenever.
    pub fn is_unusable(&self) -> bool {
        matches!(self, Self::TooNew { .. } | Self::Foreign { .. } | Self::Corrupt { .. })
    }

    /// True when no write can be expected to work until a person does something, so that a run should go
    /// on without the state and tell by another way. `Locked` is not among them: it passes.
    pub fn is_lasting(&self) -> bool {
        !matches!(
            self,
            StateError::Locked { .. } | StateError::UnknownRun { .. } | StateError::ReadOnly { .. }
        )
    }

    pub(super) fn from_sql(path: &Path, doing: &str, error: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        let doing = doing.to_owned();
        let detail = error.to_string();
        match &error {
            rusqlite::Error::SqliteFailure(code, _) => match (code.code, code.extended_code) {
                (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => {
                    Self::Corrupt { path, doing, detail }
                }
                (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Self::Locked { path, doing },
                // The shared-memory file is sized by ftruncate and a write, whose ENOSPC SQLite reports as
                // this I/O error instead of "full".
                (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
                    Self::Full { path, doing, detail }
                }
                (ErrorCode::PermissionDenied | ErrorCode::ReadOnly, _) => {
                    Self::Permission { path, doing, detail }
                }
                (_, ffi::SQLITE_CANTOPEN_SYMLINK) => {
                    let text = "it is a symbolic link: name the folder it leads to as state_dir";
                    Self::Io { path, doing, source: io::Error::other(text) }
                }
                (ErrorCode::CannotOpen, _) => match path.metadata() {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Self::NotFound { path },
                    _ => Self::Permission { path, doing, detail },
                },
                _ => Self::Sql { path, doing, source: error },
            },
            // A value no version of this program wrote.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Corrupt { path, doing, detail },
            _ => Self::Sql { path, doing, source: error },
        }
    }

    pub(super) fn from_io(path: &Path, doing: &str, error: io::Error) -> Self {
        let path = path.to_path_buf();
        let doing = doing.to_owned();
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path, doing, detail }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, doing, detail },
            _ => Self::Io { path, doing, source: error },
        }
    }
}
