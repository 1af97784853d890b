//! `agent ls`.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::lines::{Closed, Lines, unless_closed};
use super::{Stored, imported, in_archive, with_backup};
use crate::archive::{EntryKind, IndexEntry};
use crate::cli::args::{Global, Ls};
use crate::cli::{code, common};
use crate::manifest::{Component, Kind};
use crate::ops::browse;
use crate::ops::stored::Backup;

pub fn ls(global: &Global, args: &Ls) -> Result<u8> {
    let agent = common::open_backup(global, args.of.target.as_ref(), &args.id)?;
    let run = common::find_run_at(&agent, &args.id, args.of.job.as_ref(), args.of.target.as_ref())?;
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
pub(super) struct Shown<'a> {
    args: &'a Ls,
    zone: Tz,
    /// Whether there are several components to tell apart.
    pub several: bool,
    /// The component whose entries come.
    head: Option<String>,
    found: bool,
    lines: Lines,
}

impl Shown<'_> {
    pub(super) fn entry(&mut self, component: &str, entry: &IndexEntry) -> Result<()> {
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
