//! Which frames hold the entries somebody wants.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use anyhow::Result;

use super::index::{EntryKind, FrameRecord, IndexEntry, IndexReader};
use super::path_order;
use super::restore::Group;

/// The frames to read for a choice of entries, and what to make of them.
#[derive(Debug, Default)]
pub struct Selection {
    /// The frames, in order, in groups that need nothing of one another.
    pub groups: Vec<Group>,
    /// The paths chosen.
    pub paths: HashSet<Vec<u8>>,
    /// Content that was not chosen itself, but stands under another name that was: path of the content to
    /// the chosen name.
    pub aliases: HashMap<Vec<u8>, Vec<u8>>,
    /// Content bytes of the chosen files.
    pub bytes: u64,
}

impl Selection {
    /// All frames to be read, in order.
    pub fn frames(&self) -> impl Iterator<Item = &FrameRecord> {
        self.groups.iter().flat_map(|group| &group.frames)
    }
}

/// Calls `visit` for each group of the archive with the entries that begin in it.
pub fn for_each_group<R: Fn(u64, usize) -> Result<Vec<u8>>>(
    index: &IndexReader<R>,
    visit: &mut dyn FnMut(Group, Vec<IndexEntry>) -> Result<()>,
) -> Result<()> {
    for_each_group_in(index, 0..index.chunks(), visit)
}

/// The same for some of the index's pieces. What continues an entry that begins before them has no entries.
fn for_each_group_in<R: Fn(u64, usize) -> Result<Vec<u8>>>(
    index: &IndexReader<R>,
    chunks: Range<usize>,
    visit: &mut dyn FnMut(Group, Vec<IndexEntry>) -> Result<()>,
) -> Result<()> {
    let mut current: Option<(Group, Vec<IndexEntry>)> = None;
    index.for_each_in(chunks, |frame, entries| {
        match &mut current {
            // The frames of a file's further slices, and the last frame, which holds the end blocks only.
            Some((group, _)) if entries.is_empty() => group.frames.push(*frame),
            _ => {
                let next = Group { frames: vec![*frame], names: Vec::new() };
                if let Some((group, entries)) = current.replace((next, entries)) {
                    visit(group, entries)?;
                }
            }
        }
        Ok(())
    })?;
    current.map_or(Ok(()), |(group, entries)| visit(group, entries))
}

/// Finds all entries that `wanted` says yes to; where a chosen name is only a further one of a file, the file's own
/// frames are found too. Only what is at or below one of `roots` is looked at: of an archive of a million files,
/// one is found in a piece of the index or two.
pub fn select<R: Fn(u64, usize) -> Result<Vec<u8>>>(
    index: &IndexReader<R>,
    roots: &[Vec<u8>],
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    let mut visit = |mut group: Group, entries: Vec<IndexEntry>| {
        for entry in entries {
            if !wanted(&entry.path.0) {
                continue;
            }
            if let (EntryKind::Hardlink, Some(target)) = (entry.kind, &entry.target) {
                if !selection.paths.contains(&target.0) {
                    selection.aliases.entry(target.0.clone()).or_insert_with(|| entry.path.0.clone());
                }
            } else {
                selection.bytes += entry.size;
            }
            group.names.push(entry.path.0.clone());
            selection.paths.insert(entry.path.0);
        }
        if !group.names.is_empty() {
            groups.insert(group.frames[0].frame, group);
        }
        Ok(())
    };
    for chunks in index.chunks_below(roots) {
        for_each_group_in(index, chunks, &mut visit)?;
    }
    for path in selection.aliases.keys() {
        let Some(located) = index.find(path)? else { continue };
        selection.bytes += located.entry.size;
        let first = located.frames[0].frame;
        let group =
            groups.entry(first).or_insert_with(|| Group { frames: located.frames, names: Vec::new() });
        group.names.push(path.clone());
        group.names.sort_by(|a, b| path_order(a, b));
    }
    selection.groups = groups.into_values().collect();
    Ok(selection)
}
