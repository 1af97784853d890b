//! A backup while it is written to a folder, and its files.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::DirectoryTarget;
use crate::archive::ReadAt;
use crate::failpoint::hit_at;
use crate::fsutil;
use crate::model::{RunId, TargetName};
use crate::target::{Cache, Published, Stage, StagedFile, StoredFile};

/// The disk writes while the processors compress: without this nearly everything is still in memory when
/// fsync comes, and the run waits for the disk with idle processors.
const WRITEBACK: u64 = 8 << 20;
/// How often folders are made anew that somebody removes as empty before the backup stands in them.
const ATTEMPTS: u32 = 4;

pub(super) struct DirectoryStage {
    target: DirectoryTarget,
    run: RunId,
    /// Where it stands: the staging folder, the published one afterwards.
    folder: PathBuf,
    device: u64,
    scratch: bool,
}

impl DirectoryStage {
    /// The staging `folder` is there and empty, on the file system `device`.
    pub(super) fn new(target: DirectoryTarget, run: RunId, folder: PathBuf, device: u64) -> Self {
        Self { target, run, folder, device, scratch: false }
    }

    /// Makes the folders above `to` and renames the staging folder to it. Another run's retention removes folders
    /// of days that are empty, as these are between the one and the other.
    fn rename_into_place(&self, location: &str, to: &Path) -> Result<Published> {
        let target = &self.target;
        let parent = Path::new(location).parent().unwrap_or(Path::new(""));
        for attempt in 1.. {
            fsutil::create_dirs_below(&target.path, parent)?;
            let renamed = hit_at(target.name.as_str(), "rename")
                .and_then(|()| fsutil::rename_noreplace(&self.folder, to));
            match renamed {
                Ok(()) => return Ok(Published::Done),
                // Some file systems say that a folder is not empty instead.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    return Ok(Published::Taken);
                }
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS && self.folder.exists() => {}
                Err(e) => {
                    return Err(e)
                        .with_context(|| format!("target {}: publishing {}", target.name, to.display()));
                }
            }
        }
        unreachable!("the loop ends by itself")
    }

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
        if self.rename_into_place(location, &folder)? == Published::Taken {
            return Ok(Published::Taken);
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

pub(super) struct DirectoryFile {
    file: File,
    cold: bool,
}

impl DirectoryFile {
    pub(super) fn new(file: File, cache: Cache) -> Self {
        Self { file, cold: cache == Cache::Cold }
    }
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
