//! Which files are archives, and which of them are one backup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::date;
use crate::manifest;

/// Folders below the one given that are looked into.
const DEPTH: usize = 12;
/// A file that changed since may still be written.
const SETTLED: TimeDelta = TimeDelta::minutes(10);

/// How an archive can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tar archive, compressed so.
    Tar(Packing),
    /// A dump or another stream, compressed so.
    Stream(Packing),
}

/// How it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
    /// By a program that this one does not replace; its name.
    Other(&'static str),
}

use Packing::{Gzip, Other, Plain, Zstd};

/// Ends of names, the longer before those they end in.
const ENDS: &[(&str, Kind)] = &[
    (".tar.gz", Kind::Tar(Gzip)),
    (".tgz", Kind::Tar(Gzip)),
    (".tar.zst", Kind::Tar(Zstd)),
    (".tar.bz2", Kind::Tar(Other("bzip2"))),
    (".tbz2", Kind::Tar(Other("bzip2"))),
    (".tar.xz", Kind::Tar(Other("xz"))),
    (".txz", Kind::Tar(Other("xz"))),
    (".tar", Kind::Tar(Plain)),
    (".sql.gz", Kind::Stream(Gzip)),
    (".sql.zst", Kind::Stream(Zstd)),
    (".sql.bz2", Kind::Stream(Other("bzip2"))),
    (".sql.xz", Kind::Stream(Other("xz"))),
    (".sql", Kind::Stream(Plain)),
    (".dump.gz", Kind::Stream(Gzip)),
    (".dump.zst", Kind::Stream(Zstd)),
    (".dump", Kind::Stream(Plain)),
    (".sqlite.gz", Kind::Stream(Gzip)),
    (".rdb.gz", Kind::Stream(Gzip)),
    (".rdb", Kind::Stream(Plain)),
];

/// What a file is by its name, and the end of the name that says so; none for a file that is no archive.
pub fn kind_of(file: &str) -> Option<(Kind, &'static str)> {
    ENDS.iter()
        .find(|(end, _)| file.len() > end.len() && file.ends_with(end))
        .map(|(end, kind)| (*kind, *end))
}

/// The archives of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// Its folder relative to the target.
    pub location: String,
    /// Its files, by name, with their lengths.
    pub files: Vec<(String, u64)>,
    /// What tells it from others of the same moment.
    pub(super) key: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct All {
    /// Backups, oldest first.
    pub backups: Vec<Found>,
    /// Files that look like archives and were passed over, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Looks for archives below `folder`, which lies in the target at `top`. Those of one folder and one date are
/// one backup; links are not followed, and this program's own backups are passed over.
pub fn find(top: &Path, folder: &Path, zone: Tz, now: DateTime<Utc>) -> Result<All> {
    let mut search = Search { top, zone, now, skipped: Vec::new(), found: BTreeMap::new() };
    search.folder(folder, 0)?;
    let mut backups: Vec<Found> = search.found.into_values().collect();
    backups.sort_by(|a, b| (a.taken, &a.key).cmp(&(b.taken, &b.key)));
    Ok(All { backups, skipped: search.skipped })
}

struct Search<'a> {
    top: &'a Path,
    zone: Tz,
    now: DateTime<Utc>,
    skipped: Vec<(PathBuf, String)>,
    found: BTreeMap<String, Found>,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<()> {
        let describe = || format!("listing {}", folder.display());
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
            .with_context(describe)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        if entries.iter().any(|entry| entry.file_name() == manifest::FILE) {
            return Ok(());
        }
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("looking at {}", path.display()))?;
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if kind.is_dir() && !hidden && depth < DEPTH {
                self.folder(&path, depth + 1)?;
            } else if !kind.is_dir() && name.to_str().is_none_or(|name| kind_of(name).is_some()) {
                let why = match kind.is_file() && !hidden {
                    true => self.file(&path)?.err(),
                    false => Some("it is hidden, or no plain file"),
                };
                self.skipped.extend(why.map(|why| (path, why.to_owned())));
            }
        }
        Ok(())
    }

    /// Takes one archive in; the inner error says why it was passed over.
    fn file(&mut self, path: &Path) -> Result<Result<(), &'static str>> {
        let metadata =
            fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        let changed: DateTime<Utc> = metadata
            .modified()
            .with_context(|| format!("asking {} for its time of change", path.display()))?
            .into();
        let below = path.strip_prefix(self.top).ok().and_then(Path::to_str);
        let Some((location, file)) = below.map(|below| below.rsplit_once('/').unwrap_or(("", below))) else {
            return Ok(Err("its name is not UTF-8"));
        };
        if location.is_empty() {
            return Ok(Err(
                "it stands at the top of the target: give the target the folder above this one as its path",
            ));
        }
        if metadata.len() == 0 {
            return Ok(Err("it is empty"));
        }
        if self.now - changed < SETTLED {
            return Ok(Err("it changed within the last ten minutes and may still be written"));
        }
        let below = format!("{location}/{file}");
        let by_name = date::named(&below)
            .and_then(|named| date::moment(named, self.zone))
            .filter(|at| *at <= self.now + TimeDelta::days(1));
        // Without a date each file is a backup of its own, and another one once it changes.
        let (taken, key) = match by_name {
            Some(taken) => (taken, format!("{location}\n{taken}")),
            None => (changed, format!("{below}\n{changed}")),
        };
        let found = self.found.entry(key.clone()).or_insert_with(|| Found {
            taken,
            location: location.to_owned(),
            files: Vec::new(),
            key,
        });
        found.files.push((file.to_owned(), metadata.len()));
        Ok(Ok(()))
    }
}
