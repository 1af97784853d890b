//! Where segments are cut.
//!
//! A cut is made before an entry when a hash of its path says so, with a chance in proportion to its size:
//! segments are [`limits::SEGMENT`] long in the mean, and a file that grows or vanishes moves the cuts around
//! itself only, never those of the rest of the tree. A big file begins a segment of its own and is cut into
//! slices of fixed length.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use anyhow::Result;
use rustix::fs::Stat;

use super::header::BLOCK;
use super::limits::{SEGMENT, SEGMENT_DIRS, SEGMENT_MAX, SEGMENT_MIN};
use super::meta::{Extents, Meta};
use crate::manifest::FileWarning;

/// One thing a segment is built from.
pub(super) enum Item {
    /// A folder, already looked at through its descriptor.
    Dir { path: Vec<u8>, meta: Meta, xattrs: Vec<(Vec<u8>, Vec<u8>)> },
    /// A file or symbolic link still to be opened, by name in its folder.
    Named { dir: Arc<OwnedFd>, name: Vec<u8>, path: Vec<u8>, stat: Stat },
    /// The first name of a file with several, opened by the walk.
    Leader { file: File, path: Vec<u8> },
    /// A further name of a file already in the archive.
    Hardlink { path: Vec<u8>, target: Vec<u8>, meta: Meta },
    /// A slice of a big file; the first one carries the headers.
    Slice { file: Arc<BigFile>, offset: u64, length: u64 },
    /// A file that exists only in the archive.
    Virtual { path: Vec<u8>, bytes: Vec<u8>, mode: u32, mtime: i64 },
    /// Something the walk has to report.
    Warning(FileWarning),
}

/// A file too big for one segment: one open descriptor, read by position from several threads.
pub(super) struct BigFile {
    pub file: File,
    pub path: Vec<u8>,
    pub stat: Stat,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Present when the file has holes.
    pub extents: Option<Extents>,
    /// Bytes of content in the archive: the sum of the extents, or the size.
    pub data_length: u64,
    /// Bytes not yet read by any slice; who brings it to zero looks whether the file changed.
    pub left: AtomicU64,
    /// Set by the first slice that met a problem, so that it is reported once.
    pub reported: AtomicBool,
}

/// Collects items and hands over a segment's worth at a time.
pub(super) struct Planner<F> {
    emit: F,
    items: Vec<Item>,
    size: usize,
    dirs: usize,
    last_dir: usize,
}

impl<F: FnMut(Vec<Item>) -> Result<()>> Planner<F> {
    pub fn new(emit: F) -> Self {
        Self { emit, items: Vec::new(), size: 0, dirs: 0, last_dir: 0 }
    }

    /// Adds an item of about `content` bytes.
    pub fn add(&mut self, path: &[u8], content: u64, item: Item) -> Result<()> {
        let size = 3 * BLOCK + (content as usize).next_multiple_of(BLOCK);
        let full = self.size + size > SEGMENT_MAX || self.dirs >= SEGMENT_DIRS;
        if full || (self.size >= SEGMENT_MIN && cut_before(path, size)) {
            self.flush()?;
        }
        match &item {
            Item::Named { dir, .. } => {
                let dir = Arc::as_ptr(dir) as usize;
                self.dirs += usize::from(dir != self.last_dir);
                self.last_dir = dir;
            }
            Item::Leader { .. } => self.dirs += 1,
            _ => {}
        }
        self.size += size;
        self.items.push(item);
        Ok(())
    }

    /// Adds something that takes no room in the archive.
    pub fn note(&mut self, warning: FileWarning) -> Result<()> {
        self.items.push(Item::Warning(warning));
        // Warnings alone must not pile up in memory either.
        if self.items.len() >= 16 * 1024 { self.flush() } else { Ok(()) }
    }

    /// Adds a big file, slice by slice, each a segment of its own.
    pub fn add_big(&mut self, file: BigFile) -> Result<()> {
        self.flush()?;
        let file = Arc::new(file);
        let mut offset = 0;
        loop {
            let length = (file.data_length - offset).min(SEGMENT as u64);
            (self.emit)(vec![Item::Slice { file: Arc::clone(&file), offset, length }])?;
            offset += length;
            if offset >= file.data_length {
                return Ok(());
            }
        }
    }

    /// Hands over what is left.
    pub fn flush(&mut self) -> Result<()> {
        self.size = 0;
        self.dirs = 0;
        self.last_dir = 0;
        if self.items.is_empty() { Ok(()) } else { (self.emit)(std::mem::take(&mut self.items)) }
    }
}

/// True with a probability of `size` to [`SEGMENT`], decided by the path alone. FNV-1a with a final mix: the
/// decision is part of the format, so the hash must never change with a library.
fn cut_before(path: &[u8], size: usize) -> bool {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in path {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> 44) as usize) < size // the top 20 bits against 2^20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(paths: &[(String, u64)]) -> Vec<Vec<String>> {
        let mut segments = Vec::new();
        let mut planner = Planner::new(|items: Vec<Item>| {
            segments.push(
                items
                    .into_iter()
                    .map(|i| match i {
                        Item::Virtual { path, .. } => String::from_utf8(path).unwrap(),
                        _ => unreachable!(),
                    })
                    .collect::<Vec<_>>(),
            );
            Ok(())
        });
        for (path, size) in paths {
            let item =
                Item::Virtual { path: path.clone().into_bytes(), bytes: Vec::new(), mode: 0, mtime: 0 };
            planner.add(path.as_bytes(), *size, item).unwrap();
        }
        planner.flush().unwrap();
        segments
    }

    fn tree() -> Vec<(String, u64)> {
        (0..5000u64).map(|i| (format!("dir{:02}/file{i:05}.php", i / 100), (i * 7919) % 20_000)).collect()
    }

    #[test]
    fn segments_are_near_the_mean_and_never_above_the_limit() {
        let paths = tree();
        let total: u64 = paths.iter().map(|(_, s)| 1536 + s.next_multiple_of(512)).sum();
        let segments = cuts(&paths);
        let mean = total as usize / segments.len();
        assert!((SEGMENT / 2..SEGMENT * 3 / 2).contains(&mean), "the mean is {mean}");
    }

    #[test]
    fn a_changed_file_moves_only_the_cuts_around_itself() {
        let before = cuts(&tree());
        let mut changed = tree();
        changed.remove(2500);
        changed[1000].1 += 15_000;
        let after = cuts(&changed);
        let same = after.iter().filter(|s| before.contains(s)).count();
        assert!(same + 10 >= after.len(), "{same} of {} segments stayed", after.len());
    }
}
