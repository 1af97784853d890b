//! Messages kept as files while the state cannot be written.
//!
//! `<state_dir>/spool/*.json`, one a message, mode 0600, each written whole or not at all. They are sent
//! from here; as soon as the state can be written again they move into the outbox, those that were
//! accepted meanwhile too, so that the agent knows what was told. One that is refused for good while
//! there is no state is renamed to `*.refused`, so that it stays visible.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::state::NewMessage;

/// The folder below the state folder.
pub const FOLDER: &str = "spool";

/// A message to one receiver, in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Failed attempts so far.
    #[serde(default)]
    pub attempts: u32,
    /// Before this it is not tried again.
    #[serde(default)]
    pub next_attempt: Option<DateTime<Utc>>,
    /// The answer to the last attempt.
    #[serde(default)]
    pub last_error: Option<String>,
    /// When a server accepted it.
    #[serde(default)]
    pub delivered: Option<DateTime<Utc>>,
    /// The message.
    pub message: NewMessage,
}

/// A spooled message and its file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub message: Spooled,
}

/// Writes a message; the file's name follows from its Message-ID, so that the same message is kept once.
pub fn write(state_dir: &Path, message: &Spooled) -> Result<PathBuf> {
    use sha2::Digest as _;
    let folder = state_dir.join(FOLDER);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make the spool folder {}", folder.display()))?;
    let m = &message.message;
    let name = hex::encode(&sha2::Sha256::digest(format!("{}\n{}", m.message_id, m.recipient))[..8]);
    let path = folder.join(format!("{}-{name}.json", message.created.format("%Y%m%dT%H%M%SZ")));
    let part = folder.join(format!(".{name}-{}.part", std::process::id()));
    let text = serde_json::to_vec_pretty(message).context("cannot write a message as JSON")?;
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        fs::File::open(&folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot keep a message in {}", path.display()))?;
    Ok(path)
}

/// All spooled messages, oldest first, and the files that could not be read, each with the reason. An
/// absent folder is an empty one.
pub fn read(state_dir: &Path) -> Result<(Vec<Entry>, Vec<String>)> {
    let folder = state_dir.join(FOLDER);
    let listed = match fs::read_dir(&folder) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(e) => {
            return Err(e).with_context(|| format!("cannot list the spool folder {}", folder.display()));
        }
    };
    let mut paths = Vec::new();
    for entry in listed {
        let path =
            entry.with_context(|| format!("cannot list the spool folder {}", folder.display()))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut entries, mut broken) = (Vec::new(), Vec::new());
    for path in paths {
        let text = match fs::read(&path) {
            Ok(text) => text,
            // Another process may have delivered it in between.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                broken.push(format!("{}: {e}", path.display()));
                continue;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(message) => entries.push(Entry { path, message }),
            Err(e) => {
                // Put aside, so that it is reported once and stays visible.
                let aside = path.with_extension("broken");
                let kept = if fs::rename(&path, &aside).is_ok() { aside } else { path };
                broken.push(format!("{}: {e}", kept.display()));
            }
        }
    }
    Ok((entries, broken))
}

/// Forgets a message that the outbox has taken over.
pub fn remove(entry: &Entry) -> Result<()> {
    match fs::remove_file(&entry.path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove the delivered message {}", entry.path.display()))
        }
        _ => Ok(()),
    }
}

/// Puts a message aside that will not be tried again; it stays for people to see.
pub fn refuse(entry: &Entry) -> Result<()> {
    let aside = entry.path.with_extension("refused");
    fs::rename(&entry.path, &aside).with_context(|| format!("cannot put {} aside", entry.path.display()))
}
