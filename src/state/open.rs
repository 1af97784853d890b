//! Making, opening and migrating the database file.
//!
//! Never open `state.db` by other means than SQLite in this process: closing any descriptor of it would
//! drop the POSIX locks of every connection.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::schema::{APPLICATION_ID, STEPS};
use super::{DATABASE_FILE, Inner, STATUS_FILE, State, StateError};

/// How long a write waits for another process's.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl State {
    /// Opens the database in `dir` for reading and writing. Makes folder (0755) and file (0600) when
    /// missing, and brings an older version forward, keeping a copy of it as `state.db.v1-<date>`.
    ///
    /// Run by root, the files are given to the owner of the folder, so that a service that runs as that
    /// user can go on with them.
    pub fn open(dir: &Path, now: DateTime<Utc>) -> Result<State, StateError> {
        Self::open_in(dir, now, false)
    }

    /// A new database in a private folder of its own among the temporary files, removed with the last handle.
    pub fn open_temporary(now: DateTime<Utc>) -> Result<State, StateError> {
        let dir = std::env::temp_dir().join(format!("backup-agent-{:016x}", rand::random::<u64>()));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| StateError::from_io(&dir, "make a temporary state folder", e))?;
        Self::open_in(&dir, now, true).inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir); // the error to report is the first one
        })
    }

    fn open_in(dir: &Path, now: DateTime<Utc>, temporary: bool) -> Result<State, StateError> {
        make_folder(dir)?;
        let path = dir.join(DATABASE_FILE);
        if make_private_file(&path)? && dir.join(STATUS_FILE).exists() {
            tracing::warn!(
                "the state database {} was missing and is begun anew, though {STATUS_FILE} beside it tells of an earlier one",
                path.display()
            );
        }
        adopt_files(&path)
            .map_err(|e| StateError::from_io(&path, "give it to the owner of its folder", e))?;
        let file = identity(&path).map_err(|e| StateError::from_io(&path, "look at it", e))?;
        let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate(&mut writer, &path, STEPS, now)?;
        use_wal(&writer, &path)?;
        let sql = |doing: &'static str| {
            let path = path.clone();
            move |e| StateError::from_sql(&path, doing, e)
        };
        writer.pragma_update(None, "synchronous", "FULL").map_err(sql("set it up"))?;
        let instance_id = instance_id(&writer, &path)?;
        let reader = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        reader.pragma_update(None, "query_only", true).map_err(sql("set it up"))?;
        let inner = Inner {
            dir: dir.into(),
            path,
            instance_id,
            identity: file,
            writer: Some(Mutex::new(writer)),
            reader: Mutex::new(reader),
            temporary,
        };
        Ok(State { inner: Arc::new(inner) })
    }

    /// Opens the database in `dir` for reading only, beside whoever writes it. Makes and changes nothing
    /// (SQLite may make its `-wal` and `-shm` files, which belong to the owner of the database).
    pub fn open_read_only(dir: &Path) -> Result<State, StateError> {
        let path = dir.join(DATABASE_FILE);
        let file = match path.metadata() {
            // Made by a first `open` that has not come to the tables yet, or never did.
            Ok(meta) if meta.len() == 0 && !with_suffix(&path, "-wal").exists() => {
                return Err(StateError::NotFound { path });
            }
            Ok(meta) => (meta.dev(), meta.ino()),
            Err(e) => return Err(StateError::from_io(&path, "look at it", e)),
        };
        let reader = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let known = STEPS.len() as u32;
        match version(&reader, &path, known)? {
            0 => return Err(StateError::NotFound { path }),
            found if found < known => return Err(StateError::NeedsMigration { path, found, known }),
            _ => {}
        }
        let instance_id = instance_id(&reader, &path)?;
        let inner = Inner {
            dir: dir.into(),
            path,
            instance_id,
            identity: file,
            writer: None,
            reader: Mutex::new(reader),
            temporary: false,
        };
        Ok(State { inner: Arc::new(inner) })
    }

    /// Reads every page and says what is damaged. Takes time in proportion to the file.
    pub fn check_integrity(&self) -> Result<(), StateError> {
        let doing = "check its integrity";
        let answer: String =
            self.read(doing, |tx| tx.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
        if answer == "ok" {
            return Ok(());
        }
        Err(StateError::Corrupt { path: self.inner.path.clone(), doing: doing.into(), detail: answer })
    }
}

fn instance_id(connection: &Connection, path: &Path) -> Result<String, StateError> {
    connection
        .query_row("SELECT value FROM meta WHERE key = 'instance_id'", [], |row| row.get(0))
        .map_err(|e| StateError::from_sql(path, "read the instance id", e))
}

/// Which file stands at `path`.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// Run by root: gives files that root left before the folder got its owner to that owner. By path, since
/// opening them here would drop locks; SQLite itself makes `-wal` and `-shm` like the database.
fn adopt_files(path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new(".")).metadata()?;
    for file in [path.to_path_buf(), with_suffix(path, "-wal"), with_suffix(path, "-shm")] {
        match file.symlink_metadata() {
            Ok(meta) if (meta.uid(), meta.gid()) != (folder.uid(), folder.gid()) => {
                std::os::unix::fs::lchown(&file, Some(folder.uid()), Some(folder.gid()))?;
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn make_folder(dir: &Path) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|e| match e.kind() {
        // "Not found" would read as if there were no state yet; here the folder cannot be made.
        io::ErrorKind::NotFound => {
            StateError::Io { path: dir.into(), doing: "make the state folder".into(), source: e }
        }
        _ => StateError::from_io(dir, "make the state folder", e),
    })
}

/// Makes `path` with mode 0600, given to the owner of its folder. False when it is there already.
fn make_private_file(path: &Path) -> Result<bool, StateError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            give_to_folder_owner(&file, path)
                .map_err(|e| StateError::from_io(path, "give it to the owner of its folder", e))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(StateError::from_io(path, "make it", e)),
    }
}

/// Gives a file just made to the owner of the folder it stands in. Only root can, and only root has to.
pub(super) fn give_to_folder_owner(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new(".")).metadata()?;
    let meta = file.metadata()?;
    if (meta.uid(), meta.gid()) == (folder.uid(), folder.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StateError> {
    // No mutex inside SQLite: each connection stands behind one of ours.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let sql = |e| StateError::from_sql(path, "open it", e);
    // SQLITE_OPEN_NOFOLLOW refuses a link anywhere in the path; only one in place of the file is foreign.
    let real = path.parent().and_then(|p| p.canonicalize().ok()).map(|p| p.join(DATABASE_FILE));
    let connection = Connection::open_with_flags(real.as_deref().unwrap_or(path), flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The version of the database; 0 for one without tables. Refuses later versions and other programs' files.
fn version(connection: &Connection, path: &Path, known: u32) -> Result<u32, StateError> {
    // One statement, so that what is seen is all from before or all from after another's migration.
    let (application, found, tables): (i64, i64, i64) = connection
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id),
                    (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_schema",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|e| StateError::from_sql(path, "read its version", e))?;
    if application == i64::from(APPLICATION_ID) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return if found > known {
            Err(StateError::TooNew { path: path.into(), found, known })
        } else {
            Ok(found)
        };
    }
    if (application, found, tables) == (0, 0, 0) {
        return Ok(0);
    }
    Err(StateError::Foreign { path: path.into() })
}

/// Brings the database to version `steps.len()`. Safe against another process that does the same.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    steps: &[&str],
    now: DateTime<Utc>,
) -> Result<(), StateError> {
    let known = steps.len() as u32;
    let found = version(connection, path, known)?;
    if found == known {
        return Ok(());
    }
    if found > 0 {
        keep_copy(connection, path, found, now)?;
    }
    let sql = |e| StateError::from_sql(path, "bring it to the current version", e);
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    // Read again under the lock: somebody else may have been faster.
    let found = version(&tx, path, known)?;
    for step in &steps[found as usize..] {
        tx.execute_batch(step).map_err(sql)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    tx.pragma_update(None, "user_version", known).map_err(sql)?;
    tx.commit().map_err(sql)
}

/// Writes `state.db.v<version>-<date>` beside the database. One that is there already is left alone: it
/// is from an attempt that did not come to its end, or from the same day.
fn keep_copy(
    connection: &Connection,
    path: &Path,
    version: u32,
    now: DateTime<Utc>,
) -> Result<(), StateError> {
    let copy = with_suffix(path, &format!(".v{version}-{}", now.format("%Y%m%d")));
    if copy.metadata().is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    make_private_file(&copy)?;
    let written = connection
        .execute("VACUUM INTO ?1", [copy.to_string_lossy()])
        .map_err(|e| StateError::from_sql(&copy, "keep a copy of the older version", e))
        // VACUUM INTO does not sync what it wrote.
        .and_then(|_| {
            File::open(&copy)
                .and_then(|file| file.sync_all())
                .map_err(|e| StateError::from_io(&copy, "sync the copy of the older version", e))
        });
    if written.is_err() {
        // Half a copy must not pass for one; the error above is the one worth telling.
        let _ = fs::remove_file(&copy);
    }
    written
}

/// Switching to WAL needs the file alone, and SQLite does not call the busy handler for it.
fn use_wal(connection: &Connection, path: &Path) -> Result<(), StateError> {
    let doing = "switch it to write-ahead logging";
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let source = io::Error::other(format!("journal mode stays {mode}"));
                return Err(StateError::Io { path: path.into(), doing: doing.into(), source });
            }
            Err(e)
                if matches!(
                    e.sqlite_error_code(),
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                ) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(StateError::from_sql(path, doing, e)),
        }
    }
}
