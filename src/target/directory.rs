//! A folder as a target: on a local disk, or on a mounted share.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::scan::{self, Scan};
use super::sentinel::{self, Sentinel};
use super::{Cache, Published, Removal, Space, Stage, StagedFile, StoredFile, Target, is_safe_location};
use crate::archive::ReadAt;
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
            None => sentinel.write(&self.path).with_context(describe).map(|()| sentinel.clone()),
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
        Ok(Box::new(DirectoryStage {
            target: self.clone(),
            run: run.clone(),
            folder,
            device,
            scratch: false,
        }))
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
        Ok(Box::new(DirectoryFile { file: opened, cold: cache == Cache::Cold }))
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

struct DirectoryStage {
    target: DirectoryTarget,
    run: RunId,
    /// Where it stands: the staging folder, the published one afterwards.
    folder: PathBuf,
    device: u64,
    scratch: bool,
}

impl DirectoryStage {
    fn scratch_path(&self) -> PathBuf {
        self.folder.join(".scratch")
    }
}

impl Stage for DirectoryStage {
    fn create(&mut self, file: &str) -> Result<Box<dyn StagedFile>> {
        let path = self.folder.join(file);
        let opened = hit_at(self.target.name.as_str(), "create")
            .and_then(|()| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path))
            .with_context(|| format!("target {}: creating {}", self.target.name, path.display()))?;
        let target = self.target.name.clone();
        Ok(Box::new(DirectoryStagedFile { file: opened, path, target, written: 0, begun: 0 }))
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        let path = self.scratch_path();
        if !self.scratch {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .with_context(|| format!("target {}: making {}", self.target.name, path.display()))?;
            self.scratch = true;
        }
        Ok(path)
    }

    fn place(&self) -> String {
        self.folder.strip_prefix(&self.target.path).unwrap_or(&self.folder).to_string_lossy().into_owned()
    }

    fn publish(&mut self, location: &str) -> Result<Published> {
        let target = &self.target;
        let place = |name: &str| hit_at(target.name.as_str(), name);
        let folder = target.folder(location)?;
        if self.scratch {
            let scratch = self.scratch_path();
            fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
            self.scratch = false;
        }
        // A share that was unmounted during the run leaves the bare folder below it.
        if target.check()? != self.device {
            bail!(
                "target {}: another file system stands at {} than when the run began",
                target.name,
                target.path.display()
            );
        }
        place("fsync-folder")?;
        fsutil::fsync_dir(&self.folder)?;
        let parent = Path::new(location).parent().unwrap_or(Path::new(""));
        place("make-parents")?;
        fsutil::create_dirs_below(&target.path, parent)?;
        match place("rename").and_then(|()| fsutil::rename_noreplace(&self.folder, &folder)) {
            Ok(()) => {}
            // Some file systems say that a folder is not empty instead.
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {
                return Ok(Published::Taken);
            }
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("target {}: publishing {}", target.name, folder.display()));
            }
        }
        // From here on `abandon` has to take it out of sight first.
        self.folder = folder;
        place("fsync-parents")?;
        fsutil::fsync_dir(&target.path.join(parent))?;
        fsutil::fsync_dir(&target.path)?;
        place("published")?;
        Ok(Published::Done)
    }

    fn abandon(&mut self) -> Result<()> {
        let partial = self.target.partial(&self.run);
        if self.folder != partial && fs::rename(&self.folder, &partial).is_ok() {
            self.folder = partial;
        }
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e)
                .with_context(|| format!("target {}: removing {}", self.target.name, self.folder.display())),
            _ => Ok(()),
        }
    }
}

struct DirectoryStagedFile {
    file: File,
    path: PathBuf,
    target: TargetName,
    written: u64,
    /// Up to where the kernel was asked to begin writing.
    begun: u64,
}

/// The disk writes while the processors compress: without this nearly everything is still in memory when
/// fsync comes, and the run waits for the disk with idle processors.
const WRITEBACK: u64 = 8 << 20;

impl Write for DirectoryStagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = hit_at(self.target.as_str(), "write")
            .and_then(|()| self.file.write(bytes))
            .map_err(|e| io::Error::new(e.kind(), format!("writing {}: {e}", self.path.display())))?;
        self.written += written as u64;
        if self.written - self.begun >= WRITEBACK {
            crate::sys::begin_writeback(&self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagedFile for DirectoryStagedFile {
    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        let describe = |what: &str| format!("{what} {}", self.path.display());
        let found = self.file.metadata().with_context(|| describe("looking at"))?.len();
        if found != length {
            bail!("{}: {found} bytes are there, {length} were written", describe("the file is incomplete:"));
        }
        // A failed fsync is final: the kernel may have dropped the pages, and a second call would succeed.
        hit_at(self.target.as_str(), "fsync")
            .and_then(|()| self.file.sync_all())
            .with_context(|| describe("making durable (fsync)"))?;
        let path = self.path.clone();
        hit_at(self.target.as_str(), "close")
            .and_then(|()| fsutil::close(self.file))
            .with_context(|| format!("closing {}", path.display()))
    }
}

struct DirectoryFile {
    file: File,
    cold: bool,
}

impl Read for DirectoryFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.file.read(out)
    }
}

impl Drop for DirectoryFile {
    fn drop(&mut self) {
        // A read-back must not push the web server's files out of memory.
        if self.cold {
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

impl StoredFile for DirectoryFile {
    fn read_at(&self) -> &dyn ReadAt {
        &self.file
    }
}
