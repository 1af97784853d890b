//! Where a walk begins, and what it never enters.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::archive::{TreeSpec, path_order};
use crate::fsutil;
use crate::mounts::Mounts;

/// The roots with their links resolved, sorted, without those that stand below another. A root that is a
/// symbolic link stays as an entry of its own beside what it names: `current -> releases/42` is what people
/// give as a path, and an archive with nothing but the link in it would be no backup.
pub(super) fn roots(spec: &TreeSpec) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for root in &spec.roots {
        if !root.is_absolute() {
            bail!("{}: a path to back up must be absolute", root.display());
        }
        let resolved = match std::fs::canonicalize(root) {
            Ok(resolved) => resolved,
            Err(e) if e.kind() == io::ErrorKind::NotFound && spec.allow_missing_roots => continue,
            Err(e) => {
                return Err(e).with_context(|| {
                    format!(
                        "{}: this path to back up cannot be opened; is it mounted, is the name right?",
                        root.display()
                    )
                });
            }
        };
        let parent = root.parent().map(std::fs::canonicalize).transpose()?;
        if let (Some(parent), Some(name)) = (parent, root.file_name())
            && root.is_symlink()
        {
            found.push(parent.join(name));
        }
        found.push(resolved);
    }
    found.sort_by(|a, b| path_order(fsutil::path_bytes(a), fsutil::path_bytes(b)));
    found.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in found {
        if !kept.iter().any(|k| path.starts_with(k) && !k.is_symlink()) {
            kept.push(path);
        }
    }
    Ok(kept)
}

/// A path as it stands in the archive, without `/` at its end.
pub(super) fn archive_path(path: &Path) -> Vec<u8> {
    fsutil::path_bytes(path).strip_prefix(b"/").unwrap_or_default().to_vec()
}

/// Folders that are never captured: by what they are, so that no other way to them counts as another folder, and by
/// their path where to ask what they are may hang.
#[derive(Default)]
pub(super) struct Skipped {
    pub(super) folders: HashSet<(u64, u64)>,
    pub(super) paths: HashSet<Vec<u8>>,
}

impl Skipped {
    pub(super) fn new(skip: &[PathBuf], mounts: &Mounts) -> Self {
        let mut skipped = Self::default();
        for path in skip {
            match mounts.follow(path) {
                Ok((path, Some(mount))) if mount.is_remote() => {
                    skipped.paths.insert(archive_path(&path));
                }
                _ => skipped.folders.extend(std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))),
            }
        }
        skipped
    }
}
