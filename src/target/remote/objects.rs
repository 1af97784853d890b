//! A target in a store that cannot rename: each file goes where it will stay, the manifest last.
//!
//! A backup is what has a manifest. While files are written, a mark `.partial-<run>` stands at the root and says
//! where; a second one stands beside the files, so that two runs that chose the same folder in the same moment
//! see one another, and both go on to the next name. A removal takes the manifest first, and has a mark
//! `.expired-<run>` until the rest is gone.
//!
//! Where nothing may be listed, read or removed (`write_only`), there are no marks, and the folder's name has the
//! run's id in it, which nobody else chooses.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::patient::Patient;
use super::shared::{Base, LocalScratch, RemoteStagedFile, kept, unfinished_in};
use super::{AlreadyThere, Mode, Settings};
use crate::event::Progress;
use crate::failpoint::hit_at;
use crate::manifest::{self, Pin};
use crate::model::{RunId, TargetName};
use crate::state::TargetIdentity;
use crate::target::{
    Cache, Published, Removal, Scan, Sentinel, Space, Stage, StagedFile, StoredFile, Target,
};

/// A target in a store without folders.
pub(super) struct ObjectTarget {
    base: Arc<Base>,
}

impl ObjectTarget {
    pub(super) fn new(store: Patient, settings: Settings) -> Self {
        Self { base: Arc::new(Base { store, settings }) }
    }
}

fn partial(run: &RunId) -> String {
    format!(".partial-{run}")
}

fn expired(run: &RunId) -> String {
    format!(".expired-{run}")
}

impl Base {
    /// Where a mark at the root says that its backup is.
    fn marked(&self, mark: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read_small(mark)? else { return Ok(None) };
        let location = String::from_utf8(bytes).unwrap_or_default();
        self.key(&location, "x").with_context(|| format!("in {}", self.store.address(mark)))?;
        Ok(Some(location))
    }

    /// Names of the objects in a backup's folder.
    fn files(&self, location: &str) -> Result<Vec<String>> {
        let entries = self.store.list(location)?;
        Ok(entries.into_iter().filter(|e| e.length.is_some()).map(|e| e.name).collect())
    }

    /// Removes the files of a run whose manifest is gone or never came. Those of another run, which has the name
    /// by now, are left alone.
    fn remove_rest(&self, location: &str, run: &RunId) -> Result<()> {
        let own = partial(run);
        let files = self.files(location)?;
        let foreign = |name: &String| name.starts_with(".partial-") && *name != own;
        if files.iter().any(foreign) || self.is_of_another(location, run)? {
            return self.store.put_away(&format!("{location}/{own}"));
        }
        self.store.discard(location)?;
        // The mark last, so that what is left by a death midway is known for this run's.
        for file in files.iter().filter(|file| **file != own) {
            self.store.put_away(&format!("{location}/{file}"))?;
        }
        self.store.put_away(&format!("{location}/{own}"))
    }

    /// Takes a folder name for a run, if nobody else has it or is about to.
    fn claim(&self, location: &str, run: &RunId) -> Result<bool> {
        if !self.store.list(location)?.is_empty() {
            return Ok(false);
        }
        let mark = partial(run);
        self.write_small(&mark, location.as_bytes(), Mode::Replace)?;
        let beside = format!("{location}/{mark}");
        self.write_small(&beside, location.as_bytes(), Mode::Replace)?;
        if self.store.list(location)?.iter().any(|entry| entry.name != mark) {
            self.store.put_away(&beside)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn withdraw(&self, location: &str, run: &RunId) -> Result<Removal> {
        let mark = expired(run);
        let begun = self.marked(&mark)?.is_some();
        if self.is_of_another(location, run)? {
            // Ours went before that one came.
            if begun {
                self.store.put_away(&mark)?;
            }
            return Ok(Removal::Removed);
        }
        if !begun {
            if self.files(location)?.is_empty() {
                return Ok(Removal::Removed);
            }
            self.write_small(&mark, location.as_bytes(), Mode::Replace)?;
        }
        if let retained @ Removal::Retained { .. } =
            kept(self.store.delete(&format!("{location}/{}", manifest::FILE)))?
        {
            // The mark may be kept as well. Then it says that a removal is to go on, which it is.
            let _ = self.store.put_away(&mark);
            return Ok(retained);
        }
        self.remove_rest(location, run)?;
        self.store.put_away(&mark)?;
        Ok(Removal::Removed)
    }
}

impl Target for ObjectTarget {
    fn name(&self) -> &TargetName {
        &self.base.settings.name
    }

    fn probe(&self) -> Result<Option<Space>> {
        self.base.check()?;
        self.base.named(self.base.store.probe())
    }

    fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity> {
        if self.base.settings.write_only {
            return Ok(TargetIdentity {
                id: None,
                file_system: self.base.store.kind().to_owned(),
                recorded: now,
            });
        }
        self.base.named(self.base.identify(now))
    }

    fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
        self.base.readable()?;
        self.base.named(self.base.initialise(sentinel))
    }

    fn scan(&self, progress: &Progress) -> Result<Scan> {
        self.base.readable()?;
        self.base.check()?;
        self.base.named(self.base.scan(progress))
    }

    fn probe_readable(&self, _location: &str) -> Result<()> {
        self.base.readable()?;
        self.base.check()?;
        self.base.named(self.base.store.probe().map(drop))
    }

    fn stage(&self, run: &RunId, locations: &[String]) -> Result<Box<dyn Stage>> {
        self.base.check()?;
        self.base.named(hit_at(self.name().as_str(), "stage").map_err(Into::into))?;
        let mut chosen = None;
        for location in locations {
            self.base.key(location, "x")?;
            let free = match self.base.settings.write_only {
                // Only a name with the run's id is nobody else's.
                true => location.ends_with(run.as_str()),
                false => self.base.named(self.base.claim(location, run))?,
            };
            if free {
                // Where a file is visible while it is written, an attempt that broke leaves pieces that cannot be
                // removed: the next one needs a folder of its own.
                let own = self.base.settings.write_only && self.base.store.has_folders();
                chosen = Some(match own {
                    true => format!("{location}-{:06x}", rand::random_range(0..1 << 24)),
                    false => location.clone(),
                });
                break;
            }
        }
        let Some(location) = chosen else {
            bail!("target {}: every name for the backup is taken: {}", self.name(), locations.join(", "));
        };
        Ok(Box::new(ObjectStage {
            scratch: LocalScratch::new(self.base.settings.scratch.clone(), run),
            base: Arc::clone(&self.base),
            run: run.clone(),
            location,
            written: Vec::new(),
            manifest: Arc::default(),
        }))
    }

    fn open(&self, location: &str, file: &str, _cache: Cache) -> Result<Box<dyn StoredFile>> {
        self.base.readable()?;
        self.base.open(location, file)
    }

    fn holds(&self, location: &str, run: &RunId) -> Result<bool> {
        self.base.readable()?;
        self.base.check()?;
        let found = self.base.named(self.base.manifest(location))?;
        Ok(found.is_some_and(|manifest| manifest.run_id == *run))
    }

    fn remove(&self, location: &str, run: &RunId) -> Result<Removal> {
        self.base.readable()?;
        self.base.check()?;
        self.base.key(location, "x")?;
        self.base.named(self.base.withdraw(location, run))
    }

    fn pin(&self, location: &str) -> Result<Option<Pin>> {
        self.base.check()?;
        self.base.named(self.base.pin(location))
    }

    fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()> {
        self.base.check()?;
        self.base.named(self.base.set_pin(location, run, pin))
    }

    fn unfinished(&self) -> Result<Vec<RunId>> {
        if self.base.settings.write_only {
            return Ok(Vec::new());
        }
        self.base.check()?;
        self.base.named(unfinished_in(&self.base))
    }

    fn clean(&self, run: &RunId) -> Result<bool> {
        if self.base.settings.write_only {
            return Ok(false);
        }
        self.base.check()?;
        let clean = || {
            let mut found = false;
            for mark in [partial(run), expired(run)] {
                let Some(location) = self.base.marked(&mark)? else { continue };
                found = true;
                let published =
                    self.base.manifest(&location).is_ok_and(|m| m.is_some_and(|m| m.run_id == *run));
                match published && mark == partial(run) {
                    true => self.base.store.put_away(&format!("{location}/{mark}"))?,
                    false => self.base.withdraw(&location, run).map(drop)?,
                }
                self.base.store.put_away(&mark)?;
            }
            Ok(found)
        };
        self.base.named(clean())
    }
}

struct ObjectStage {
    base: Arc<Base>,
    run: RunId,
    location: String,
    /// Files whose writing began.
    written: Vec<String>,
    /// The manifest, which is held back until everything else is there.
    manifest: Arc<Mutex<Option<Vec<u8>>>>,
    scratch: LocalScratch,
}

impl Stage for ObjectStage {
    fn create(&mut self, file: &str) -> Result<Box<dyn StagedFile>> {
        if file == manifest::FILE {
            return Ok(Box::new(HeldBack { bytes: Vec::new(), slot: Arc::clone(&self.manifest) }));
        }
        let key = self.base.key(&self.location, file)?;
        let upload = self.base.named(self.base.store.upload(&key, Mode::New))?;
        self.written.push(file.to_owned());
        let (target, address) = (self.base.settings.name.clone(), self.base.store.address(&key));
        let file = RemoteStagedFile { upload, target, address };
        Ok(match self.base.settings.write_only {
            true => Box::new(MaybeThere(file)),
            false => Box::new(file),
        })
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        self.scratch.folder()
    }

    fn place(&self) -> String {
        self.location.clone()
    }

    fn settled(&self) -> Option<&str> {
        Some(&self.location)
    }

    fn publish(&mut self, location: &str) -> Result<Published> {
        if location != self.location {
            return Ok(Published::Taken);
        }
        self.scratch.remove()?;
        let held = self.manifest.lock().ok().and_then(|mut held| held.take());
        let bytes = held.context("a backup was to be published before its manifest was written")?;
        let name = &self.base.settings.name;
        let key = format!("{location}/{}", manifest::FILE);
        let put = hit_at(name.as_str(), "rename")
            .map_err(anyhow::Error::from)
            .and_then(|()| self.base.write_small(&key, &bytes, Mode::New));
        match put {
            Ok(()) => {}
            // The name has the run's id in it, so that it is this very manifest, and the answer was lost.
            Err(e) if is_there(&e) && self.base.settings.write_only => {}
            Err(e) if is_there(&e) => return Ok(Published::Taken),
            Err(e) => return self.base.named(Err(e).with_context(|| format!("publishing {location}"))),
        }
        self.written.push(manifest::FILE.to_owned());
        if !self.base.settings.write_only {
            let mark = partial(&self.run);
            // A mark that stays says nothing wrong: whoever cleans up finds the manifest, and removes it.
            let _ = self.base.store.put_away(&format!("{location}/{mark}"));
            let _ = self.base.store.put_away(&mark);
        }
        Ok(Published::Done)
    }

    fn abandon(&mut self) -> Result<()> {
        let _ = self.scratch.remove(); // whoever reaps dead runs tries again
        if self.base.settings.write_only {
            // Without a manifest it is nobody's backup; the store's own rules remove it.
            return Ok(());
        }
        let mark = partial(&self.run);
        let remove = || {
            // The manifest was written last, and goes first.
            for file in self.written.iter().rev() {
                self.base.store.put_away(&format!("{}/{file}", self.location))?;
            }
            self.base.store.discard(&self.location)?;
            self.base.store.put_away(&format!("{}/{mark}", self.location))?;
            self.base.store.put_away(&mark)
        };
        self.base.named(remove())
    }
}

fn is_there(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<AlreadyThere>())
}

/// A file where nothing can be removed: an earlier attempt of the same copy may have written it. It is the same
/// then, since its folder has the run's id, and files become visible as a whole.
struct MaybeThere(RemoteStagedFile);

impl Write for MaybeThere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl StagedFile for MaybeThere {
    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        match Box::new(self.0).finish(length) {
            Err(e) if is_there(&e) => Ok(()),
            done => done,
        }
    }
}

/// The manifest on its way: kept until the backup is published.
struct HeldBack {
    bytes: Vec<u8>,
    slot: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Write for HeldBack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StagedFile for HeldBack {
    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        if self.bytes.len() as u64 != length {
            bail!("the manifest has {} bytes, {length} were written", self.bytes.len());
        }
        let Ok(mut slot) = self.slot.lock() else { bail!("a thread panicked") };
        *slot = Some(self.bytes);
        Ok(())
    }
}
