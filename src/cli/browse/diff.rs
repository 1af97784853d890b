//! `agent diff`.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::lines::{Closed, Lines, unless_closed};
use super::{Stored, imported, in_archive, with_backup};
use crate::archive::{EntryKind, IndexEntry};
use crate::cli::args::{Diff, Global};
use crate::cli::{code, common};
use crate::manifest::{Component, Kind};
use crate::model::{ByteSize, Sha256};
use crate::ops::browse::{self, Change, Side};
use crate::ops::import::{self, Archives};
use crate::ops::stored::Backup;
use crate::state::ImportedFile;

pub fn diff(global: &Global, args: &Diff) -> Result<u8> {
    let agent = common::open_backup(global, args.of.target.as_ref(), &args.earlier)?;
    let target = args.of.target.as_ref();
    let earlier = common::find_run_at(&agent, &args.earlier, args.of.job.as_ref(), target)?;
    let later = args.later.as_deref().unwrap_or("latest");
    let later_job = if args.later.is_none() { Some(&earlier.job) } else { args.of.job.as_ref() };
    let later = common::find_run_at(&agent, later, later_job, target)?;
    with_backup(&agent, &earlier, &args.of, |before| {
        with_backup(&agent, &later, &args.of, |after| {
            let mut shown = Shown { json: args.json, counts: Counts::default(), lines: Lines::new() };
            compare(before, after, args, &mut shown)?;
            if !args.json {
                let (a, b) = (&earlier.run_id, &later.run_id);
                shown.lines.line(&format!("{a} to {b}: {}", shown.counts));
            }
            Ok(code::OK)
        })
    })
}

/// The differences on their way to standard output.
struct Shown {
    json: bool,
    counts: Counts,
    lines: Lines,
}

/// What became of an entry, or of a whole component.
#[derive(Clone, Copy)]
enum Became {
    Added,
    Removed,
    Changed,
}

impl Shown {
    fn say(&mut self, component: &str, became: Became, path: String, note: String) -> Result<()> {
        let (count, sign, word) = match became {
            Became::Added => (&mut self.counts.added, '+', "added"),
            Became::Removed => (&mut self.counts.removed, '-', "removed"),
            Became::Changed => (&mut self.counts.changed, '~', "changed"),
        };
        *count += 1;
        let line = if self.json {
            json!({"component": component, "change": word, "path": path, "how": note}).to_string()
        } else if note.is_empty() {
            format!("{sign} {path}")
        } else {
            format!("{sign} {path} ({note})")
        };
        if self.lines.line(&line) { Ok(()) } else { Err(Closed.into()) }
    }
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { added, removed, changed } = self;
        write!(f, "{added} added, {removed} removed, {changed} changed")
    }
}

/// A component of either kind of backup, as far as a comparison needs to know it.
struct Part<'a> {
    name: &'a str,
    file: &'a str,
    tree: bool,
    /// Bytes before compression, where they are known; else those stored.
    bytes: u64,
    sha256: Sha256,
    of: Origin<'a>,
}

#[derive(Clone, Copy)]
enum Origin<'a> {
    Own(&'a Backup<'a>, &'a Component),
    Imported(&'a Archives<'a>, &'a ImportedFile),
}

fn parts<'a>(stored: &'a Stored<'a>) -> Vec<Part<'a>> {
    match stored {
        Stored::Own(backup) => {
            let part = |c: &'a Component| Part {
                name: c.name.as_str(),
                file: &c.file,
                tree: c.kind == Kind::Tar,
                bytes: c.raw_bytes,
                sha256: c.sha256,
                of: Origin::Own(backup, c),
            };
            backup.manifest.components.iter().map(part).collect()
        }
        Stored::Imported(archives) => {
            let part = |file: &'a ImportedFile| Part {
                name: import::name_of(&file.file),
                file: &file.file,
                tree: import::is_tree(file),
                bytes: file.bytes,
                sha256: file.sha256,
                of: Origin::Imported(archives, file),
            };
            archives.files.iter().map(part).collect()
        }
    }
}

/// The entries of two trees, those of imported archives where they stand in the agent's own.
fn sides<'a>(a: &Part<'a>, b: &Part<'a>) -> Result<(Side<'a>, Side<'a>)> {
    let list =
        |archives: &Archives<'_>, file| Ok::<_, anyhow::Error>(archives.list(file, &|_| true)?.entries);
    Ok(match (a.of, b.of) {
        (Origin::Own(a, of), Origin::Own(b, with)) => (Side::Index(a, of), Side::Index(b, with)),
        (Origin::Own(own, tree), Origin::Imported(archives, file)) => {
            let listed = imported::placed(list(archives, file)?, own, tree)?;
            (Side::Index(own, tree), Side::Listed(listed))
        }
        (Origin::Imported(archives, file), Origin::Own(own, tree)) => {
            let listed = imported::placed(list(archives, file)?, own, tree)?;
            (Side::Listed(listed), Side::Index(own, tree))
        }
        (Origin::Imported(a, file), Origin::Imported(b, with)) => {
            (Side::Listed(list(a, file)?), Side::Listed(list(b, with)?))
        }
    })
}

/// Whether two streams are the same, as far as that can be told.
fn same(a: &Part<'_>, b: &Part<'_>) -> Result<bool> {
    match (a.of, b.of) {
        (Origin::Own(earlier, of), Origin::Own(later, with)) => {
            browse::same_stream((earlier, of), (later, with))
        }
        _ => Ok(a.sha256 == b.sha256),
    }
}

fn compare(before: &Stored<'_>, after: &Stored<'_>, args: &Diff, shown: &mut Shown) -> Result<()> {
    let path = in_archive(&args.path);
    let (mut before, mut after) = (parts(before), parts(after));
    if let Some(name) = &args.of.component {
        before.retain(|part| part.name == name.as_str());
        after.retain(|part| part.name == name.as_str());
        if before.is_empty() && after.is_empty() {
            bail!("neither backup has a component {name}");
        }
    }
    let mut pairs = Vec::new();
    for later in &after {
        pairs.push((before.iter().find(|part| part.name == later.name), Some(later)));
    }
    for earlier in &before {
        if !after.iter().any(|part| part.name == earlier.name) {
            pairs.push((Some(earlier), None));
        }
    }
    for pair in pairs {
        unless_closed(match pair {
            (Some(a), Some(b)) if a.tree && b.tree => compare_trees(a, b, path, shown),
            _ if !path.is_empty() => Ok(()),
            (Some(a), Some(b)) => compare_streams(a, b, shown),
            (None, Some(b)) => {
                shown.say(b.name, Became::Added, b.file.to_owned(), "the whole component".to_owned())
            }
            (Some(a), None) => {
                shown.say(a.name, Became::Removed, a.file.to_owned(), "the whole component".to_owned())
            }
            (None, None) => Ok(()),
        })?;
    }
    Ok(())
}

fn compare_trees(a: &Part<'_>, b: &Part<'_>, path: &[u8], shown: &mut Shown) -> Result<()> {
    let (earlier, later) = sides(a, b).with_context(|| format!("component {}", a.name))?;
    browse::diff(earlier, later, &mut |change| {
        let (became, entry, note) = match &change {
            Change::Added(entry) => (Became::Added, entry, String::new()),
            Change::Removed(entry) => (Became::Removed, entry, String::new()),
            Change::Changed(before, entry) => (Became::Changed, entry, how(before, entry)),
        };
        if !path.is_empty() && !browse::is_below(path, &entry.path.0) {
            return Ok(());
        }
        shown.say(b.name, became, entry.path.display(), note)
    })
}

fn compare_streams(a: &Part<'_>, b: &Part<'_>, shown: &mut Shown) -> Result<()> {
    if same(a, b)? {
        return Ok(());
    }
    let sizes = match (&a.of, &b.of) {
        // One is a length before compression, the other one behind it.
        (Origin::Own(..), Origin::Imported(..)) | (Origin::Imported(..), Origin::Own(..)) => {
            "stored differently: `cat` gives the content of each".to_owned()
        }
        _ => format!("{} → {}", ByteSize(a.bytes), ByteSize(b.bytes)),
    };
    shown.say(b.name, Became::Changed, b.file.to_owned(), sizes)
}

/// What differs between two entries of one path.
fn how(a: &IndexEntry, b: &IndexEntry) -> String {
    let mut parts = Vec::new();
    if a.kind != b.kind {
        parts.push(format!("{} → {}", kind_word(a.kind), kind_word(b.kind)));
    }
    if a.size != b.size {
        parts.push(format!("{} → {}", ByteSize(a.size), ByteSize(b.size)));
    }
    if a.mode != b.mode {
        parts.push(format!("mode {:o} → {:o}", a.mode, b.mode));
    }
    if a.target != b.target {
        let name = |e: &IndexEntry| e.target.as_ref().map_or("-".to_owned(), |t| t.display());
        parts.push(format!("names {} → {}", name(a), name(b)));
    }
    if parts.is_empty() {
        parts.push("time".to_owned());
    }
    parts.join(", ")
}

fn kind_word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File | EntryKind::Hardlink => "file",
        EntryKind::Dir => "folder",
        EntryKind::Symlink => "link",
    }
}
