//! Looking into archives that another program made.

use std::io::Write;

use anyhow::{Context, Result};

use super::in_archive;
use super::lines::unless_closed;
use super::ls::Shown;
use crate::archive::{EntryKind, IndexEntry};
use crate::cli::args::{Cat, Ls};
use crate::event::Progress;
use crate::manifest::Component;
use crate::ops::browse::{self, Level};
use crate::ops::import::{Archives, Listing, is_tree, name_of};
use crate::ops::stored::Backup;
use crate::state::Run;

pub(super) fn ls(archives: &Archives<'_>, run: &Run, args: &Ls, shown: &mut Shown<'_>) -> Result<()> {
    let path = in_archive(&args.path);
    let files = archives.chosen(args.of.component.as_ref().map(|name| name.as_str()))?;
    shown.several = files.len() > 1;
    for file in files {
        let name = name_of(&file.file);
        if !is_tree(file) {
            if path.is_empty() {
                // As it is stored: how long it is when unpacked, only reading it would tell.
                let (size, mtime) = (file.bytes, run.started.timestamp());
                let path = file.file.as_str().into();
                let kind = EntryKind::File;
                let entry = IndexEntry { path, kind, size, mtime, mode: 0o600, at: 0, target: None };
                unless_closed(shown.entry(name, &entry))?;
            }
            continue;
        }
        let Listing { entries, others } = archives.list(file, &|entry| browse::is_below(path, entry))?;
        let mut level = Level::new(path, args.recursive);
        let mut visit = |entry| shown.entry(name, &entry);
        unless_closed(entries.into_iter().try_for_each(|entry| level.entry(entry, &mut visit)))?;
        if others > 0 {
            eprintln!("{}: {others} devices and pipes are not listed", file.file);
        }
    }
    Ok(())
}

pub(super) fn cat(
    archives: &Archives<'_>,
    args: &Cat,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<Option<u64>> {
    let name = args.of.component.as_ref().map(|name| name.as_str());
    let files = archives.chosen(name)?;
    match (&args.path, files.as_slice()) {
        (Some(path), _) => archives.cat(&files, in_archive(path), out),
        (None, [file, ..]) if name.is_some() => archives.cat_stream(file, out, progress).map(Some),
        (None, _) => Err(anyhow::anyhow!("neither a file nor a component is named")),
    }
}

/// Entries of an imported archive at the places they have in a tree of the agent's own.
pub(super) fn placed(
    mut entries: Vec<IndexEntry>,
    own: &Backup<'_>,
    tree: &Component,
) -> Result<Vec<IndexEntry>> {
    let place = browse::place_of(&entries, own, tree).context("comparing with an imported archive")?;
    if !place.is_empty() {
        for entry in &mut entries {
            entry.path.0.splice(0..0, place.iter().copied());
            if let (EntryKind::Hardlink, Some(target)) = (entry.kind, &mut entry.target) {
                target.0.splice(0..0, place.iter().copied());
            }
        }
    }
    Ok(entries)
}
