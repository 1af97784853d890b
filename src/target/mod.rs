//! Where backups are stored.
//!
//! A target holds finished backups, each in a folder of its own, and unfinished ones where nobody takes them
//! for finished. What a caller may rely on is said at [`Target`] and [`Stage`]; every kind keeps to it.

mod decrypted;
mod directory;
mod failure;
mod limited;
pub mod remote;
mod scan;
mod sentinel;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use decrypted::{Decrypted, explain};
pub use directory::{DirectoryTarget, Mount};
pub use failure::{Permanent, Unreached, is_permanent, says_nothing_of_content};
pub use limited::limited;
pub use scan::{Found, Scan, Unread};
pub use sentinel::{SENTINEL_FILE, Sentinel};

use crate::archive::ReadAt;
use crate::config::{Place, TargetConfig};
use crate::event::Progress;
use crate::manifest::Pin;
use crate::model::{RunId, TargetName};
use crate::secret_file::{self, Readers};
use crate::state::TargetIdentity;

/// A place where backups are stored. All calls block; one that may hang is made in a child process.
pub trait Target: Send + Sync {
    /// Its name.
    fn name(&self) -> &TargetName;

    /// Looks whether it is there, is what it should be, and can be written; says how much room it has, where
    /// that can be asked for.
    fn probe(&self) -> Result<Option<Space>>;

    /// Says what stands there now, whatever was expected.
    fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity>;

    /// Gives the target a sentinel file, or finds the one it has, which is left alone; gives the sentinel.
    fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel>;

    /// Reads every manifest there is, whatever the state knows. Each folder looked at is counted as a stored byte
    /// of `progress`, as a sign of life.
    fn scan(&self, progress: &Progress) -> Result<Scan>;

    /// Looks whether it can be read, so that a target that is away is told apart from a backup that is gone.
    fn probe_readable(&self, location: &str) -> Result<()>;

    /// Begins a backup, invisible until it is published at one of `locations`.
    fn stage(&self, run: &RunId, locations: &[String]) -> Result<Box<dyn Stage>>;

    /// Opens one file of a finished backup. `Cold` reads what is stored, not what a cache remembers.
    fn open(&self, location: &str, file: &str, cache: Cache) -> Result<Box<dyn StoredFile>>;

    /// True when a folder of this run stands at `location`, whole or not.
    fn holds(&self, location: &str, run: &RunId) -> Result<bool>;

    /// Removes a finished backup. Whatever happens midway, a half-removed backup is never taken for a whole
    /// one, and calling again goes on. A folder that is another run's is left alone: this run's is gone.
    /// With [`Removal::Retained`] nothing happened: the backup is there, whole. A pin goes with its backup; whoever
    /// must not remove a pinned one asks [`Target::pin`] first.
    fn remove(&self, location: &str, run: &RunId) -> Result<Removal>;

    /// Why a person keeps the backup at `location`, when somebody does: the content of its file
    /// [`PIN_FILE`](crate::manifest::PIN_FILE). None for a backup that is not there, and where reading is not allowed.
    fn pin(&self, location: &str) -> Result<Option<Pin>>;

    /// Writes that file beside the manifest of the backup of `run`, or takes it away; both may be done again.
    /// Storage that can hold a backup for good may do that, too. A location that holds no backup of this run is an
    /// error.
    fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()>;

    /// Runs of which something unfinished is here, whether they still write it or left it behind.
    fn unfinished(&self) -> Result<Vec<RunId>>;

    /// Removes what a dead run left unfinished; true when there was something.
    fn clean(&self, run: &RunId) -> Result<bool>;
}

/// A backup being written.
pub trait Stage: Send {
    /// Begins a file; `file` is a plain name. A name given twice is an error.
    fn create(&mut self, file: &str) -> Result<Box<dyn StagedFile>>;

    /// A private folder beside the files for what sources need on the way; gone when published.
    fn scratch(&mut self) -> Result<PathBuf>;

    /// The staging place relative to the target, for the record.
    fn place(&self) -> String;

    /// The location it will be published at, where that was decided when it began; no other is tried.
    fn settled(&self) -> Option<&str> {
        None
    }

    /// Makes the backup visible at `location`, durably. With [`Published::Taken`] nothing happened, and
    /// another location may be tried.
    fn publish(&mut self, location: &str) -> Result<Published>;

    /// Removes everything written so far, also what was published already.
    fn abandon(&mut self) -> Result<()>;
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is visible and durable.
    Done,
    /// Something of that name is there.
    Taken,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// It is gone.
    Removed,
    /// The storage does not let it go yet, and that is meant so: it keeps what was written for a time.
    Retained {
        /// Until when, where the storage says so.
        until: Option<DateTime<Utc>>,
    },
}

/// A file of a backup being written.
pub trait StagedFile: Write + Send {
    /// Says before the first byte how many there will be, where that is known.
    fn expect(&mut self, _length: u64) {}

    /// Checks that exactly `length` bytes arrived, makes them durable, and closes, each error reported.
    fn finish(self: Box<Self>, length: u64) -> Result<()>;
}

/// A file of a finished backup.
pub trait StoredFile: Read + Send {
    /// The same file, read by position.
    fn read_at(&self) -> &dyn ReadAt;
}

/// Whether a read may be answered from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// It may.
    Warm,
    /// It must come from the storage itself, as far as that can be asked for.
    Cold,
}

/// The room a target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
}

/// Makes the target that the configuration describes. `expected` is what must stand there, where that is known;
/// `scratch` is a folder of this machine for a run's needs, where the target has none of its own.
///
/// # Errors
/// A secret or a certificate that cannot be read, a secret that others can read.
pub fn open(
    name: &TargetName,
    config: &TargetConfig,
    expected: Option<TargetIdentity>,
    scratch: Option<&Path>,
) -> Result<Box<dyn Target>> {
    match &config.place {
        Place::Directory(directory) => {
            let mount = if directory.require_mount { Mount::Required } else { Mount::Any };
            let target = DirectoryTarget::new(name.clone(), directory.path.clone(), mount);
            Ok(Box::new(target.expecting(expected)))
        }
        away => {
            if let Some((_, file)) = config.secret_file() {
                let closed = secret_file::look(file, Readers::Owner);
                closed.map_err(Permanent).with_context(|| format!("target {name}"))?;
            }
            let store = match away {
                Place::S3(s3) => remote::s3::open(s3, config, scratch)
                    .map(|store| Box::new(store) as Box<dyn remote::Store>),
                away => remote::store(name, away),
            };
            let store = store.with_context(|| format!("target {name}"))?;
            let write_only = config.write_only();
            let scratch = scratch.map(Path::to_path_buf);
            let settings = remote::Settings { name: name.clone(), scratch, expected, write_only };
            Ok(remote::target(store, settings))
        }
    }
}

/// The folder of a backup relative to its target, and the names to try when it is taken: with seconds, then
/// with the run's id appended.
pub fn candidate_locations(
    template: &str,
    job: &str,
    host: &str,
    started: chrono::DateTime<chrono_tz::Tz>,
    run: &RunId,
) -> Vec<String> {
    let filled = template.replace("{job}", job).replace("{host}", host);
    let first = started.format(&filled).to_string();
    vec![first.clone(), format!("{first}{}", started.format("%S")), format!("{first}-{run}")]
}

/// True when `location` is a relative path of normal parts, none beginning with a dot.
pub(crate) fn is_safe_location(location: &str) -> bool {
    !location.is_empty()
        && Path::new(location).components().all(|part| match part {
            std::path::Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_folder_name_gets_seconds_and_then_the_run_id() {
        let run: RunId = "20261124T180005Z-k3f9qa".parse().unwrap();
        let started = chrono::DateTime::parse_from_rfc3339("2026-11-24T18:00:05Z").unwrap();
        let started = started.with_timezone(&chrono_tz::Europe::Berlin);
        let found = candidate_locations("{host}/{job}/daily/%Y/%m/%d/%H%M", "shop", "web1", started, &run);
        assert_eq!(found[0], "web1/shop/daily/2026/11/24/1900");
        assert_eq!(found[1], "web1/shop/daily/2026/11/24/190005");
        assert_eq!(found[2], "web1/shop/daily/2026/11/24/1900-20261124T180005Z-k3f9qa");
        assert!(found.iter().all(|l| is_safe_location(l)));
    }

    #[test]
    fn locations_that_leave_or_hide_are_refused() {
        for bad in ["", "/etc", "../x", "a/../b", ".partial-x", "a/.hidden"] {
            assert!(!is_safe_location(bad), "{bad:?} was accepted");
        }
    }
}
