//! `agent ls`, `agent cat`, `agent diff`: looking into backups.

mod imported;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Cat, Diff, Global, Ls, Of};
use super::{code, common, key, output};
use crate::archive::{EntryKind, IndexEntry};
use crate::event::Progress;
use crate::manifest::{Component, Kind};
use crate::model::{ByteSize, Sha256};
use crate::ops::Agent;
use crate::ops::browse::{self, Change, OutputError, Side};
use crate::ops::import::{self, Archives};
use crate::ops::stored::Backup;
use crate::state::{ImportedFile, Run};

/// A path as it stands in archives.
fn in_archive(path: &str) -> &[u8] {
    path.trim_matches('/').as_bytes()
}

fn open(global: &Global, of: &Of, id: &str) -> Result<Agent> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::open_backups(global, config, of.target.as_ref(), Some(id))
}

/// A backup, opened.
enum Stored<'a> {
    /// One of the agent's own.
    Own(Box<Backup<'a>>),
    /// Archives of another program.
    Imported(Archives<'a>),
}

/// Opens the nearest copy of a backup for `body`.
fn with_backup<T>(
    agent: &Agent,
    run: &Run,
    of: &Of,
    body: impl FnOnce(&Stored<'_>) -> Result<T>,
) -> Result<T> {
    let copy = common::nearest(agent, run, of.target.as_ref())?;
    let location = copy.location.context("the backup has no location")?;
    let target = agent.open_target(&copy.target)?;
    let target = target.as_ref();
    body(&match copy.imported {
        false => {
            let keys = Arc::new(key::files(agent, &run.job, &of.keys)?.read()?);
            Stored::Own(Box::new(Backup::open(target, &location, &run.run_id)?.with_keys(keys)?))
        }
        true => {
            let (run, files) = (&run.run_id, agent.state.imported_files(&run.run_id, &copy.target)?);
            Stored::Imported(Archives { target, location: &location, run, files })
        }
    })
}

/// Standard output that many small texts go to. A reader that went away has what it wanted.
struct Lines {
    text: String,
    closed: bool,
}

impl Lines {
    fn new() -> Self {
        Self { text: String::new(), closed: false }
    }

    /// Adds a line; false when nobody reads any more.
    fn line(&mut self, line: &str) -> bool {
        self.text.push_str(&output::harmless(line));
        self.text.push('\n');
        if self.text.len() > 64 << 10 {
            self.flush();
        }
        !self.closed
    }

    fn flush(&mut self) {
        let mut out = io::stdout().lock();
        self.closed |= out.write_all(self.text.as_bytes()).and_then(|()| out.flush()).is_err();
        self.text.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The error that ends a listing nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the answer any more")]
struct Closed;

/// A listing is over when nobody reads it.
fn unless_closed(result: Result<()>) -> Result<()> {
    result.or_else(|e| if e.is::<Closed>() { Ok(()) } else { Err(e) })
}

pub fn ls(global: &Global, args: &Ls) -> Result<u8> {
    let agent = open(global, &args.of, &args.id)?;
    let run = common::find_run(&agent, &args.id, args.of.job.as_ref())?;
    let zone = agent.config.job.get(&run.job).map_or(agent.config.timezone, |j| agent.config.job_timezone(j));
    with_backup(&agent, &run, &args.of, |stored| {
        let path = in_archive(&args.path);
        let mut shown = Shown { args, zone, several: false, head: None, found: false, lines: Lines::new() };
        match stored {
            Stored::Own(backup) => {
                let components = backup.components(args.of.component.as_ref())?;
                shown.several = components.len() > 1;
                for component in components {
                    let mut visit = |entry| shown.entry(component.name.as_str(), &entry);
                    if component.kind == Kind::Tar {
                        unless_closed(browse::list(backup, component, path, args.recursive, &mut visit))
                            .with_context(|| format!("component {}", component.name))?;
                    } else if path.is_empty() {
                        unless_closed(visit(whole(backup, component)))?;
                    }
                }
            }
            Stored::Imported(archives) => imported::ls(archives, &run, args, &mut shown)?,
        }
        if !shown.found {
            let run = &run.run_id;
            bail!(
                "nothing at {:?} in run {run}; `{} ls {run}` shows where it begins",
                args.path,
                agent.command
            );
        }
        Ok(code::OK)
    })
}

/// A listing on its way to standard output.
struct Shown<'a> {
    args: &'a Ls,
    zone: Tz,
    /// Whether there are several components to tell apart.
    several: bool,
    /// The component whose entries come.
    head: Option<String>,
    found: bool,
    lines: Lines,
}

impl Shown<'_> {
    fn entry(&mut self, component: &str, entry: &IndexEntry) -> Result<()> {
        self.found = true;
        let apart = self.several && !self.args.json;
        if apart && self.head.as_deref() != Some(component) {
            self.lines.line(&format!("{component}:"));
            self.head = Some(component.to_owned());
        }
        let line = match self.args.json {
            true => entry_json(component, entry)?,
            false => {
                format!("{}{}", if apart { "  " } else { "" }, entry_line(entry, self.args.long, self.zone))
            }
        };
        if self.lines.line(&line) { Ok(()) } else { Err(Closed.into()) }
    }
}

/// A component that is no tree, as one file.
fn whole(backup: &Backup<'_>, component: &Component) -> IndexEntry {
    IndexEntry {
        path: backup.manifest.plain_name(component).into(),
        kind: EntryKind::File,
        size: component.raw_bytes,
        mtime: backup.manifest.ended.timestamp(),
        mode: 0o600,
        at: 0,
        target: None,
    }
}

fn entry_line(entry: &IndexEntry, long: bool, zone: Tz) -> String {
    let mut line = String::new();
    if long {
        let time = DateTime::<Utc>::from_timestamp(entry.mtime, 0).filter(|_| entry.mtime != 0);
        let time =
            time.map_or("-".to_owned(), |t| t.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string());
        let size = if entry.kind == EntryKind::File { entry.size.to_string() } else { "-".to_owned() };
        let _ = write!(line, "{} {size:>12} {time:>16} ", mode_text(entry));
    }
    line.push_str(&entry.path.display());
    if let Some(target) = &entry.target {
        let arrow = if entry.kind == EntryKind::Symlink { "->" } else { "=" };
        let _ = write!(line, " {arrow} {}", target.display());
    }
    line
}

/// As `ls -l` writes it.
fn mode_text(entry: &IndexEntry) -> String {
    let kind = match entry.kind {
        EntryKind::Dir => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::File => '-',
        EntryKind::Hardlink => 'h',
    };
    let mode = entry.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn entry_json(component: &str, entry: &IndexEntry) -> Result<String> {
    let mut value = serde_json::to_value(entry)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("at");
        object.insert("component".to_owned(), json!(component));
    }
    Ok(value.to_string())
}

pub fn cat(global: &Global, args: &Cat) -> Result<u8> {
    let agent = open(global, &args.of, &args.id)?;
    let run = common::find_run(&agent, &args.id, args.of.job.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let printed = with_backup(&agent, &run, &args.of, |stored| {
        let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
        let run = &run.run_id;
        let hint = |path: &str| {
            format!("there is no file {path} in run {run}; `{} ls -R {run}` lists them", agent.command)
        };
        let backup = match stored {
            Stored::Own(backup) => backup,
            Stored::Imported(archives) => {
                let found = imported::cat(archives, args, &mut out, &progress)?;
                out.flush().map_err(OutputError)?;
                let path = args.path.as_deref().unwrap_or_default();
                return found.map(drop).with_context(|| hint(path));
            }
        };
        let Some(path) = &args.path else {
            let name = args.of.component.as_ref().context("neither a file nor a component is named")?;
            return browse::cat_stream(backup, backup.component(name)?, &mut out, &progress).map(drop);
        };
        let trees = backup.trees(args.of.component.as_ref())?;
        let found = browse::cat(backup, &trees, in_archive(path), &mut out)?;
        out.flush().map_err(OutputError)?;
        found.map(drop).with_context(|| hint(path))
    });
    match printed {
        Err(e) if is_closed(&e) => Ok(code::OK),
        other => other.map(|()| code::OK),
    }
}

/// Whether an error only says that the reader of standard output went away.
fn is_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

pub fn diff(global: &Global, args: &Diff) -> Result<u8> {
    let agent = open(global, &args.of, &args.earlier)?;
    let earlier = common::find_run(&agent, &args.earlier, args.of.job.as_ref())?;
    let later = args.later.as_deref().unwrap_or("latest");
    let later_job = if args.later.is_none() { Some(&earlier.job) } else { args.of.job.as_ref() };
    let later = common::find_run(&agent, later, later_job)?;
    let mut counts = Counts::default();
    with_backup(&agent, &earlier, &args.of, |before| {
        with_backup(&agent, &later, &args.of, |after| {
            let mut lines = Lines::new();
            compare(before, after, args, &mut counts, &mut lines)?;
            if !args.json {
                let (a, b) = (&earlier.run_id, &later.run_id);
                lines.line(&format!("{a} to {b}: {counts}"));
            }
            Ok(code::OK)
        })
    })
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

fn compare(
    before: &Stored<'_>,
    after: &Stored<'_>,
    args: &Diff,
    counts: &mut Counts,
    lines: &mut Lines,
) -> Result<()> {
    let path = in_archive(&args.path);
    let (mut before, mut after) = (parts(before), parts(after));
    if let Some(name) = &args.of.component {
        before.retain(|part| part.name == name.as_str());
        after.retain(|part| part.name == name.as_str());
        if before.is_empty() && after.is_empty() {
            bail!("neither backup has a component {name}");
        }
    }
    let mut say = |component: &str, sign: char, path: String, note: String| {
        let count = match sign {
            '+' => &mut counts.added,
            '-' => &mut counts.removed,
            _ => &mut counts.changed,
        };
        *count += 1;
        let line = if args.json {
            let what = match sign {
                '+' => "added",
                '-' => "removed",
                _ => "changed",
            };
            json!({"component": component, "change": what, "path": path, "how": note}).to_string()
        } else if note.is_empty() {
            format!("{sign} {path}")
        } else {
            format!("{sign} {path} ({note})")
        };
        if lines.line(&line) { Ok(()) } else { Err(anyhow::Error::from(Closed)) }
    };
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
        let outcome = match pair {
            (Some(a), Some(b)) if a.tree && b.tree => {
                let (earlier, later) = sides(a, b).with_context(|| format!("component {}", a.name))?;
                browse::diff(earlier, later, &mut |change| {
                    let entry = match &change {
                        Change::Added(e) | Change::Removed(e) | Change::Changed(e, _) => e,
                    };
                    if !path.is_empty() && !browse::is_below(path, &entry.path.0) {
                        return Ok(());
                    }
                    match &change {
                        Change::Added(e) => say(b.name, '+', e.path.display(), String::new()),
                        Change::Removed(e) => say(b.name, '-', e.path.display(), String::new()),
                        Change::Changed(a, e) => say(b.name, '~', e.path.display(), how(a, e)),
                    }
                })
            }
            _ if !path.is_empty() => Ok(()),
            (Some(a), Some(b)) => match same(a, b)? {
                true => Ok(()),
                false => {
                    let sizes = match (&a.of, &b.of) {
                        // One is a length before compression, the other one behind it.
                        (Origin::Own(..), Origin::Imported(..)) | (Origin::Imported(..), Origin::Own(..)) => {
                            "stored differently: `cat` gives the content of each".to_owned()
                        }
                        _ => format!("{} → {}", ByteSize(a.bytes), ByteSize(b.bytes)),
                    };
                    say(b.name, '~', b.file.to_owned(), sizes)
                }
            },
            (None, Some(b)) => say(b.name, '+', b.file.to_owned(), "the whole component".to_owned()),
            (Some(a), None) => say(a.name, '-', a.file.to_owned(), "the whole component".to_owned()),
            (None, None) => Ok(()),
        };
        unless_closed(outcome)?;
    }
    Ok(())
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
