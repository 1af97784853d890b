//! Builds one segment: opens the files the plan names, reads them, and writes headers and content.
//!
//! A file's size stands in its header before its content, and the archive is valid only if exactly so many
//! bytes follow. Small files are read before their header is written, and read again when they changed
//! meanwhile; big ones are cut or padded to the size they had when they were opened, and reported.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::header::{What, padding, write_entry};
use super::index::{EntryKind, IndexEntry};
use super::limits::GROWN_MAX;
use super::meta::{Extents, Meta, Names, unchanged};
use super::plan::{BigFile, Item};
use super::pool::Throttle;
use crate::fsutil;
use crate::manifest::{FileWarning, PathText};
use crate::model::WarningKind;

/// How often a small file that changes while it is read is read again.
const ATTEMPTS: usize = 3;
/// More extents than this are merged over their smallest holes: the map stands in memory.
const EXTENTS_MAX: usize = 8192;

/// What came of a segment, beside its bytes.
#[derive(Default)]
pub(super) struct Report {
    pub entries: Vec<IndexEntry>,
    pub warnings: Vec<FileWarning>,
    /// Content bytes read from the source.
    pub source_bytes: u64,
}

/// What the workers share.
pub(super) struct Builder {
    pub names: Names,
    pub throttle: Throttle,
}

impl Builder {
    /// Writes the segment's bytes into `raw`, which is cleared first.
    pub fn build(&self, items: Vec<Item>, raw: &mut Vec<u8>) -> Report {
        raw.clear();
        let mut report = Report::default();
        for item in items {
            match item {
                Item::Dir { path, meta, xattrs } => {
                    self.entry(raw, &mut report, path, &What::Dir, &meta, &xattrs);
                }
                Item::Hardlink { path, target, meta } => {
                    self.entry(raw, &mut report, path, &What::Hardlink { target: &target }, &meta, &[]);
                }
                Item::Virtual { path, bytes, mode, mtime } => {
                    let meta = Meta { mode, uid: 0, gid: 0, mtime, mtime_nanos: 0 };
                    let size = bytes.len() as u64;
                    self.entry(raw, &mut report, path, &What::File { size }, &meta, &[]);
                    raw.extend_from_slice(&bytes);
                    raw.resize(raw.len() + padding(size), 0);
                    report.source_bytes += size;
                }
                Item::Named { dir, name, path, stat } => {
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                        self.symlink(raw, &mut report, dir.as_fd(), &name, path, &stat);
                    } else {
                        self.named(raw, &mut report, dir.as_fd(), &name, path);
                    }
                }
                Item::Leader { file, path } => self.small_file(raw, &mut report, &file, path, true),
                Item::Slice { file, offset, length } => self.slice(raw, &mut report, &file, offset, length),
                Item::Warning(warning) => report.warnings.push(warning),
            }
        }
        report
    }

    fn entry(
        &self,
        raw: &mut Vec<u8>,
        report: &mut Report,
        path: Vec<u8>,
        what: &What<'_>,
        meta: &Meta,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) {
        let at = raw.len() as u32;
        write_entry(raw, &path, what, meta, xattrs, &self.names);
        let (kind, size, target) = match what {
            What::Dir => (EntryKind::Dir, 0, None),
            What::File { size } | What::Sparse { size, .. } => (EntryKind::File, *size, None),
            What::Symlink { target } => (EntryKind::Symlink, 0, Some(PathText::from(*target))),
            What::Hardlink { target } => (EntryKind::Hardlink, 0, Some(PathText::from(*target))),
        };
        let path = PathText(path);
        report.entries.push(IndexEntry { path, kind, size, mtime: meta.mtime, mode: meta.mode, at, target });
    }

    fn symlink(
        &self,
        raw: &mut Vec<u8>,
        report: &mut Report,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
    ) {
        match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => {
                let xattrs = fsutil::link_xattrs(dir, name).unwrap_or_else(|e| {
                    let text = format!("reading its extended attributes: {e}");
                    warn(report, WarningKind::Unreadable, &path, &text);
                    Vec::new()
                });
                let what = What::Symlink { target: target.to_bytes() };
                self.entry(raw, report, path, &what, &Meta::of(stat), &xattrs);
            }
            Err(Errno::NOENT) => warn(report, WarningKind::Vanished, &path, "gone when it was read"),
            Err(Errno::INVAL) => {
                warn(report, WarningKind::Changed, &path, "replaced by something that is no link")
            }
            Err(e) => warn(report, WarningKind::Unreadable, &path, &format!("reading the link: {e}")),
        }
    }

    fn named(&self, raw: &mut Vec<u8>, report: &mut Report, dir: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) {
        match open_to_read(dir, name) {
            Ok(file) => self.small_file(raw, report, &file, path, false),
            Err(Errno::NOENT) => warn(report, WarningKind::Vanished, &path, "gone when it was opened"),
            Err(Errno::LOOP) => warn(report, WarningKind::Changed, &path, "replaced by a symbolic link"),
            Err(e) => warn(report, WarningKind::Unreadable, &path, &format!("opening it: {e}")),
        }
    }

    /// A file that fits into memory. `must_exist`: other names refer to this entry, so that it has to be in
    /// the archive even if its content cannot be read.
    fn small_file(
        &self,
        raw: &mut Vec<u8>,
        report: &mut Report,
        file: &File,
        path: Vec<u8>,
        must_exist: bool,
    ) {
        let start = (raw.len(), report.entries.len());
        let mut last_error = None;
        for attempt in 1..=ATTEMPTS {
            raw.truncate(start.0);
            report.entries.truncate(start.1);
            match self.try_small_file(raw, report, file, path.clone()) {
                Ok(Read { size, steady: true }) => {
                    report.source_bytes += size;
                    return;
                }
                Ok(Read { size, steady: false }) if attempt == ATTEMPTS => {
                    report.source_bytes += size;
                    return warn(
                        report,
                        WarningKind::Changed,
                        &path,
                        "changed while it was read, three times",
                    );
                }
                Ok(_) => {}
                Err(e) => last_error = Some(e),
            }
        }
        let Some(error) = last_error else { return };
        warn(report, WarningKind::Unreadable, &path, &format!("reading it: {error}"));
        raw.truncate(start.0);
        report.entries.truncate(start.1);
        if must_exist && let Ok(stat) = rustix::fs::fstat(file) {
            self.entry(raw, report, path, &What::File { size: 0 }, &Meta::of(&stat), &[]);
        }
    }

    fn try_small_file(
        &self,
        raw: &mut Vec<u8>,
        report: &mut Report,
        file: &File,
        path: Vec<u8>,
    ) -> io::Result<Read> {
        let before = rustix::fs::fstat(file)?;
        if !FileType::from_raw_mode(before.st_mode).is_file() {
            // Replaced between the look and the opening; O_NONBLOCK kept a FIFO from hanging us.
            warn(report, WarningKind::Changed, &path, "replaced by something that is no file");
            return Ok(Read { size: 0, steady: true });
        }
        let xattrs = fsutil::xattrs(file)?;
        let size = (before.st_size as u64).min(GROWN_MAX as u64);
        let extents = extents_of(file, &before).filter(|_| size == before.st_size as u64);
        let what = match &extents {
            Some(extents) => What::Sparse { size, extents },
            None => What::File { size },
        };
        self.entry(raw, report, path, &what, &Meta::of(&before), &xattrs);
        let whole = [(0, size)];
        let mut whole_read = true;
        let mut read = 0;
        for (offset, length) in extents.as_deref().unwrap_or(&whole) {
            self.throttle.take(*length);
            let got = read_at_most(file, raw, *offset, *length as usize)?;
            whole_read &= got == *length as usize;
            read += got as u64;
        }
        let data_length: u64 = extents.as_deref().unwrap_or(&whole).iter().map(|(_, l)| l).sum();
        raw.resize(raw.len() + padding(data_length), 0);
        let after = rustix::fs::fstat(file)?;
        Ok(Read {
            size: read,
            steady: whole_read && size == before.st_size as u64 && unchanged(&before, &after),
        })
    }

    fn slice(&self, raw: &mut Vec<u8>, report: &mut Report, big: &Arc<BigFile>, offset: u64, length: u64) {
        if offset == 0 {
            let what = match &big.extents {
                Some(extents) => What::Sparse { size: big.stat.st_size as u64, extents },
                None => What::File { size: big.stat.st_size as u64 },
            };
            self.entry(raw, report, big.path.clone(), &what, &Meta::of(&big.stat), &big.xattrs);
        }
        self.throttle.take(length);
        for (at, part) in file_ranges(big, offset, length) {
            match read_at_most(&big.file, raw, at, part as usize) {
                Ok(got) => {
                    report.source_bytes += got as u64;
                    if got < part as usize {
                        let detail = "shrank while it was read; the rest is filled with zeros";
                        warn_once(report, &big.reported, WarningKind::Changed, &big.path, detail);
                    }
                }
                Err(e) => {
                    let detail = format!("reading at byte {at}: {e}; the gap is filled with zeros");
                    // An unreadable part outweighs a change reported before.
                    warn(report, WarningKind::Unreadable, &big.path, &detail);
                    big.reported.store(true, Ordering::Relaxed);
                }
            }
        }
        if offset + length >= big.data_length {
            raw.resize(raw.len() + padding(big.data_length), 0);
        }
        let was_left = big.left.fetch_sub(length, Ordering::AcqRel);
        if length > 0 && was_left == length {
            let steady = rustix::fs::fstat(&big.file).is_ok_and(|after| unchanged(&big.stat, &after));
            if !steady {
                warn_once(
                    report,
                    &big.reported,
                    WarningKind::Changed,
                    &big.path,
                    "changed while it was read",
                );
            }
        }
    }
}

struct Read {
    size: u64,
    steady: bool,
}

fn warn(report: &mut Report, kind: WarningKind, path: &[u8], detail: &str) {
    report.warnings.push(FileWarning { kind, path: PathText::from(path), detail: detail.to_owned() });
}

fn warn_once(report: &mut Report, reported: &AtomicBool, kind: WarningKind, path: &[u8], detail: &str) {
    if !reported.swap(true, Ordering::Relaxed) {
        warn(report, kind, path, detail);
    }
}

/// Appends `length` bytes from `offset` to `raw`, zeros where the file ends early or cannot be read; gives
/// how many came from the file.
fn read_at_most(file: &File, raw: &mut Vec<u8>, offset: u64, length: usize) -> io::Result<usize> {
    let start = raw.len();
    raw.resize(start + length, 0);
    let mut got = 0;
    while got < length {
        match file.read_at(&mut raw[start + got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// The parts of the file that a range of its archived content stands for.
fn file_ranges(big: &BigFile, offset: u64, length: u64) -> Vec<(u64, u64)> {
    let Some(extents) = &big.extents else { return vec![(offset, length)] };
    let mut ranges = Vec::new();
    let mut position = 0;
    for (start, extent) in extents {
        let from = offset.max(position);
        let to = (offset + length).min(position + extent);
        if from < to {
            ranges.push((start + (from - position), to - from));
        }
        position += extent;
    }
    ranges
}

/// Opens a file for reading without following a link, without waiting for a FIFO's writer, and without
/// touching its access time where that is allowed.
pub(super) fn open_to_read(dir: BorrowedFd<'_>, name: &[u8]) -> Result<File, Errno> {
    static OWNER_ONLY: AtomicBool = AtomicBool::new(false);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    if !OWNER_ONLY.load(Ordering::Relaxed) {
        match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only a file's owner and root may ask for this.
            Err(Errno::PERM) => OWNER_ONLY.store(true, Ordering::Relaxed),
            other => return other.map(File::from),
        }
    }
    rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from)
}

/// Where a file's content stands, if it has holes worth keeping.
pub(super) fn extents_of(file: &File, stat: &Stat) -> Option<Extents> {
    let size = stat.st_size as u64;
    if stat.st_blocks as u64 * 512 >= size {
        return None;
    }
    let mut extents = Extents::new();
    let mut position = 0;
    while position < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(data) if data < size => data,
            Ok(_) | Err(Errno::NXIO) => break, // a hole up to the end
            Err(_) => return None,             // the file system does not tell: read it whole
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        extents.push((data, hole - data));
        position = hole;
    }
    let mut smallest = 64 << 10;
    while extents.len() > EXTENTS_MAX {
        extents = merge(&extents, smallest);
        smallest *= 2;
    }
    // One extent over everything: a compressing file system, not a hole.
    if extents == [(0, size)] { None } else { Some(extents) }
}

fn merge(extents: &Extents, hole: u64) -> Extents {
    let mut merged: Extents = Vec::new();
    for (start, length) in extents {
        match merged.last_mut() {
            Some(last) if start - (last.0 + last.1) < hole => last.1 = start + length - last.0,
            _ => merged.push((*start, *length)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_bridges_small_holes_only() {
        let extents = vec![(0, 10), (20, 10), (1000, 5)];
        assert_eq!(merge(&extents, 11), vec![(0, 30), (1000, 5)]);
        assert_eq!(merge(&extents, 5000), vec![(0, 1005)]);
    }
}
