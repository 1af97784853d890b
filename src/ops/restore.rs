//! Backups back into files: whole, one component, or chosen paths.

use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ignore::overrides::{Override, OverrideBuilder};

use super::verify::read_manifest;
use crate::archive::{
    FrameReader, IndexReader, Prefetch, RestoreOptions, RestoreSummary, Selection, StreamDecoder,
    restore_tree, select,
};
use crate::manifest::{Component, Kind, Manifest};
use crate::model::{ComponentName, RunId};
use crate::target::{Cache, Target};

/// What is to be restored, and where to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// One component, or all.
    pub component: Option<ComponentName>,
    /// Paths as they stand in the archive, with `*`, `?`, `**`; all when empty.
    pub paths: Vec<String>,
    /// The folder, made when it does not exist.
    pub to: PathBuf,
    /// Restore into a folder that is not empty, replacing what stands in the way.
    pub force: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Restored {
    /// For each component: its name, where it went, what was restored.
    pub components: Vec<(ComponentName, PathBuf, RestoreSummary)>,
}

impl Restored {
    /// Problems of all components.
    pub fn problems(&self) -> usize {
        self.components.iter().map(|(_, _, s)| s.problems.len()).sum()
    }

    /// Entries of all components.
    pub fn entries(&self) -> u64 {
        self.components.iter().map(|(_, _, s)| s.entries).sum()
    }
}

/// Restores from the backup at `location`. Several components go into a folder each below `to`, one goes
/// into `to` itself; with paths, only components that have some of them count.
pub fn restore(
    target: &dyn Target,
    location: &str,
    run: &RunId,
    wanted: &Wanted,
    options: &RestoreOptions,
) -> Result<Restored> {
    let manifest = read_manifest(target, location)?;
    if manifest.run_id != *run {
        bail!("target {}: {location} holds run {}, not {run}", target.name(), manifest.run_id);
    }
    let backup = Backup { target, location, manifest: &manifest };
    let mut chosen = choose(&manifest, wanted)?;
    if !wanted.paths.is_empty() {
        let patterns = patterns(&wanted.paths)?;
        let mut matching = Vec::new();
        for component in chosen {
            if !backup.select(component, &patterns)?.paths.is_empty() {
                matching.push(component);
            }
        }
        chosen = matching;
        if chosen.is_empty() {
            bail!(
                "no path in run {run} matches {}; list them with: tar --zstd -tf FILE",
                wanted.paths.join(", ")
            );
        }
    }
    prepare_folder(&wanted.to, wanted.force)?;
    let mut restored = Restored::default();
    let several = chosen.len() > 1;
    for component in chosen {
        let folder = if several { wanted.to.join(component.name.as_str()) } else { wanted.to.clone() };
        std::fs::create_dir_all(&folder).with_context(|| format!("making folder {}", folder.display()))?;
        let summary = backup
            .component(component, &folder, wanted, options)
            .with_context(|| format!("component {}", component.name))?;
        restored.components.push((component.name.clone(), folder, summary));
    }
    Ok(restored)
}

fn choose<'m>(manifest: &'m Manifest, wanted: &Wanted) -> Result<Vec<&'m Component>> {
    let all = &manifest.components;
    if let Some(name) = &wanted.component {
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        let found = all.iter().find(|c| c.name == *name);
        return found.map(|c| vec![c]).with_context(|| {
            format!("run {} has no component {name}; it has: {}", manifest.run_id, names.join(", "))
        });
    }
    // Paths are looked for in trees only.
    let trees_only = !wanted.paths.is_empty();
    Ok(all.iter().filter(|c| !trees_only || c.kind == Kind::Tar).collect())
}

fn prepare_folder(to: &Path, force: bool) -> Result<()> {
    match std::fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() && !force {
                bail!(
                    "{} is not empty; choose another folder, or replace what is there with --force",
                    to.display()
                );
            }
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(to).with_context(|| format!("making folder {}", to.display()))
        }
        Err(e) => Err(e).with_context(|| format!("opening folder {}", to.display())),
    }
}

/// A stored backup.
struct Backup<'a> {
    target: &'a dyn Target,
    location: &'a str,
    manifest: &'a Manifest,
}

impl Backup<'_> {
    fn component(
        &self,
        component: &Component,
        folder: &Path,
        wanted: &Wanted,
        options: &RestoreOptions,
    ) -> Result<RestoreSummary> {
        match component.kind {
            Kind::Stream => self.stream(component, folder, wanted, options),
            Kind::Tar if wanted.paths.is_empty() => self.whole(component, folder, options),
            Kind::Tar => self.chosen(component, folder, wanted, options),
        }
    }

    fn whole(
        &self,
        component: &Component,
        folder: &Path,
        options: &RestoreOptions,
    ) -> Result<RestoreSummary> {
        let stored = self.target.open(self.location, &component.file, Cache::Warm)?;
        let mut decoder = StreamDecoder::new(stored, self.manifest.codec);
        let totals = decoder.totals();
        let summary = Prefetch::scope(&mut decoder, |stream| {
            let summary = restore_tree(stream, folder, None, options)?;
            io::copy(stream, &mut io::sink())?; // to the end, for the digest
            anyhow::Ok(summary)
        })?;
        if totals.sha256() != component.sha256 {
            bail!(
                "{} is not what was written (digest {}, {} expected): what was restored may be wrong or incomplete",
                component.file,
                totals.sha256(),
                component.sha256
            );
        }
        Ok(summary)
    }

    fn chosen(
        &self,
        component: &Component,
        folder: &Path,
        wanted: &Wanted,
        options: &RestoreOptions,
    ) -> Result<RestoreSummary> {
        let selection = self.select(component, &patterns(&wanted.paths)?)?;
        let stored = self.target.open(self.location, &component.file, Cache::Warm)?;
        let mut frames = FrameReader::new(stored.read_at(), self.manifest.codec, selection.frames.clone())?;
        restore_tree(&mut frames, folder, Some(&selection), options)
    }

    /// The frames of a tree that hold what the patterns choose.
    fn select(&self, component: &Component, patterns: &Override) -> Result<Selection> {
        let index = component.index.as_ref().context("the component has no index; restore it whole")?;
        let stored = self.target.open(self.location, &index.file, Cache::Warm)?;
        let read_at = stored.read_at();
        let reader = IndexReader::open(read_at.length()?, |offset, length| {
            read_at.read_exact_at(offset, length).with_context(|| format!("reading {}", index.file))
        })?;
        select(&reader, &|path| matches(patterns, path))
    }

    fn stream(
        &self,
        component: &Component,
        folder: &Path,
        wanted: &Wanted,
        options: &RestoreOptions,
    ) -> Result<RestoreSummary> {
        let stored = self.target.open(self.location, &component.file, Cache::Warm)?;
        let mut decoder = StreamDecoder::new(stored, self.manifest.codec);
        let totals = decoder.totals();
        let plain = component
            .file
            .strip_suffix(&format!(".{}", self.manifest.codec.extension()))
            .unwrap_or(&component.file);
        let path = folder.join(plain);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .create_new(!wanted.force)
            .truncate(true)
            // A dump holds everything its database held, so it is nobody else's to read.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let got =
                decoder.read(&mut buffer).with_context(|| format!("decompressing {}", component.file))?;
            if got == 0 {
                break;
            }
            if options.progress.is_cancelled() {
                return Err(crate::event::Interrupted.into());
            }
            file.write_all(&buffer[..got]).with_context(|| format!("writing {}", path.display()))?;
            bytes += got as u64;
            options.progress.add_source(got as u64);
        }
        file.sync_all().with_context(|| format!("making {} durable", path.display()))?;
        crate::fsutil::close(file).with_context(|| format!("closing {}", path.display()))?;
        if bytes != component.raw_bytes || totals.sha256() != component.sha256 {
            bail!("{} is not what was written: what was restored is wrong or incomplete", component.file);
        }
        Ok(RestoreSummary { entries: 1, bytes, ..RestoreSummary::default() })
    }
}

/// The patterns as gitignore-like globs: a folder's name chooses all below it.
fn patterns(paths: &[String]) -> Result<Override> {
    let mut builder = OverrideBuilder::new("/");
    for path in paths {
        let path = path.trim_start_matches('/');
        builder.add(&format!("/{path}")).with_context(|| format!("the pattern {path:?}"))?;
    }
    builder.build().context("the patterns")
}

fn matches(patterns: &Override, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let is_dir = path.ends_with(b"/");
    let path =
        Path::new("/").join(Path::new(std::ffi::OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(path))));
    // A path is chosen by itself, or by a folder above it.
    let mut dir = is_dir;
    for part in path.ancestors() {
        if part.parent().is_some() && patterns.matched(part, dir).is_whitelist() {
            return true;
        }
        dir = true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_chooses_files_folders_and_what_is_below_them() {
        let chosen =
            |pattern: &str, path: &str| matches(&patterns(&[pattern.to_owned()]).unwrap(), path.as_bytes());
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
