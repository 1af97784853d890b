//! What targets of both layouts do alike: reading, scanning, the sentinel.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::patient::{Patient, PatientObject};
use super::{Kept, Mode, Settings, Upload};
use crate::archive::ReadAt;
use crate::event::{Interrupted, Progress};
use crate::failpoint::hit_at;
use crate::manifest::{self, Manifest, PIN_FILE, Pin};
use crate::model::{RunId, TargetName};
use crate::state::TargetIdentity;
use crate::target::scan::{DEEPEST, Found, LONGEST, Scan, Unread};
use crate::target::sentinel::{self, SENTINEL_FILE, Sentinel};
use crate::target::{Permanent, Removal, StagedFile, StoredFile, is_safe_location};

/// How many manifests are read at the same time: each is a round trip.
const READERS: usize = 8;
/// How much is read ahead where reads follow one another.
const AHEAD: usize = 8 << 20;

/// A store with what the target was told.
pub(super) struct Base {
    pub(super) store: Patient,
    pub(super) settings: Settings,
}

impl Base {
    /// Adds the name of the target to an error.
    pub(super) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("target {}", self.settings.name))
    }

    /// Refuses what needs more than writing where nothing else is allowed.
    pub(super) fn readable(&self) -> Result<()> {
        if self.settings.write_only {
            bail!(
                "target {} is write-only from this host (`write_only`): nothing there is read or removed; do that \
                 from a host whose credentials may",
                self.settings.name
            );
        }
        Ok(())
    }

    /// The key of a backup's file; refuses names that would leave the backup.
    pub(super) fn key(&self, location: &str, file: &str) -> Result<String> {
        if !is_safe_location(location) {
            bail!("target {}: {location:?} is no folder of a backup", self.settings.name);
        }
        if !is_safe_location(file) || file.contains('/') {
            bail!("{file:?} is no name of a file in a backup");
        }
        Ok(format!("{location}/{file}"))
    }

    /// Compares what stands there with what the target was.
    pub(super) fn check(&self) -> Result<()> {
        let Some(expected) = &self.settings.expected else { return Ok(()) };
        if self.settings.write_only {
            return Ok(());
        }
        let name = &self.settings.name;
        if expected.file_system != self.store.kind() {
            bail!(
                "target {name} was {} on {}, and is {} now; accept that with: `agent target init {name} --force`",
                expected.file_system,
                expected.recorded.format("%Y-%m-%d"),
                self.store.kind()
            );
        }
        if expected.id.is_none() {
            return Ok(());
        }
        let found = self.read_sentinel()?;
        sentinel::compare_id(
            name,
            &format!("target stands at {}", self.store.address("")),
            expected,
            found.as_ref(),
        )
    }

    pub(super) fn read_sentinel(&self) -> Result<Option<Sentinel>> {
        let place = self.store.address(SENTINEL_FILE);
        match self.read_small(SENTINEL_FILE)? {
            None => Ok(None),
            Some(bytes) => Sentinel::parse(&bytes, &place).map(Some),
        }
    }

    pub(super) fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity> {
        let id = self.read_sentinel()?.map(|sentinel| sentinel.id);
        Ok(TargetIdentity { id, file_system: self.store.kind().to_owned(), recorded: now })
    }

    pub(super) fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
        if let Some(found) = self.read_sentinel()? {
            return Ok(found);
        }
        match self.write_small(SENTINEL_FILE, &sentinel.to_bytes()?, Mode::New) {
            Ok(()) => Ok(sentinel.clone()),
            // Somebody else was faster: theirs it is.
            Err(error) => match self.read_sentinel()? {
                Some(found) => Ok(found),
                None => Err(error),
            },
        }
    }

    /// Reads an object that is not large.
    pub(super) fn read_small(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.store.open(key)? else { return Ok(None) };
        let describe = || format!("reading {}", self.store.address(key));
        if object.length().with_context(describe)? > LONGEST {
            bail!("{} is longer than anything that should stand there", self.store.address(key));
        }
        let mut bytes = Vec::new();
        object.reader().take(LONGEST).read_to_end(&mut bytes).with_context(describe)?;
        Ok(Some(bytes))
    }

    /// Writes an object that is not large.
    pub(super) fn write_small(&self, key: &str, bytes: &[u8], mode: Mode) -> Result<()> {
        let mut upload = self.store.upload(key, mode)?;
        upload.write_all(bytes).with_context(|| format!("writing {}", self.store.address(key)))?;
        upload.finish(bytes.len() as u64)
    }

    /// The manifest in a folder; none where there is none.
    pub(super) fn manifest(&self, location: &str) -> Result<Option<Manifest>> {
        let key = format!("{location}/{}", manifest::FILE);
        match self.read_small(&key)? {
            None => Ok(None),
            Some(bytes) => Manifest::parse(&bytes).map(Some).with_context(|| self.store.address(&key)),
        }
    }

    /// True when the manifest there names another run. One that cannot be parsed may be a corrupt backup's.
    pub(super) fn is_of_another(&self, location: &str, run: &RunId) -> Result<bool> {
        let bytes = self.read_small(&format!("{location}/{}", manifest::FILE))?.unwrap_or_default();
        Ok(Manifest::parse(&bytes).is_ok_and(|found| found.run_id != *run))
    }

    /// The pin in a folder. Where reading is not allowed nobody can tell, and whoever wrote there knows.
    pub(super) fn pin(&self, location: &str) -> Result<Option<Pin>> {
        let key = self.key(location, PIN_FILE)?;
        if self.settings.write_only {
            return Ok(None);
        }
        Ok(self.read_small(&key)?.map(|bytes| Pin::parse(&bytes)))
    }

    /// Writes the pin of a run's backup, or takes it away.
    pub(super) fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()> {
        let key = self.key(location, PIN_FILE)?;
        if self.settings.write_only && pin.is_none() {
            let text = "a pin is not taken away where nothing may be removed: do it with other credentials";
            return Err(Permanent(text.to_owned()).into());
        }
        if !self.settings.write_only && self.manifest(location)?.is_none_or(|found| found.run_id != *run) {
            bail!("{} holds no backup of run {run}", self.store.address(location));
        }
        match pin {
            Some(pin) => self.write_small(&key, &pin.to_bytes(), Mode::Replace),
            None => self.store.delete(&key),
        }
    }

    /// Opens a file of a finished backup.
    pub(super) fn open(&self, location: &str, file: &str) -> Result<Box<dyn StoredFile>> {
        let key = self.key(location, file)?;
        match self.store.open(&key)? {
            Some(object) => Ok(Box::new(RemoteFile::new(object))),
            None => bail!("target {}: there is no {}", self.settings.name, self.store.address(&key)),
        }
    }

    /// Reads every manifest below the root.
    pub(super) fn scan(&self, progress: &Progress) -> Result<Scan> {
        let mut unread = Vec::new();
        let mut pinned = HashSet::new();
        let locations = match self.store.find(manifest::FILE)? {
            Some(keys) => {
                let parents = |keys: &[String]| -> Vec<String> {
                    keys.iter().filter_map(|key| Some(key.rsplit_once('/')?.0.to_owned())).collect()
                };
                pinned.extend(parents(&self.store.find(PIN_FILE)?.unwrap_or_default()));
                let parents = parents(&keys).into_iter();
                outermost(parents.filter(|location| is_safe_location(location)).collect())
            }
            None => self.walk(progress, &mut unread, &mut pinned)?,
        };
        let next = Mutex::new(locations.into_iter());
        let scan = Mutex::new(Scan { found: Vec::new(), unread });
        let read = || {
            while let Some(location) = next.lock().ok().and_then(|mut next| next.next()) {
                if progress.is_cancelled() {
                    return;
                }
                progress.add_stored(1);
                let manifest = self.manifest(&location).and_then(|manifest| {
                    let pin = pinned.contains(&location).then(|| self.pin(&location)).transpose()?;
                    Ok(manifest.map(|manifest| (manifest, pin.flatten())))
                });
                let Ok(mut scan) = scan.lock() else { return };
                match manifest {
                    Ok(Some((manifest, pin))) => {
                        scan.found.push(Found { pin, ..Found::new(location, &manifest) });
                    }
                    // It went while this looked.
                    Ok(None) => {}
                    Err(e) => scan.unread.push(Unread { location, error: format!("{e:#}") }),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(read);
            }
        });
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let mut scan = scan.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        scan.sort();
        Ok(scan)
    }

    /// The folders that hold a manifest, found by listing folder after folder; those of them that hold a pin are
    /// added to `pinned`.
    fn walk(
        &self,
        progress: &Progress,
        unread: &mut Vec<Unread>,
        pinned: &mut HashSet<String>,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((location, depth)) = folders.pop() {
            if progress.is_cancelled() {
                return Err(Interrupted.into());
            }
            progress.add_stored(1);
            let entries = match self.store.list(&location) {
                Ok(entries) => entries,
                Err(e) if location.is_empty() => return Err(e),
                Err(e) => {
                    unread.push(Unread { location, error: format!("{e:#}") });
                    continue;
                }
            };
            let is_manifest = |e: &super::Entry| e.name == manifest::FILE && e.length.is_some();
            if !location.is_empty() && entries.iter().any(is_manifest) {
                if entries.iter().any(|e| e.name == PIN_FILE) {
                    pinned.insert(location.clone());
                }
                found.push(location);
                continue;
            }
            for entry in entries.into_iter().filter(|e| e.length.is_none() && !e.name.starts_with('.')) {
                let inner = match location.as_str() {
                    "" => entry.name,
                    outer => format!("{outer}/{}", entry.name),
                };
                match depth < DEEPEST {
                    true => folders.push((inner, depth + 1)),
                    false => unread.push(Unread::too_deep(inner)),
                }
            }
        }
        Ok(found)
    }
}

/// What became of a removal, from the result of its first step, which takes the backup out as a whole.
pub(super) fn kept(first: Result<()>) -> Result<Removal> {
    match first {
        Ok(()) => Ok(Removal::Removed),
        Err(e) => match e.chain().find_map(|cause| cause.downcast_ref::<Kept>()) {
            Some(kept) => Ok(Removal::Retained { until: kept.until }),
            None => Err(e),
        },
    }
}

/// Without the folders that lie inside others of them: what lies inside a backup is not looked at.
fn outermost(locations: Vec<String>) -> Vec<String> {
    let all: HashSet<&str> = locations.iter().map(String::as_str).collect();
    let is_outer = |l: &&String| !l.match_indices('/').any(|(at, _)| all.contains(&l[..at]));
    locations.iter().filter(is_outer).cloned().collect()
}

/// A folder of this machine for what sources need while a backup goes to a store.
pub(super) struct LocalScratch {
    above: Option<PathBuf>,
    run: RunId,
    made: Option<PathBuf>,
}

impl LocalScratch {
    pub(super) fn new(above: Option<PathBuf>, run: &RunId) -> Self {
        Self { above, run: run.clone(), made: None }
    }

    /// Makes it, once.
    pub(super) fn folder(&mut self) -> Result<PathBuf> {
        if let Some(made) = &self.made {
            return Ok(made.clone());
        }
        let above = self.above.as_ref().context("this target has no scratch folder")?;
        let path = above.join(self.run.as_str());
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&path)
            .with_context(|| format!("making the scratch folder {}", path.display()))?;
        self.made = Some(path.clone());
        Ok(path)
    }

    pub(super) fn remove(&mut self) -> Result<()> {
        let Some(path) = self.made.take() else { return Ok(()) };
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing the scratch folder {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for LocalScratch {
    fn drop(&mut self) {
        let _ = self.remove(); // nobody is left to tell
    }
}

/// Runs whose marks or folders stand at the root.
pub(super) fn unfinished_in(base: &Base) -> Result<Vec<RunId>> {
    let entries = base.store.list("")?;
    Ok(entries.iter().filter_map(|e| e.name.strip_prefix(".partial-")?.parse().ok()).collect())
}

/// A file of a backup on its way to a store.
pub(super) struct RemoteStagedFile {
    pub(super) upload: Box<dyn Upload>,
    pub(super) target: TargetName,
    pub(super) address: String,
}

impl Write for RemoteStagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        hit_at(self.target.as_str(), "write").and_then(|()| self.upload.write(bytes)).map_err(|e| {
            match e.get_ref() {
                // What it carries says more than its text.
                Some(inner) if inner.is::<crate::target::Permanent>() => e,
                // Most stores name the address themselves.
                _ if e.to_string().contains(&self.address) => e,
                _ => io::Error::new(e.kind(), format!("writing {}: {e}", self.address)),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}

impl StagedFile for RemoteStagedFile {
    fn expect(&mut self, length: u64) {
        self.upload.expect(length);
    }

    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        let Self { upload, target, address } = *self;
        hit_at(target.as_str(), "finish")
            .map_err(anyhow::Error::from)
            .and_then(|()| upload.finish(length))
            .map_err(|e| match format!("{e:#}").contains(&address) {
                true => e.context(format!("target {target}")),
                false => e.context(format!("target {target}: writing {address}")),
            })
    }
}

/// A stored object as a file of a backup.
struct RemoteFile {
    stream: Box<dyn Read + Send>,
    ahead: ReadAhead,
}

impl RemoteFile {
    fn new(object: PatientObject) -> Self {
        let stream = Box::new(object.reader());
        Self { stream, ahead: ReadAhead { object, block: Mutex::default() } }
    }
}

impl Read for RemoteFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stream.read(out)
    }
}

impl StoredFile for RemoteFile {
    fn read_at(&self) -> &dyn ReadAt {
        &self.ahead
    }
}

/// Reads by position. Where one read follows another, more than was asked for is fetched: a round trip costs
/// as much as a megabyte.
struct ReadAhead {
    object: PatientObject,
    block: Mutex<Block>,
}

/// What was fetched last.
#[derive(Default)]
struct Block {
    offset: u64,
    bytes: Vec<u8>,
    /// Where the last read ended.
    end: u64,
}

impl ReadAt for ReadAhead {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut block = self.block.lock().map_err(|_| io::Error::other("a thread panicked"))?;
        let end = offset + length as u64;
        if let Some(start) = offset.checked_sub(block.offset)
            && let Some(found) = block.bytes.get(start as usize..).and_then(|rest| rest.get(..length))
        {
            let found = found.to_vec();
            block.end = end;
            return Ok(found);
        }
        let follows = offset != 0 && offset == block.end;
        block.end = end;
        if !follows || length >= AHEAD {
            drop(block);
            return self.object.read_exact_at(offset, length);
        }
        let rest = self.object.length()?.saturating_sub(offset);
        let bytes = self.object.read_exact_at(offset, length.max(rest.min(AHEAD as u64) as usize))?;
        let asked = bytes[..length].to_vec();
        (block.offset, block.bytes) = (offset, bytes);
        Ok(asked)
    }

    fn length(&self) -> io::Result<u64> {
        self.object.length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_inside_a_backup_is_not_taken_for_another() {
        let given = ["a/b", "a/b/c", "a/b-c/d", "a/b/c/d", "x", "a/bb"].map(str::to_owned).to_vec();
        assert_eq!(outermost(given), ["a/b", "a/b-c/d", "x", "a/bb"]);
    }
}
