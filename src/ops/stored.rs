//! A finished backup at a target, opened for looking into it.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ignore::overrides::{Override, OverrideBuilder};
use sha2::Digest;

use super::verify::read_manifest;
use crate::archive::{IndexReader, Selection, select};
use crate::manifest::{Component, Kind, Manifest};
use crate::model::{ComponentName, RunId, Sha256};
use crate::target::{Cache, StoredFile, Target};

/// A finished backup.
pub struct Backup<'a> {
    /// Where it is.
    pub target: &'a dyn Target,
    /// Its folder there.
    pub location: &'a str,
    /// What it holds.
    pub manifest: Manifest,
}

impl<'a> Backup<'a> {
    /// Opens the backup of `run` at `location`; one of another run is an error.
    pub fn open(target: &'a dyn Target, location: &'a str, run: &RunId) -> Result<Self> {
        // Another share in its place is not a backup that is gone.
        target.probe_readable(location)?;
        let manifest = read_manifest(target, location)?;
        if manifest.run_id != *run {
            bail!("target {}: {location} holds run {}, not {run}", target.name(), manifest.run_id);
        }
        Ok(Self { target, location, manifest })
    }

    /// The component of this name; the error names those there are.
    pub fn component(&self, name: &ComponentName) -> Result<&Component> {
        let all = &self.manifest.components;
        all.iter().find(|c| c.name == *name).with_context(|| {
            let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
            format!("run {} has no component {name}; it has: {}", self.manifest.run_id, names.join(", "))
        })
    }

    /// One component, or all of them.
    pub fn components(&self, wanted: Option<&ComponentName>) -> Result<Vec<&Component>> {
        match wanted {
            Some(name) => Ok(vec![self.component(name)?]),
            None => Ok(self.manifest.components.iter().collect()),
        }
    }

    /// One component, or all that are trees of files.
    pub fn trees(&self, wanted: Option<&ComponentName>) -> Result<Vec<&Component>> {
        let mut found = self.components(wanted)?;
        found.retain(|c| c.kind == Kind::Tar);
        Ok(found)
    }

    /// Opens a file of the backup.
    pub fn file(&self, file: &str) -> Result<Box<dyn StoredFile>> {
        self.target.open(self.location, file, Cache::Warm)
    }

    /// The index of a tree.
    pub fn index(&self, component: &Component) -> Result<Index> {
        let index = component
            .index
            .as_ref()
            .with_context(|| format!("component {} has no index; restore it whole", component.name))?;
        Ok(Index { stored: self.file(&index.file)?, file: index.file.clone() })
    }

    /// The index, read once and compared with what was written.
    pub fn checked_index(&self, component: &Component) -> Result<Index> {
        let described = component.index.as_ref().context("it has no index")?;
        let mut index = self.index(component)?;
        let mut digest = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = index.stored.read(&mut buffer).with_context(|| format!("reading {}", index.file))?;
            if got == 0 {
                break;
            }
            digest.update(&buffer[..got]);
        }
        if Sha256(digest.finalize().into()) != described.sha256 {
            bail!("its index {} is not what was written", described.file);
        }
        Ok(index)
    }

    /// The frames of a tree that hold what the patterns choose.
    pub fn select(&self, component: &Component, patterns: &Patterns) -> Result<Selection> {
        let index = self.index(component)?;
        select(&index.reader()?, &|path| patterns.choose(path))
    }
}

/// An index file, opened.
pub struct Index {
    stored: Box<dyn StoredFile>,
    file: String,
}

/// Reads a piece of an index: `(offset, length)`.
pub type ReadIndex<'i> = Box<dyn Fn(u64, usize) -> Result<Vec<u8>> + Send + 'i>;

impl Index {
    /// Reads its directory.
    pub fn reader(&self) -> Result<IndexReader<ReadIndex<'_>>> {
        let read_at = self.stored.read_at();
        let length = read_at.length().with_context(|| format!("looking at {}", self.file))?;
        let file = &self.file;
        let read: ReadIndex<'_> = Box::new(move |offset, length| {
            read_at.read_exact_at(offset, length).with_context(|| format!("reading {file}"))
        });
        IndexReader::open(length, read).with_context(|| self.file.clone())
    }
}

/// Paths as they stand in an archive, with `*`, `?` and `**`; a folder's name chooses all below it.
pub struct Patterns(Override);

impl Patterns {
    /// Reads patterns; a leading `/` is the root of the archive.
    pub fn parse(paths: &[String]) -> Result<Self> {
        let mut builder = OverrideBuilder::new("/");
        for path in paths {
            let path = path.trim_start_matches('/');
            builder.add(&format!("/{path}")).with_context(|| format!("the pattern {path:?}"))?;
        }
        Ok(Self(builder.build().context("the patterns")?))
    }

    /// Whether they choose a path.
    pub fn choose(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let is_dir = path.ends_with(b"/");
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let path = Path::new("/").join(Path::new(std::ffi::OsStr::from_bytes(path)));
        // A path is chosen by itself, or by a folder above it.
        let mut dir = is_dir;
        for part in path.ancestors() {
            if part.parent().is_some() && self.0.matched(part, dir).is_whitelist() {
                return true;
            }
            dir = true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_chooses_files_folders_and_what_is_below_them() {
        let chosen = |pattern: &str, path: &str| {
            Patterns::parse(&[pattern.to_owned()]).unwrap().choose(path.as_bytes())
        };
        assert!(chosen("var/www/app/artisan", "var/www/app/artisan"));
        assert!(chosen("/var/www/app/artisan", "var/www/app/artisan"));
        assert!(chosen("var/www/app", "var/www/app/"));
        assert!(chosen("var/www/app", "var/www/app/a/b.php"));
        assert!(chosen("var/www/**/*.php", "var/www/app/a/b.php"));
        assert!(!chosen("var/www/app", "var/www/application"));
        assert!(!chosen("*.php", "var/www/app/a/b.php"));
        assert!(!chosen("var/www/*.php", "var/www/app/b.php"));
    }
}
