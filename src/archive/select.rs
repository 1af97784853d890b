//! Which frames hold the entries somebody wants.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;

use super::index::{EntryKind, FrameRecord, IndexReader};

/// The frames to read for a choice of entries, and what to make of them.
#[derive(Debug, Default)]
pub struct Selection {
    /// The frames, in order. Each begins with an entry or continues the one before.
    pub frames: Vec<FrameRecord>,
    /// The paths chosen.
    pub paths: HashSet<Vec<u8>>,
    /// Content that was not chosen itself, but stands under another name that was: path of the content to
    /// the chosen name.
    pub aliases: HashMap<Vec<u8>, Vec<u8>>,
}

/// Goes through an index once (twice where chosen hard links have their content elsewhere) and finds all
/// entries that `wanted` says yes to.
pub fn select<R: Fn(u64, usize) -> Result<Vec<u8>>>(
    index: &IndexReader<R>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut elsewhere: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut frames: BTreeMap<u64, FrameRecord> = BTreeMap::new();
    let mut continues = false;
    index.for_each(|frame, entries| {
        if entries.is_empty() {
            if continues {
                frames.insert(frame.frame, *frame);
            }
            return Ok(());
        }
        continues = false;
        for entry in entries {
            if !wanted(&entry.path.0) {
                continue;
            }
            frames.insert(frame.frame, *frame);
            continues = true;
            if let (EntryKind::Hardlink, Some(target)) = (entry.kind, &entry.target)
                && !selection.paths.contains(&target.0)
            {
                elsewhere.entry(target.0.clone()).or_insert_with(|| entry.path.0.clone());
            }
            selection.paths.insert(entry.path.0);
        }
        Ok(())
    })?;
    let missing: BTreeSet<Vec<u8>> = elsewhere.keys().cloned().collect();
    for path in missing {
        if let Some(located) = index.find(&path)? {
            frames.extend(located.frames.into_iter().map(|f| (f.frame, f)));
        }
    }
    selection.aliases = elsewhere.into_iter().collect();
    selection.frames = frames.into_values().collect();
    Ok(selection)
}
