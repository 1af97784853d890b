//! Tar streams back into files.
//!
//! Safe as root, whatever the archive says: names are taken apart, `..` and absolute ones are refused, every
//! folder on the way is opened beneath the restore folder without following links, files are created
//! exclusively, and devices are made on request only. Owner, mode, attributes and times of a folder are set
//! when its content is done, because filling it would change them; further names of a file are made when the
//! file is there.
//!
//! A whole archive, or chosen entries of it, are restored by several threads, each with frames of its own
//! ([`restore_frames`]); an archive without an index is read from its beginning ([`restore_stream`]).

mod attributes;
mod frames;
mod later;
mod list;
mod place;
mod sparse;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use tar::EntryType;

use self::attributes::Attributes;
pub use self::frames::{DamagedFrame, Group, Groups, ReadFrame, damage, restore_frames};
use self::later::Later;
pub use self::list::{copy_tar_entry, list_tar};
use self::place::{Restorer, WriteError};
use self::sparse::{Filled, write_sparse};
use super::entries::{TarEntry, TarReader};
use super::header::END;
use crate::event::{Interrupted, Progress};
use crate::manifest::PathText;

/// How a restore behaves.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Replace files that are there.
    pub overwrite: bool,
    /// Keep set-uid and set-gid bits and capabilities.
    pub allow_setid: bool,
    /// Make devices and FIFOs.
    pub devices: bool,
    /// Set owners; only root may.
    pub owners: bool,
    /// Take owner ids as they are, without looking up names.
    pub numeric_owner: bool,
    /// Wait until what was restored is durable.
    pub sync: bool,
    /// Go on behind a damaged frame; what stood in it is told in the summary.
    pub keep_going: bool,
    /// Threads that restore, at least 1.
    pub threads: usize,
    /// Counters, and the wish to stop.
    pub progress: Arc<Progress>,
}

/// What came of a restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreSummary {
    /// Entries restored.
    pub entries: u64,
    /// Content bytes written.
    pub bytes: u64,
    /// Files whose set-uid and set-gid bits or capabilities were left out.
    pub setid_dropped: u64,
    /// Entries that stood in damaged frames; each is a problem too.
    pub lost: u64,
    /// Entries that were refused, failed or are lost, with the reason.
    pub problems: Vec<(PathText, String)>,
    /// Attributes that could not be set; the content is there.
    pub notes: Vec<(PathText, String)>,
}

impl RestoreSummary {
    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.setid_dropped += other.setid_dropped;
        self.lost += other.lost;
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
    }
}

/// Restores all entries of a tar stream below `root`, one after the other.
pub fn restore_stream(
    stream: &mut dyn Read,
    root: &Path,
    options: &RestoreOptions,
) -> Result<RestoreSummary> {
    let root_fd = open_root(root)?;
    let later = Mutex::new(Later::default());
    let mut restorer = Restorer::new(root_fd.as_fd(), options, &later)?;
    let mut archive = TarReader::new(stream);
    while let Some(entry) = archive.next().context("reading the archive")? {
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let size = entry.size;
        let attributes = Attributes::read(entry).context("reading the archive: a header is damaged")?;
        restorer.restore(&mut archive, size, attributes)?;
    }
    later.lock().map(|mut later| std::mem::take(&mut *later)).unwrap_or_default().finish(&mut restorer)?;
    sync(root_fd.as_fd(), root, options)?;
    Ok(restorer.summary)
}

/// Writes the content of the file at `path`, found in a stream of whole entries, to `out`; gives its length.
pub fn copy_entry(frames: &mut dyn Read, path: &[u8], out: &mut dyn Write) -> Result<u64> {
    let mut stream = frames.chain(&END[..]);
    let mut archive = TarReader::new(&mut stream);
    while let Some(entry) = archive.next().context("reading the archive")? {
        if entry.path != path {
            continue;
        }
        return copy_content(&mut archive, entry, out);
    }
    bail!("it does not stand where the index says: the archive or the index is damaged")
}

/// Writes the content of the entry that a reader is at.
fn copy_content(archive: &mut TarReader<'_>, entry: TarEntry, out: &mut dyn Write) -> Result<u64> {
    let size = entry.size;
    let attributes = Attributes::read(entry).context("reading the archive: a header is damaged")?;
    if attributes.kind == EntryType::GNUSparse {
        bail!("it is a sparse file in GNU tar's old format, which only tar itself reads");
    }
    if let Some(real_size) = attributes.sparse_size {
        let mut filled = Filled { out, at: 0 };
        write_sparse(archive, size, &mut filled, real_size)?;
        return Ok(real_size);
    }
    let copied = io::copy(&mut archive.take(size), out).map_err(WriteError)?;
    if copied != size {
        bail!("its content ends early: the archive is damaged here");
    }
    Ok(size)
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("opening the restore folder {}", root.display()))
}

fn sync(root_fd: BorrowedFd<'_>, root: &Path, options: &RestoreOptions) -> Result<()> {
    if !options.sync {
        return Ok(());
    }
    rustix::fs::syncfs(root_fd)
        .with_context(|| format!("making the restored files in {} durable", root.display()))
}
