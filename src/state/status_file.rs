//! `status.json`: the snapshot for those who may not open the database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::open::give_to_folder_owner;
use super::snapshot::{SNAPSHOT_VERSION, Snapshot};
use super::{State, StateError};

/// File name of the snapshot inside the state folder.
pub const STATUS_FILE: &str = "status.json";
/// Serialises writers, so that an older snapshot never replaces a newer one. Never removed.
const LOCK_FILE: &str = "status.lock";
/// How long a writer waits for another.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Where a snapshot came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The database: it is of this moment.
    Database,
    /// `status.json`: it is of [`Snapshot::written`]. The text says why the database was not read.
    StatusFile(String),
    /// `status.json` again, but not for want of a permission: nobody can use the database as it is, so no run
    /// can be recorded. The text says why.
    InsteadOfBroken(String),
}

/// Neither the database nor `status.json` could be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the state: {database}; nor {}: {status}", path.display())]
pub struct Unreadable {
    /// Why not the database.
    pub database: Box<StateError>,
    /// The status file.
    pub path: PathBuf,
    /// Why not the status file.
    pub status: io::Error,
}

/// Takes a snapshot and puts it in place of `status.json`, readable by all. Returns the snapshot.
pub fn write_status(state: &State, now: DateTime<Utc>) -> Result<Snapshot, StateError> {
    let path = state.dir().join(STATUS_FILE);
    // The snapshot is taken under the lock: who comes later has seen at least as much.
    let lock = lock(state.dir());
    let snapshot = state.snapshot(now)?;
    let json = serde_json::to_vec(&snapshot)
        .map_err(|e| StateError::from_io(&path, "write the status file", io::Error::other(e)))?;
    // Under the lock the temporary name is ours alone, so that what a killed writer left is used up.
    let suffix =
        if lock.is_some() { "json.new".to_owned() } else { format!("json.{:08x}", rand::random::<u32>()) };
    replace(&path, &path.with_extension(suffix), &json)
        .map_err(|e| StateError::from_io(&path, "write the status file", e))?;
    Ok(snapshot)
}

/// Reads `status.json` of a state folder.
pub fn read_status(dir: &Path) -> io::Result<Snapshot> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let bytes = fs::read(dir.join(STATUS_FILE))?;
    let damaged =
        |e: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, format!("it is damaged ({e})"));
    let Version { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version > SNAPSHOT_VERSION {
        let text = format!(
            "it has version {version}, this program reads up to {SNAPSHOT_VERSION}: update the agent"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

/// What readers that change nothing use: the database when it can be opened, else `status.json`.
pub fn load_for_reading(dir: &Path, now: DateTime<Utc>) -> Result<(Snapshot, Origin), Unreadable> {
    match State::open_read_only(dir).and_then(|state| state.snapshot(now)) {
        Ok(snapshot) => Ok((snapshot, Origin::Database)),
        Err(database) => match read_status(dir) {
            Ok(snapshot) if database.is_unusable() => {
                Ok((snapshot, Origin::InsteadOfBroken(database.to_string())))
            }
            Ok(snapshot) => Ok((snapshot, Origin::StatusFile(database.to_string()))),
            Err(status) => Err(Unreadable { database: database.into(), path: dir.join(STATUS_FILE), status }),
        },
    }
}

/// Without the lock (another writer hangs, or the folder takes no new file) the status file is still
/// worth writing; at worst it is a moment older than it could be.
fn lock(dir: &Path) -> Option<File> {
    let path = dir.join(LOCK_FILE);
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(file) => give_to_folder_owner(&file, &path).map(|()| file).ok()?,
        Err(_) => OpenOptions::new().write(true).open(&path).ok()?,
    };
    let deadline = Instant::now() + LOCK_WAIT;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(file)
}

fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(temporary)?;
        // Whatever the umask says: this file is for others.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        give_to_folder_owner(&file, path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    })();
    if written.is_err() {
        // The first error is the one worth telling.
        let _ = fs::remove_file(temporary);
    }
    written
}
