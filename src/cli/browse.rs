//! `agent ls`, `agent cat`, `agent diff`: looking into backups.

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
use crate::model::ByteSize;
use crate::ops::Agent;
use crate::ops::browse::{self, Change, OutputError};
use crate::ops::stored::Backup;
use crate::state::Run;

/// A path as it stands in archives.
fn in_archive(path: &str) -> &[u8] {
    path.trim_matches('/').as_bytes()
}

fn open(global: &Global, of: &Of, id: &str) -> Result<Agent> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::open_backups(global, config, of.target.as_ref(), Some(id))
}

/// Opens the nearest copy of a backup for `body`.
fn with_backup<T>(
    agent: &Agent,
    run: &Run,
    of: &Of,
    body: impl FnOnce(&Backup<'_>) -> Result<T>,
) -> Result<T> {
    let copy = common::nearest(agent, run, of.target.as_ref())?;
    let location = copy.location.context("the backup has no location")?;
    let target = agent.open_target(&copy.target)?;
    let keys = Arc::new(key::files(agent, &run.job, &of.keys)?.read()?);
    body(&Backup::open(target.as_ref(), &location, &run.run_id)?.with_keys(keys)?)
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
    with_backup(&agent, &run, &args.of, |backup| {
        let path = in_archive(&args.path);
        let components = backup.components(args.of.component.as_ref())?;
        let several = components.len() > 1;
        let mut lines = Lines::new();
        let mut found = false;
        for component in components {
            let mut head = several && !args.json;
            let mut visit = |entry: IndexEntry| {
                found = true;
                if std::mem::take(&mut head) {
                    lines.line(&format!("{}:", component.name));
                }
                let indent = if several && !args.json { "  " } else { "" };
                let line = if args.json {
                    entry_json(component, &entry)?
                } else {
                    format!("{indent}{}", entry_line(&entry, args.long, zone))
                };
                if lines.line(&line) { Ok(()) } else { Err(Closed.into()) }
            };
            if component.kind == Kind::Tar {
                unless_closed(browse::list(backup, component, path, args.recursive, &mut visit))
                    .with_context(|| format!("component {}", component.name))?;
            } else if path.is_empty() {
                visit(whole(backup, component))?;
            }
        }
        if !found {
            let run = &backup.manifest.run_id;
            bail!(
                "nothing at {:?} in run {run}; `{} ls {run}` shows where it begins",
                args.path,
                agent.command
            );
        }
        Ok(code::OK)
    })
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

fn entry_json(component: &Component, entry: &IndexEntry) -> Result<String> {
    let mut value = serde_json::to_value(entry)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("at");
        object.insert("component".to_owned(), json!(component.name));
    }
    Ok(value.to_string())
}

pub fn cat(global: &Global, args: &Cat) -> Result<u8> {
    let agent = open(global, &args.of, &args.id)?;
    let run = common::find_run(&agent, &args.id, args.of.job.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let printed = with_backup(&agent, &run, &args.of, |backup| {
        let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
        let Some(path) = &args.path else {
            let name = args.of.component.as_ref().context("neither a file nor a component is named")?;
            return browse::cat_stream(backup, backup.component(name)?, &mut out, &progress).map(drop);
        };
        let trees = backup.trees(args.of.component.as_ref())?;
        let found = browse::cat(backup, &trees, in_archive(path), &mut out)?;
        out.flush().map_err(OutputError)?;
        let run = &backup.manifest.run_id;
        let hint =
            || format!("there is no file {path} in run {run}; `{} ls -R {run}` lists them", agent.command);
        found.map(drop).with_context(hint)
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
                let (a, b) = (&before.manifest.run_id, &after.manifest.run_id);
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

fn compare(
    before: &Backup<'_>,
    after: &Backup<'_>,
    args: &Diff,
    counts: &mut Counts,
    lines: &mut Lines,
) -> Result<()> {
    let path = in_archive(&args.path);
    let wanted = |c: &&Component| args.of.component.as_ref().is_none_or(|name| c.name == *name);
    if let Some(name) = &args.of.component
        && !before.manifest.components.iter().chain(&after.manifest.components).any(|c| c.name == *name)
    {
        bail!("neither backup has a component {name}");
    }
    let mut say = |component: &Component, sign: char, path: String, note: String| {
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
            json!({"component": component.name, "change": what, "path": path, "how": note}).to_string()
        } else if note.is_empty() {
            format!("{sign} {path}")
        } else {
            format!("{sign} {path} ({note})")
        };
        if lines.line(&line) { Ok(()) } else { Err(anyhow::Error::from(Closed)) }
    };
    let mut pairs = Vec::new();
    for later in after.manifest.components.iter().filter(wanted) {
        pairs.push((before.manifest.components.iter().find(|c| c.name == later.name), Some(later)));
    }
    for earlier in before.manifest.components.iter().filter(wanted) {
        if !after.manifest.components.iter().any(|c| c.name == earlier.name) {
            pairs.push((Some(earlier), None));
        }
    }
    for pair in pairs {
        let outcome = match pair {
            (Some(a), Some(b)) if a.kind == Kind::Tar && b.kind == Kind::Tar => {
                browse::diff((before, a), (after, b), &mut |change| {
                    let entry = match &change {
                        Change::Added(e) | Change::Removed(e) | Change::Changed(e, _) => e,
                    };
                    if !path.is_empty() && !browse::is_below(path, &entry.path.0) {
                        return Ok(());
                    }
                    match &change {
                        Change::Added(e) => say(b, '+', e.path.display(), String::new()),
                        Change::Removed(e) => say(b, '-', e.path.display(), String::new()),
                        Change::Changed(a, e) => say(b, '~', e.path.display(), how(a, e)),
                    }
                })
            }
            _ if !path.is_empty() => Ok(()),
            (Some(a), Some(b)) => match browse::same_stream((before, a), (after, b))? {
                true => Ok(()),
                false => {
                    let sizes = format!("{} → {}", ByteSize(a.raw_bytes), ByteSize(b.raw_bytes));
                    say(b, '~', b.file.clone(), sizes)
                }
            },
            (None, Some(b)) => say(b, '+', b.file.clone(), "the whole component".to_owned()),
            (Some(a), None) => say(a, '-', a.file.clone(), "the whole component".to_owned()),
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
