//! Backups back into files: whole, one component, or chosen paths.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sha2::Digest;

use super::stored::{Backup, Locked, Patterns};
use crate::archive::{
    FrameRecord, Group, Prefetch, RestoreOptions, RestoreSummary, Selection, StreamTotals, damage,
    for_each_group, restore_frames, restore_stream, select,
};
use crate::crypt::Keyring;
use crate::event::Interrupted;
use crate::fsutil;
use crate::manifest::{self, Component, Kind};
use crate::model::{ComponentName, RunId, Sha256};
use crate::target::{StoredFile, Target};

/// What is to be restored, and where to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// One component, or all.
    pub component: Option<ComponentName>,
    /// Paths as they stand in the archive, with `*`, `?`, `**`; all when empty.
    pub paths: Vec<String>,
    /// Where to.
    pub to: Destination,
    /// Restore into a folder that is not empty, replacing what stands in the way.
    pub force: bool,
    /// What an encrypted backup is opened with.
    pub keys: Arc<Keyring>,
}

/// Where files are restored to.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A folder, made when it does not exist. Several components go into a folder each below it.
    Folder(PathBuf),
    /// The places they were captured from; only trees of files have such.
    InPlace,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Restored {
    /// For each component: its name, where it went, what was restored.
    pub components: Vec<(ComponentName, PathBuf, RestoreSummary)>,
    /// Components that have no place to be restored to.
    pub left_out: Vec<ComponentName>,
}

impl Restored {
    /// Problems of all components.
    pub fn problems(&self) -> usize {
        self.components.iter().map(|(_, _, s)| s.problems.len()).sum()
    }

    /// Entries of all components that stood in damaged frames.
    pub fn lost(&self) -> u64 {
        self.components.iter().map(|(_, _, s)| s.lost).sum()
    }

    /// Entries of all components.
    pub fn entries(&self) -> u64 {
        self.components.iter().map(|(_, _, s)| s.entries).sum()
    }
}

/// Restores from the backup of `run` at `location`. With paths, only components that have some of them count.
pub fn restore(
    target: &dyn Target,
    location: &str,
    run: &RunId,
    wanted: &Wanted,
    options: &RestoreOptions,
) -> Result<Restored> {
    let backup = Backup::open(target, location, run)?.with_keys(Arc::clone(&wanted.keys))?;
    let in_place = matches!(wanted.to, Destination::InPlace);
    let of_trees = in_place || !wanted.paths.is_empty();
    let components = match &wanted.component {
        Some(_) => backup.components(wanted.component.as_ref())?,
        None if of_trees => backup.trees(None)?,
        None => backup.components(None)?,
    };
    if let Some(stream) = components.iter().find(|c| of_trees && c.kind == Kind::Stream) {
        bail!("component {} is no tree of files: restore it into a folder, with --to", stream.name);
    }
    let restorer = Restorer { backup: &backup, force: wanted.force, options };
    let chosen = restorer.choose(components, wanted, in_place)?;
    let top = match &wanted.to {
        Destination::Folder(folder) => {
            prepare_folder(folder, wanted.force)?;
            folder.clone()
        }
        Destination::InPlace => PathBuf::from("/"),
    };
    let mut restored = Restored::default();
    if in_place && wanted.component.is_none() && wanted.paths.is_empty() {
        let streams = backup.manifest.components.iter().filter(|component| component.kind == Kind::Stream);
        restored.left_out = streams.map(|component| component.name.clone()).collect();
    }
    let apart = chosen.len() > 1 && !in_place;
    for (component, selection) in chosen {
        let folder = if apart { top.join(component.name.as_str()) } else { top.clone() };
        std::fs::create_dir_all(&folder).with_context(|| format!("making folder {}", folder.display()))?;
        let summary = match (component.kind, &selection) {
            (Kind::Stream, _) => restorer.stream(component, &folder),
            (Kind::Tar, None) => restorer.whole(component, &folder),
            (Kind::Tar, Some(selection)) => restorer.chosen(component, &folder, selection),
        };
        let summary = summary.with_context(|| format!("component {}", component.name))?;
        restored.components.push((component.name.clone(), folder, summary));
    }
    Ok(restored)
}

pub(super) fn prepare_folder(to: &Path, force: bool) -> Result<()> {
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

/// Restores the components of one backup.
struct Restorer<'a> {
    backup: &'a Backup<'a>,
    force: bool,
    options: &'a RestoreOptions,
}

impl Restorer<'_> {
    /// The components that have something of what is wanted, and what of them, when it is not all.
    fn choose<'c>(
        &self,
        components: Vec<&'c Component>,
        wanted: &Wanted,
        in_place: bool,
    ) -> Result<Vec<(&'c Component, Option<Selection>)>> {
        if wanted.paths.is_empty() && !in_place {
            return Ok(components.into_iter().map(|component| (component, None)).collect());
        }
        let everything = ["**".to_owned()];
        let paths = if wanted.paths.is_empty() { &everything[..] } else { &wanted.paths };
        let patterns = Patterns::parse(paths)?;
        let mut chosen = Vec::new();
        for component in components {
            // What exists in the archive only has no place.
            let nowhere = |path: &[u8]| in_place && path.starts_with(manifest::ARCHIVE_ONLY.as_bytes());
            let index = self.backup.index(component)?;
            let selection =
                select(&index.reader()?, patterns.roots(), &|path| patterns.choose(path) && !nowhere(path))?;
            if !selection.paths.is_empty() {
                chosen.push((component, Some(selection)));
            }
        }
        if chosen.is_empty() {
            let run = &self.backup.manifest.run_id;
            bail!("no path in run {run} matches {}; `agent ls {run}` lists them", paths.join(", "));
        }
        Ok(chosen)
    }

    /// Everything, by several threads where the index says which frames belong together.
    fn whole(&self, component: &Component, folder: &Path) -> Result<RestoreSummary> {
        let index = match self.backup.checked_index(component) {
            Ok(index) => index,
            Err(why) if why.is::<Locked>() => return Err(why),
            Err(why) => {
                tracing::warn!("{}: read from its beginning, because {why:#}", component.file);
                return self.sequentially(component, folder);
            }
        };
        let mut reading = Sequential::open(self.backup, component)?;
        let mut groups = |visit: &mut dyn FnMut(Group) -> Result<()>| {
            for_each_group(&index.reader()?, &mut |mut group, entries| {
                group.names = entries.into_iter().map(|entry| entry.path.0).collect();
                visit(group)
            })
        };
        let summary = restore_frames(
            folder,
            self.backup.manifest.codec,
            None,
            self.options,
            &mut groups,
            &mut |frame| reading.frame(frame),
        )
        .map_err(|e| self.explain(e, component))?;
        // What is lost was named, and changes the digest.
        if let Some(digest) = reading.finish()?
            && digest != component.sha256
            && summary.lost == 0
        {
            bail!(
                "{} is not what was written (digest {digest}, {} expected): what was restored may be wrong or incomplete",
                component.file,
                component.sha256
            );
        }
        Ok(summary)
    }

    fn sequentially(&self, component: &Component, folder: &Path) -> Result<RestoreSummary> {
        let (mut decoder, totals) = self.backup.stream(component)?;
        let summary = Prefetch::scope(&mut decoder, |stream| {
            let summary = restore_stream(stream, folder, self.options)?;
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

    fn chosen(&self, component: &Component, folder: &Path, selection: &Selection) -> Result<RestoreSummary> {
        let stored = self.backup.content(&component.file)?;
        let mut groups = |visit: &mut dyn FnMut(Group) -> Result<()>| {
            selection.groups.iter().cloned().try_for_each(&mut *visit)
        };
        let mut read =
            |frame: &FrameRecord| stored.read_at().read_exact_at(frame.offset, frame.stored as usize);
        restore_frames(
            folder,
            self.backup.manifest.codec,
            Some(selection),
            self.options,
            &mut groups,
            &mut read,
        )
        .map_err(|e| self.explain(e, component))
    }

    /// Says what to do about damage.
    fn explain(&self, error: anyhow::Error, component: &Component) -> anyhow::Error {
        if self.options.keep_going || damage(&error).is_none() {
            return error;
        }
        error.context(format!(
            "target {}: {} is damaged; restore from another target with --target, or everything else with \
             --keep-going --force",
            self.backup.target.name(),
            component.file
        ))
    }

    fn stream(&self, component: &Component, folder: &Path) -> Result<RestoreSummary> {
        let (mut decoder, totals) = self.backup.stream(component)?;
        let path = folder.join(self.backup.manifest.plain_name(component));
        let bytes = write_stream(&mut decoder, &component.file, &path, self.force, self.options)?;
        if bytes != component.raw_bytes || totals.sha256() != component.sha256 {
            bail!("{} is not what was written: what was restored is wrong or incomplete", component.file);
        }
        Ok(RestoreSummary { entries: 1, bytes, ..RestoreSummary::default() })
    }
}

/// Writes what `from` gives, unpacked from the stored file `name`, into the file `to`; how many bytes that were.
/// One that is there is replaced with `force`, else an error.
pub(super) fn write_stream(
    from: &mut dyn Read,
    name: &str,
    to: &Path,
    force: bool,
    options: &RestoreOptions,
) -> Result<u64> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .create_new(!force)
        .truncate(true)
        // A dump holds everything its database held, so it is nobody else's to read.
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(to)
        .with_context(|| format!("creating {}", to.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let got = from.read(&mut buffer).with_context(|| format!("decompressing {name}"))?;
        if got == 0 {
            break;
        }
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        file.write_all(&buffer[..got]).with_context(|| format!("writing {}", to.display()))?;
        bytes += got as u64;
        options.progress.add_source(got as u64);
    }
    if options.sync {
        file.sync_all().with_context(|| format!("making {} durable", to.display()))?;
    }
    fsutil::close(file).with_context(|| format!("closing {}", to.display()))?;
    Ok(bytes)
}

/// A component read from its beginning, frame after frame, and digested on the way.
struct Sequential<'a> {
    backup: &'a Backup<'a>,
    file: &'a str,
    stream: Box<dyn Read + Send>,
    by_position: Option<Box<dyn StoredFile>>,
    at: u64,
    digest: Digested,
}

/// Of what is stored.
enum Digested {
    /// Frames are what is stored.
    Frames(sha2::Sha256),
    /// They are encrypted; it is counted before that.
    Stored(Arc<StreamTotals>),
}

impl<'a> Sequential<'a> {
    fn open(backup: &'a Backup<'a>, component: &'a Component) -> Result<Self> {
        let file = component.file.as_str();
        let (stream, digest): (Box<dyn Read + Send>, _) = if backup.manifest.encryption.is_some() {
            let (stream, totals) = backup.sequential(file)?;
            (stream, Digested::Stored(totals))
        } else {
            (Box::new(backup.file(file)?), Digested::Frames(sha2::Sha256::new()))
        };
        Ok(Self { backup, file, stream, by_position: None, at: 0, digest })
    }

    /// The compressed bytes of the next frame. One that cannot be read from here is tried by its position: a bad
    /// sector must not cost what stands behind it.
    fn frame(&mut self, frame: &FrameRecord) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; frame.stored as usize];
        if self.at == frame.offset && self.stream.read_exact(&mut bytes).is_ok() {
            self.at += u64::from(frame.stored);
        } else {
            self.at = u64::MAX;
            let file = match self.by_position.take() {
                Some(file) => file,
                None => self.backup.content(self.file).map_err(io::Error::other)?,
            };
            let file = self.by_position.insert(file);
            bytes = file.read_at().read_exact_at(frame.offset, frame.stored as usize)?;
        }
        if let Digested::Frames(digest) = &mut self.digest {
            digest.update(&bytes);
        }
        Ok(bytes)
    }

    /// Reads to the end, and gives the digest of everything stored. None when an encrypted file was not read in
    /// one go: then each piece of it proved itself.
    fn finish(mut self) -> Result<Option<Sha256>> {
        let mut buffer = vec![0; 64 << 10];
        while self.at != u64::MAX {
            match (self.stream.read(&mut buffer).context("reading the archive to its end")?, &mut self.digest)
            {
                (0, _) => break,
                (got, Digested::Frames(digest)) => digest.update(&buffer[..got]),
                (_, Digested::Stored(_)) => {}
            }
        }
        Ok(match self.digest {
            Digested::Frames(digest) => Some(Sha256(digest.finalize().into())),
            Digested::Stored(_) if self.at == u64::MAX => None,
            Digested::Stored(totals) => Some(totals.sha256()),
        })
    }
}
