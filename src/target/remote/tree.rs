//! A target in a store with folders: staged in `.partial-<run>`, published by one rename, removed through
//! `.expired-<run>`, as in a folder of this machine.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use super::patient::Patient;
use super::shared::{Base, LocalScratch, RemoteStagedFile, kept, unfinished_in};
use super::{Kept, Mode, Settings};
use crate::event::Progress;
use crate::failpoint::hit_at;
use crate::manifest::Pin;
use crate::model::{RunId, TargetName};
use crate::state::TargetIdentity;
use crate::target::{
    Cache, Published, Removal, Scan, Sentinel, Space, Stage, StagedFile, StoredFile, Target,
};

/// A target in a store with folders.
pub(super) struct TreeTarget {
    base: Base,
}

impl TreeTarget {
    pub(super) fn new(store: Patient, settings: Settings) -> Self {
        Self { base: Base { store, settings } }
    }

    fn store(&self) -> &Patient {
        &self.base.store
    }

    /// Folders of days that hold no backup any more. One that is not empty stays.
    fn remove_empty_parents(&self, location: &str) {
        let mut at = location;
        while let Some((parent, _)) = at.rsplit_once('/') {
            if !matches!(self.store().remove_empty(parent), Ok(true)) {
                return;
            }
            at = parent;
        }
    }

    fn take_out(&self, location: &str, run: &RunId) -> Result<Removal> {
        let expired = expired(run);
        // An earlier attempt may have taken it out and died; a later run may have the name by now.
        if self.store().list(&expired)?.is_empty() && !self.base.is_of_another(location, run)? {
            self.store().remove_all(&expired)?;
            match self.store().rename(location, &expired) {
                Ok(Published::Done) => {}
                Ok(Published::Taken) => bail!("{} is in the way", self.store().address(&expired)),
                Err(e) if e.chain().any(|cause| cause.is::<Kept>()) => return kept(Err(e)),
                // What is not there needs no taking out.
                Err(_) if self.store().list(location)?.is_empty() => {}
                Err(e) => {
                    let what = || format!("taking {} out of the backups", self.store().address(location));
                    return Err(e).with_context(what);
                }
            }
        }
        self.store().remove_all(&expired)?;
        self.remove_empty_parents(location);
        if let Err(e) = self.store().tidy() {
            tracing::debug!("what an earlier removal left stays for now: {e:#}");
        }
        Ok(Removal::Removed)
    }
}

fn partial(run: &RunId) -> String {
    format!(".partial-{run}")
}

fn expired(run: &RunId) -> String {
    format!(".expired-{run}")
}

impl Target for TreeTarget {
    fn name(&self) -> &TargetName {
        &self.base.settings.name
    }

    fn probe(&self) -> Result<Option<Space>> {
        self.base.check()?;
        self.base.named(self.store().probe())
    }

    fn identify(&self, now: DateTime<Utc>) -> Result<TargetIdentity> {
        self.base.named(self.base.identify(now))
    }

    fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
        self.base.named(self.base.initialise(sentinel))
    }

    fn scan(&self, progress: &Progress) -> Result<Scan> {
        self.base.check()?;
        self.base.named(self.base.scan(progress))
    }

    fn probe_readable(&self, _location: &str) -> Result<()> {
        self.base.check()?;
        self.base.named(self.store().probe().map(drop))
    }

    fn stage(&self, run: &RunId, _locations: &[String]) -> Result<Box<dyn Stage>> {
        self.base.check()?;
        let folder = partial(run);
        let made = hit_at(self.name().as_str(), "stage")
            .map_err(anyhow::Error::from)
            .and_then(|()| self.store().make_folder(&folder));
        self.base.named(made)?;
        Ok(Box::new(TreeStage {
            name: self.name().clone(),
            store: self.store().clone(),
            partial: folder.clone(),
            folder,
            scratch: LocalScratch::new(self.base.settings.scratch.clone(), run),
        }))
    }

    fn open(&self, location: &str, file: &str, _cache: Cache) -> Result<Box<dyn StoredFile>> {
        self.base.open(location, file)
    }

    fn holds(&self, location: &str, run: &RunId) -> Result<bool> {
        self.base.check()?;
        let found = self.base.named(self.base.manifest(location))?;
        Ok(found.is_some_and(|manifest| manifest.run_id == *run))
    }

    fn remove(&self, location: &str, run: &RunId) -> Result<Removal> {
        self.base.check()?;
        self.base.key(location, "x")?;
        self.base.named(self.take_out(location, run))
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
        self.base.check()?;
        self.base.named(unfinished_in(&self.base))
    }

    fn clean(&self, run: &RunId) -> Result<bool> {
        self.base.check()?;
        let mut found = false;
        for folder in [partial(run), expired(run)] {
            found |= self.base.named(self.store().remove_all(&folder))?;
        }
        self.base.named(self.store().tidy())?;
        Ok(found)
    }
}

struct TreeStage {
    name: TargetName,
    store: Patient,
    /// The staging folder.
    partial: String,
    /// Where it stands: the staging folder, the published one afterwards.
    folder: String,
    scratch: LocalScratch,
}

impl TreeStage {
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("target {}", self.name))
    }
}

impl Stage for TreeStage {
    fn create(&mut self, file: &str) -> Result<Box<dyn StagedFile>> {
        let key = format!("{}/{file}", self.folder);
        let upload = self.named(self.store.upload(&key, Mode::New))?;
        Ok(Box::new(RemoteStagedFile {
            upload,
            target: self.name.clone(),
            address: self.store.address(&key),
        }))
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        self.scratch.folder()
    }

    fn place(&self) -> String {
        self.folder.clone()
    }

    fn publish(&mut self, location: &str) -> Result<Published> {
        self.scratch.remove()?;
        if let Some((parent, _)) = location.rsplit_once('/') {
            self.named(self.store.make_folder(parent))?;
        }
        let renamed = hit_at(self.name.as_str(), "rename")
            .map_err(anyhow::Error::from)
            .and_then(|()| self.store.rename(&self.folder, location));
        let renamed = renamed.with_context(|| format!("publishing {}", self.store.address(location)));
        if self.named(renamed)? == Published::Taken {
            return Ok(Published::Taken);
        }
        self.folder = location.to_owned();
        Ok(Published::Done)
    }

    fn abandon(&mut self) -> Result<()> {
        let _ = self.scratch.remove(); // whoever reaps dead runs tries again
        // Out of sight first: a backup that is half removed must not be found.
        if self.folder != self.partial
            && matches!(self.store.rename(&self.folder, &self.partial), Ok(Published::Done))
        {
            self.folder = self.partial.clone();
        }
        self.named(self.store.remove_all(&self.folder).map(drop))
    }
}
