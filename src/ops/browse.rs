//! Looking into backups without restoring them: what is in them, one file's content, what changed between two.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::thread;

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::stored::{Backup, Index, ReadIndex};
use crate::archive::{EntryKind, FrameReader, IndexEntry, IndexReader, below, copy_entry, path_order};
use crate::event::{Interrupted, Progress};
use crate::manifest::{Component, Kind, PathText};

/// How many symbolic links are followed to a file's content.
pub(super) const LINKS_MAX: usize = 16;

/// Calls `visit` for the entries of a tree at or below `path` (all when empty), in the order of the archive.
/// Folders above what was captured have no entries of their own; without `deep` they, and everything one
/// level below `path`, are given once each.
pub fn list(
    backup: &Backup<'_>,
    tree: &Component,
    path: &[u8],
    deep: bool,
    visit: &mut dyn FnMut(IndexEntry) -> Result<()>,
) -> Result<()> {
    let index = backup.index(tree)?;
    let mut level = Level::new(path, deep);
    let reader = index.reader()?;
    for chunks in reader.chunks_below(&[path.to_vec()]) {
        reader.for_each_in(chunks, |_, entries| {
            entries.into_iter().try_for_each(|entry| level.entry(entry, visit))
        })?;
    }
    Ok(())
}

/// What of entries that come in the order of archives belongs into a listing.
pub struct Level<'p> {
    path: &'p [u8],
    deep: bool,
    last_child: Option<Vec<u8>>,
}

impl<'p> Level<'p> {
    /// Of `path`, all when empty; with `deep` everything below it.
    pub fn new(path: &'p [u8], deep: bool) -> Self {
        Self { path, deep, last_child: None }
    }

    /// Gives an entry to `visit`, or the folder of this level that it is in, or neither.
    pub fn entry(
        &mut self,
        entry: IndexEntry,
        visit: &mut dyn FnMut(IndexEntry) -> Result<()>,
    ) -> Result<()> {
        let Some(below) = below(self.path, &entry.path.0) else { return Ok(()) };
        // A folder itself is not listed, only what is in it.
        if below.is_empty() && entry.path.0.ends_with(b"/") {
            return Ok(());
        }
        let child_end = below.iter().position(|b| *b == b'/').map(|at| at + 1);
        match child_end.filter(|end| !self.deep && *end < below.len()) {
            None => {
                self.last_child = Some(entry.path.0.clone());
                visit(entry)
            }
            Some(end) => {
                let child = entry.path.0[..entry.path.0.len() - below.len() + end].to_vec();
                if self.last_child.as_ref() == Some(&child) {
                    return Ok(());
                }
                self.last_child = Some(child.clone());
                let (path, kind) = (PathText(child), EntryKind::Dir);
                visit(IndexEntry { path, kind, size: 0, mtime: 0, mode: 0, at: 0, target: None })
            }
        }
    }
}

/// Whether `entry` is `path` or stands below it.
pub fn is_below(path: &[u8], entry: &[u8]) -> bool {
    below(path, entry).is_some()
}

/// Writes the content of the file at `path` (as it stands in the archive) and gives its tree and length;
/// symbolic links inside the tree are followed. `None` when no tree holds it.
pub fn cat<'b>(
    backup: &'b Backup<'_>,
    trees: &[&'b Component],
    path: &[u8],
    out: &mut dyn Write,
) -> Result<Option<(&'b Component, u64)>> {
    let mut led_to = path.to_vec();
    for tree in trees {
        let index = backup.index(tree)?;
        let reader = index.reader()?;
        let mut path = path.to_vec();
        for followed in 0..LINKS_MAX {
            let Some(located) = reader.find(&path)? else {
                if followed > 0 {
                    led_to = path;
                }
                break;
            };
            let target = || {
                let target = located.entry.target.as_ref();
                target.map(|t| t.0.clone()).context("the index is damaged: a link names nothing")
            };
            match located.entry.kind {
                EntryKind::Hardlink => path = target()?,
                EntryKind::Symlink => path = resolve(&path, &target()?),
                EntryKind::Dir => bail!("{} is a folder", located.entry.path.display()),
                EntryKind::File => {
                    let stored = backup.content(&tree.file)?;
                    let mut frames =
                        FrameReader::new(stored.read_at(), backup.manifest.codec, located.frames.clone())?;
                    let bytes = copy_entry(&mut frames, &path, out)
                        .with_context(|| format!("{} in {}", PathText(path).display(), tree.file))?;
                    return Ok(Some((tree, bytes)));
                }
            }
        }
    }
    // A folder has its slash in the index.
    let folder = [&led_to[..], b"/"].concat();
    for tree in trees {
        if backup.index(tree)?.reader()?.find(&folder)?.is_some() {
            bail!("{} is a folder; list it with `ls`", PathText(led_to).display());
        }
    }
    if led_to != path {
        bail!(
            "{} is a link that leads to {}, and that is not in the backup",
            PathText(path.to_vec()).display(),
            PathText(led_to).display()
        );
    }
    Ok(None)
}

/// Where a symbolic link leads, as a path of the archive.
pub(super) fn resolve(link: &[u8], target: &[u8]) -> Vec<u8> {
    let folder = link.rsplitn(2, |b| *b == b'/').nth(1).unwrap_or_default();
    let mut parts: Vec<&[u8]> = Vec::new();
    let start = if target.starts_with(b"/") { &b""[..] } else { folder };
    for part in start.split(|b| *b == b'/').chain(target.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

/// Writes a component that is no tree, decompressed, and checks it on the way. When an error comes, what was
/// written is wrong or incomplete.
pub fn cat_stream(
    backup: &Backup<'_>,
    component: &Component,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64> {
    if component.kind == Kind::Tar {
        bail!("component {} is a tree of files; say which file", component.name);
    }
    let (mut decoder, totals) = backup.stream(component)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let got = decoder.read(&mut buffer).with_context(|| format!("decompressing {}", component.file))?;
        if got == 0 {
            break;
        }
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        out.write_all(&buffer[..got]).map_err(OutputError)?;
        bytes += got as u64;
        progress.add_source(got as u64);
    }
    out.flush().map_err(OutputError)?;
    if bytes != component.raw_bytes || totals.sha256() != component.sha256 {
        bail!("{} is not what was written: what was given out is wrong or incomplete", component.file);
    }
    Ok(bytes)
}

/// Whoever was to get the content takes no more of it.
#[derive(Debug, thiserror::Error)]
#[error("writing the content: {0}")]
pub struct OutputError(#[source] pub io::Error);

/// Whether a component that is no tree holds the same in two backups. Where one is encrypted its digest says
/// nothing, so both are decrypted and compared when their lengths agree.
pub fn same_stream(earlier: (&Backup<'_>, &Component), later: (&Backup<'_>, &Component)) -> Result<bool> {
    let sealed = |of: (&Backup<'_>, &Component)| of.0.manifest.encryption.is_some();
    if !sealed(earlier) && !sealed(later) {
        return Ok(earlier.1.sha256 == later.1.sha256);
    }
    if earlier.1.raw_bytes != later.1.raw_bytes {
        return Ok(false);
    }
    let digest = |(backup, component): (&Backup<'_>, &Component)| -> Result<Vec<u8>> {
        use sha2::Digest;
        let (mut stream, _) = backup.stream(component)?;
        let mut digest = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match stream.read(&mut buffer).with_context(|| format!("reading {}", component.file))? {
                0 => return Ok(digest.finalize().to_vec()),
                got => digest.update(&buffer[..got]),
            }
        }
    };
    Ok(digest(earlier)? == digest(later)?)
}

/// What became of a path between two backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the later one has it.
    Added(IndexEntry),
    /// Only the earlier one has it.
    Removed(IndexEntry),
    /// Both have it, and it differs in kind, size, time, mode, or what the link names.
    Changed(IndexEntry, IndexEntry),
}

/// The entries of one tree, in the order of archives.
pub enum Side<'a> {
    /// By an index.
    Index(&'a Backup<'a>, &'a Component),
    /// As they were listed.
    Listed(Vec<IndexEntry>),
}

impl Side<'_> {
    fn index(&self) -> Result<Option<Index>> {
        match self {
            Self::Index(backup, component) => backup.index(component).map(Some),
            Self::Listed(_) => Ok(None),
        }
    }

    fn listed(self) -> Vec<IndexEntry> {
        match self {
            Self::Index(..) => Vec::new(),
            Self::Listed(entries) => entries,
        }
    }
}

/// Gives the entries of an index, or those listed, away. A receiver that is gone has what it wanted.
fn send(
    index: Option<IndexReader<ReadIndex<'_>>>,
    listed: Vec<IndexEntry>,
    to: &Sender<IndexEntry>,
) -> Result<()> {
    let send = |entries: Vec<IndexEntry>| entries.into_iter().try_for_each(|entry| Ok(to.send(entry)?));
    match index {
        Some(index) => index.for_each(|_, found| send(found)),
        None => send(listed),
    }
}

/// Compares the same tree of two backups, entry by entry, in the order of the archive. Content is compared by
/// size and time of change: there are no digests of files.
pub fn diff(earlier: Side<'_>, later: Side<'_>, visit: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let (before, after) = (earlier.index()?, later.index()?);
    let before_index = before.as_ref().map(Index::reader).transpose()?;
    let after_index = after.as_ref().map(Index::reader).transpose()?;
    let (before_list, after_list) = (earlier.listed(), later.listed());
    thread::scope(|scope| {
        // Both are read at the pace of the comparison, so that no index is in memory as a whole.
        let (send_before, mut before_entries) = entries();
        let (send_after, mut after_entries) = entries();
        let reading = scope.spawn(move || send(before_index, before_list, &send_before));
        let reading_too = scope.spawn(move || send(after_index, after_list, &send_after));
        let merged = merge(&mut before_entries, &mut after_entries, visit);
        drop((before_entries, after_entries));
        for reader in [reading, reading_too] {
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if merged.is_ok() {
                read?;
            }
        }
        merged
    })
}

/// Most files that are looked for to find out where a tree begins.
const PROBES: usize = 20;

/// Where entries of an archive with relative paths (`html/index.php`) stand in a tree with paths from the root
/// (`var/www/html/index.php`): what goes before them, `var/www/`. Empty when nothing fits better.
pub fn place_of(relative: &[IndexEntry], tree: &Backup<'_>, component: &Component) -> Result<Vec<u8>> {
    let step = (relative.len() / PROBES).max(1);
    let probes: Vec<&[u8]> =
        relative.iter().step_by(step).filter(|e| e.is_file()).map(|e| &e.path.0[..]).collect();
    let mut places: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    tree.index(component)?.reader()?.for_each(|_, found| {
        for entry in found.iter().filter(|entry| entry.is_file()) {
            for probe in &probes {
                let before = entry.path.0.strip_suffix(*probe);
                if let Some(before) = before.filter(|before| before.is_empty() || before.ends_with(b"/")) {
                    *places.entry(before.to_vec()).or_default() += 1;
                }
            }
        }
        Ok(())
    })?;
    // Of several, the one that most of them agree on; the shortest of these.
    let best = places.into_iter().max_by_key(|(place, count)| (*count, std::cmp::Reverse(place.len())));
    Ok(best.map(|(place, _)| place).unwrap_or_default())
}

fn entries() -> (Sender<IndexEntry>, Receiver<IndexEntry>) {
    bounded(4096)
}

fn merge(
    before: &mut Receiver<IndexEntry>,
    after: &mut Receiver<IndexEntry>,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let (mut old, mut new) = (before.recv().ok(), after.recv().ok());
    loop {
        let order = match (&old, &new) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => path_order(&a.path.0, &b.path.0),
        };
        let from_old = if order.is_le() { std::mem::replace(&mut old, before.recv().ok()) } else { None };
        let from_new = if order.is_ge() { std::mem::replace(&mut new, after.recv().ok()) } else { None };
        match (from_old, from_new) {
            (Some(a), Some(b)) if same(&a, &b) => {}
            (Some(a), Some(b)) => visit(Change::Changed(a, b))?,
            (Some(a), None) => visit(Change::Removed(a))?,
            (None, Some(b)) => visit(Change::Added(b))?,
            (None, None) => {}
        }
    }
}

fn same(a: &IndexEntry, b: &IndexEntry) -> bool {
    // A folder's time changes with every file made or removed in it, which is told by itself.
    let time = a.kind == EntryKind::Dir || a.mtime == b.mtime;
    time && (a.kind, a.size, a.mode, &a.target) == (b.kind, b.size, b.mode, &b.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_paths_of_the_archive() {
        assert_eq!(resolve(b"var/www/current", b"releases/7"), b"var/www/releases/7");
        assert_eq!(resolve(b"var/www/a/b", b"../../c/./d"), b"var/c/d");
        assert_eq!(resolve(b"var/x", b"/etc/hosts"), b"etc/hosts");
        assert_eq!(resolve(b"x", b"../../../../y"), b"y");
    }

    #[test]
    fn a_path_is_below_its_folder_and_not_below_one_that_only_begins_alike() {
        assert_eq!(below(b"var/www", b"var/www/a/b"), Some(&b"a/b"[..]));
        assert_eq!(below(b"var/www", b"var/www/"), Some(&b""[..]));
        assert_eq!(below(b"var/www", b"var/wwwroot/a"), None);
        assert_eq!(below(b"", b"var/"), Some(&b"var/"[..]));
    }
}
