//! The engine: one pass over a tree or stream, into frames.

use std::path::PathBuf;

/// A tree of files to archive.
#[derive(Debug, Clone, Default)]
pub struct TreeSpec {
    /// Absolute paths of the files and folders to begin at.
    pub roots: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax, relative to each root.
    pub exclude: Vec<String>,
    /// Leave out folders with a valid `CACHEDIR.TAG`, except the tag.
    pub exclude_caches: bool,
    /// Leave out folders that hold a file with one of these names.
    pub exclude_if_present: Vec<String>,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Pass over roots that do not exist.
    pub allow_missing_roots: bool,
    /// Files that exist in the archive only.
    pub virtual_files: Vec<VirtualFile>,
}

/// A file made for the archive.
#[derive(Debug, Clone, Default)]
pub struct VirtualFile {
    /// Relative path in the archive.
    pub path: String,
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}
