//! The engine: one pass over a tree or a stream of bytes, into independent compressed frames.
//!
//! ```text
//! walk ─▶ plan ─▶ [segment + compress] × threads ─▶ write ─▶ (encrypt ─▶) digest
//!                                                    └─▶ index
//! ```
//!
//! A *segment* is a valid piece of tar of about 1 MiB: whole entries, or a slice of one big file. It is
//! built in memory and compressed as one independent *frame*. Frames leave in order, so that their
//! concatenation is the archive that `zstd -d | tar -x` reads. Where segments are cut depends on paths and
//! sizes only, never on timing: the same tree gives the same bytes. Plain threads and bounded channels keep
//! memory at a few segments for each thread, whatever the source holds.

mod capture;
mod entries;
mod frames;
mod header;
mod index;
mod meta;
mod outlet;
mod plan;
mod pool;
mod reader;
mod restore;
mod segment;
mod select;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

pub use capture::{Captured, Outputs, capture_stream, capture_tree};
pub use frames::Codec;
pub use index::{EntryKind, FrameRecord, IndexEntry, IndexReader, Located};
pub use pool::Throttle;
pub use reader::{FrameReader, Prefetch, ReadAt, StreamDecoder, StreamTotals, Tallied, TarCheck, check_tar};
pub use restore::{
    DamagedFrame, Group, Groups, ReadFrame, RestoreOptions, RestoreSummary, copy_entry, copy_tar_entry,
    damage, list_tar, restore_frames, restore_stream,
};
pub use select::{Selection, for_each_group, select};

use crate::crypt::Seal;
use crate::event::Progress;

/// What of a file tree is captured.
#[derive(Debug, Clone, Default)]
pub struct TreeSpec {
    /// Absolute paths; a symbolic link given here is stored, and what it names is captured beside it.
    pub roots: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax, relative to each root.
    pub exclude: Vec<String>,
    /// Leave out the content of folders with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out the content of folders that hold an entry of one of these names.
    pub exclude_if_present: Vec<String>,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Pass over roots that do not exist.
    pub allow_missing_roots: bool,
    /// Folders never captured, whatever the excludes say: the agent's own targets and state.
    pub skip: Vec<PathBuf>,
    /// Files that exist only in the archive.
    pub virtual_files: Vec<VirtualFile>,
}

/// A file that exists only in the archive, such as the output of a command.
#[derive(Debug, Clone, Default)]
pub struct VirtualFile {
    /// Path in the archive, relative, without `..`.
    pub path: String,
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Compression, and the load a capture may put on the machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Compression format.
    pub codec: Codec,
    /// Compressing threads, at least 1.
    pub threads: usize,
    /// Niceness of the engine's threads, 0 for none.
    pub nice: i32,
    /// Puts the engine's threads into the idle I/O class.
    pub idle_io: bool,
    /// Bytes read from sources a second, at most.
    pub read_limit: Option<u64>,
    /// What everything written is encrypted to.
    pub seal: Option<Arc<Seal>>,
    /// Counters, and the wish to stop.
    pub progress: Arc<Progress>,
}

/// Compares archive paths in the order of the walk: component by component, each by its bytes. This is the
/// order of bytes when `/` sorts below every other byte, so that a folder's content follows the folder.
pub fn path_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// What of `entry` stands below `path`, which ends without `/`; empty for `path` itself, none outside. The empty path
/// is the root.
pub fn below<'e>(path: &[u8], entry: &'e [u8]) -> Option<&'e [u8]> {
    if path.is_empty() {
        return Some(entry);
    }
    let rest = entry.strip_prefix(path)?;
    match rest.first() {
        None => Some(rest),
        Some(b'/') => Some(&rest[1..]),
        Some(_) => None,
    }
}

/// The compressed sizes and slices below decide the bytes of every archive: changing one changes what the
/// same tree is stored as.
mod limits {
    /// Mean size of a segment, and size of a slice of a big file.
    pub const SEGMENT: usize = 1 << 20;
    /// No cut by path before this much is in a segment.
    pub const SEGMENT_MIN: usize = 256 << 10;
    /// A cut is forced before a segment would grow beyond this.
    pub const SEGMENT_MAX: usize = 2 << 20;
    /// A segment holds at most this many open descriptors: of folders, and of files opened by the walk.
    pub const SEGMENT_DIRS: usize = 128;
    /// A small file that grew after it was planned is read up to this size.
    pub const GROWN_MAX: usize = 8 << 20;
}
