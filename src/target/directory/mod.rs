//! A folder as a target: on a local disk, or on a mounted share.

mod stage;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use self::stage::{DirectoryFile, DirectoryStage};
use super::scan::{self, Scan};
use super::sentinel::{self, Sentinel};
use super::{Cache, Removal, Space, Stage, StoredFile, Target, is_safe_location};
use crate::event::Progress;
use crate::failpoint::hit_at;
use crate::fsutil;
use crate::manifest::{self, Manifest, PIN_FILE, Pin};
use crate::model::{ByteSize, RunId, TargetName};
use crate::mounts::Mounts;
use crate::state::TargetIdentity;

/// Less free space than this counts as full: not even the manifest and the logs of others would fit.
const FULL: u64 = 1 << 20;

/// Whether the folder must stand on a mounted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mount {
    /// The root file system will do.
    Any,
    /// It must be mounted, so that an absent share is not mistaken for an empty folder.
    Required,
}

/// A folder that holds backups.
#[derive(Debug, Clone)]
pub struct DirectoryTarget {
    name: TargetName,
    path: PathBuf,
    mount: Mount,
    expected: Option<TargetIdentity>,
}

impl DirectoryTarget {
    /// The target `name` at the absolute folder `path`.
    pub fn new(name: TargetName, path: PathBuf, mount: Mount) -> Self {
        Self { name, path, mount, expected: None }
    }

    /// The same, refused whenever something else than `expected` stands there.
    pub fn expecting(self, expected: Option<TargetIdentity>) -> Self {
        Self { expected, ..self }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a backup; refuses locations that would leave the target.
    fn folder(&self, location: &str) -> Result<PathBuf> {
        if !is_safe_location(location) {
            bail!("target {}: {location:?} is no folder of a backup", self.name);
        }
        Ok(self.path.join(location))
    }

    fn partial(&self, run: &RunId) -> PathBuf {
        self.path.join(format!(".partial-{run}"))
    }

    fn expired(&self, run: &RunId) -> PathBuf {
        self.path.join(format!(".expired-{run}"))
    }

    /// Looks that the folder is there, on the file system it should be on, and with the sentinel it should
    /// have; gives the device.
    fn check(&self) -> Result<u64> {
        let device = self.check_mount()?;
        if let Some(expected) = &self.expected {
            sentinel::compare(&self.name, &self.path, expected)?;
        }
        Ok(device)
    }

    fn check_mount(&self) -> Result<u64> {
        let metadata = fs::metadata(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!(
                "target {}: the folder {} does not exist; mount it, or make it with: mkdir -p {}",
                self.name,
                self.path.display(),
                self.path.display()
            ),
            _ => anyhow::anyhow!("target {}: looking at {}: {e}", self.name, self.path.display()),
        })?;
        if !metadata.is_dir() {
            bail!("target {}: {} is no folder", self.name, self.path.display());
        }
        if self.mount == Mount::Required && !is_below_mount(&self.path)? {
            bail!(
                "target {}: {} is not mounted (require_mount): nothing is written there; mount it and try again",
                self.name,
                self.path.display()
            );
        }
        Ok(metadata.dev())
    }
}

/// True when the nearest mount point above `path` is not the root of the machine.
fn is_below_mount(path: &Path) -> Result<bool> {
    let real = fs::canonicalize(path).with_context(|| format!("looking at {}", path.display()))?;
    for folder in real.ancestors() {
        if folder.parent().is_none() {
            return Ok(false);
        }
        if fsutil::is_mount_point(folder).with_context(|| format!("looking at {}", folder.display()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl DirectoryTarget {
    /// Whether what the file system says of inodes means anything. What shows a server's files as a file system
    /// often makes the numbers up: `rclone mount` has a billion, none of them free.
    fn counts_inodes(&self) -> bool {
        let is_remote = |mounts: Mounts| {
            let path = fs::canonicalize(&self.path).ok()?;
            Some(mounts.of(&path)?.is_remote())
        };
        !Mounts::read().ok().and_then(is_remote).unwrap_or_default()
    }
}

impl Target for DirectoryTarget {
    fn name(&self) -> &TargetName {
        &self.name
    }

    fn probe(&self) -> Result<Option<Space>> {
        self.check()?;
        let describe = |what: &str| format!("target {}: {what} {}", self.name, self.path.display());
        rustix::fs::access(&self.path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(io::Error::from)
            .with_context(|| describe("it is not allowed to write to"))?;
        let (total, free) =
            fsutil::space(&self.path).with_context(|| describe("asking for the free space of"))?;
        if free < FULL {
            bail!("{}; only {} are free", describe("there is no room left on"), ByteSize(free));
        }
        let free_inodes =
            || fsutil::free_inodes(&self.path).with_context(|| describe("asking for the free inodes of"));
        if self.counts_inodes() && free_inodes()? == Some(0) {
            bail!("{}: all inodes are in use", describe("there is no room for another file on"));
        }
        Ok(Some(Space { total, free }))
    }

    fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity> {
        self.check_mount()?;
        sentinel::identify(&self.path, now).with_context(|| format!("target {}", self.name))
    }

    fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
        self.check_mount()?;
        let describe = || format!("target {}", self.name);
        match Sentinel::read(&self.path).with_context(describe)? {
            Some(found) => Ok(found),
            None => sentinel.place(&self.path).with_context(describe),
        }
    }

    fn scan(&self, progress: &Progress) -> Result<Scan> {
        self.check()?;
        scan::scan(&self.path, progress).with_context(|| format!("target {}", self.name))
    }

    fn probe_readable(&self, location: &str) -> Result<()> {
        self.check()?;
        let folder = self.folder(location)?;
        rustix::fs::access(&folder, rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK).or_else(|e| {
            match e {
                // That it is gone is for the reader to find out: it is damage.
                rustix::io::Errno::NOENT => Ok(()),
                e => Err(io::Error::from(e))
                    .with_context(|| format!("target {}: opening {}", self.name, folder.display())),
            }
        })
    }

    fn stage(&self, run: &RunId, _locations: &[String]) -> Result<Box<dyn Stage>> {
        let device = self.check()?;
        let folder = self.partial(run);
        hit_at(self.name.as_str(), "stage")
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&folder))
            .with_context(|| {
                format!("target {}: making the staging folder {}", self.name, folder.display())
            })?;
        Ok(Box::new(DirectoryStage::new(self.clone(), run.clone(), folder, device)))
    }

    fn open(&self, location: &str, file: &str, cache: Cache) -> Result<Box<dyn StoredFile>> {
        if !is_safe_location(file) || file.contains('/') {
            bail!("{file:?} is no name of a file in a backup");
        }
        let path = self.folder(location)?.join(file);
        let opened = hit_at(self.name.as_str(), "open")
            .and_then(|()| {
                fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(&path)
            })
            .with_context(|| format!("target {}: opening {}", self.name, path.display()))?;
        let metadata = opened.metadata().with_context(|| format!("looking at {}", path.display()))?;
        if !metadata.is_file() {
            bail!("target {}: {} is no file", self.name, path.display());
        }
        // Clean pages are dropped, so that the read goes to the storage. A file system that keeps everything
        // in memory (tmpfs) has nothing else to read from; the answer does not matter.
        let advice =
            if cache == Cache::Cold { rustix::fs::Advice::DontNeed } else { rustix::fs::Advice::Sequential };
        let _ = rustix::fs::fadvise(&opened, 0, None, advice);
        Ok(Box::new(DirectoryFile::new(opened, cache)))
    }

    fn holds(&self, location: &str, run: &RunId) -> Result<bool> {
        self.check()?;
        let folder = self.folder(location)?;
        match fs::read(folder.join(manifest::FILE)) {
            Ok(bytes) => Ok(Manifest::parse(&bytes).is_ok_and(|m| m.run_id == *run)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).with_context(|| {
                format!("target {}: reading the manifest in {}", self.name, folder.display())
            }),
        }
    }

    fn remove(&self, location: &str, run: &RunId) -> Result<Removal> {
        self.check()?;
        let (folder, expired) = (self.folder(location)?, self.expired(run));
        // A name is free again once its backup was taken out; a later run may have it by now.
        if !expired.exists() && folder.exists() && !self.is_of_another(&folder, run) {
            hit_at(self.name.as_str(), "remove-rename")
                .and_then(|()| fsutil::rename_noreplace(&folder, &expired))
                .with_context(|| {
                    format!("target {}: taking {} out of the backups", self.name, folder.display())
                })?;
            hit_at(self.name.as_str(), "remove-renamed")?;
            fsutil::fsync_dir(folder.parent().unwrap_or(&self.path))?;
            fsutil::fsync_dir(&self.path)?;
        }
        match hit_at(self.name.as_str(), "remove").and_then(|()| fs::remove_dir_all(&expired)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("target {}: removing {}", self.name, expired.display()));
            }
        }
        self.remove_empty_parents(&folder);
        Ok(Removal::Removed)
    }

    fn pin(&self, location: &str) -> Result<Option<Pin>> {
        self.check()?;
        scan::read_pin(&self.folder(location)?).with_context(|| format!("target {}", self.name))
    }

    fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()> {
        if !self.holds(location, run)? {
            bail!("target {}: {location} holds no backup of run {run}", self.name);
        }
        let folder = self.folder(location)?;
        let path = folder.join(PIN_FILE);
        let done = match pin {
            Some(pin) => fsutil::write_atomic(&path, &pin.to_bytes(), 0o600),
            None => match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e.into()),
                Ok(()) => fsutil::fsync_dir(&folder),
            },
        };
        let doing = if pin.is_some() { "writing" } else { "removing" };
        done.with_context(|| format!("target {}: {doing} {}", self.name, path.display()))
    }

    fn unfinished(&self) -> Result<Vec<RunId>> {
        self.check()?;
        let describe = || format!("target {}: listing {}", self.name, self.path.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(describe)? {
            let name = entry.with_context(describe)?.file_name();
            found.extend(name.to_str().and_then(|n| n.strip_prefix(".partial-")?.parse().ok()));
        }
        Ok(found)
    }

    fn clean(&self, run: &RunId) -> Result<bool> {
        self.check()?;
        let mut found = false;
        for folder in [self.partial(run), self.expired(run)] {
            match fs::remove_dir_all(&folder) {
                Ok(()) => found = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(e)
                        .with_context(|| format!("target {}: removing {}", self.name, folder.display()));
                }
            }
        }
        Ok(found)
    }
}

impl DirectoryTarget {
    /// True when the manifest in `folder` names another run. One that cannot be read may be a corrupt backup's.
    fn is_of_another(&self, folder: &Path, run: &RunId) -> bool {
        let bytes = fs::read(folder.join(manifest::FILE)).unwrap_or_default();
        Manifest::parse(&bytes).is_ok_and(|found| found.run_id != *run)
    }

    /// Folders of days that hold no backup any more. One that is not empty stays, which is all the check
    /// there is to make.
    fn remove_empty_parents(&self, folder: &Path) {
        for parent in folder.ancestors().skip(1).take_while(|p| *p != self.path && p.starts_with(&self.path))
        {
            if fs::remove_dir(parent).is_err() {
                return;
            }
        }
    }
}
