//! A store in memory, with folders or without: what the tests of both layouts run against.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::{AlreadyThere, Entry, Kept, Mode, Object, Store, Tree, Upload};
use crate::archive::ReadAt;
use crate::target::{Published, Space};

/// What is stored.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) objects: BTreeMap<String, Arc<Vec<u8>>>,
    pub(super) folders: BTreeSet<String>,
    /// Until when nothing goes that does not stand at the root, where it is write-once storage.
    pub(super) kept_until: Option<DateTime<Utc>>,
}

/// A store in memory; clones share what they hold.
#[derive(Clone, Default)]
pub(super) struct MemoryStore {
    pub(super) inside: Arc<Mutex<Inside>>,
    pub(super) with_folders: bool,
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn address(&self, key: &str) -> String {
        format!("memory:{key}")
    }

    fn probe(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.to_owned(), mode, bytes: Vec::new() }))
    }

    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>> {
        let found = self.inside.lock().unwrap().objects.get(key).cloned();
        Ok(found.map(|bytes| Box::new(MemoryObject(bytes)) as Box<dyn Object>))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let inside = self.inside.lock().unwrap();
        let below = |key: &str| match folder {
            "" => Some(key.to_owned()),
            folder => Some(key.strip_prefix(folder)?.strip_prefix('/')?.to_owned()),
        };
        let mut entries = BTreeMap::new();
        for folder in &inside.folders {
            if let Some(rest) = below(folder) {
                entries.insert(rest.split('/').next().unwrap().to_owned(), None);
            }
        }
        for (key, bytes) in &inside.objects {
            match below(key).as_deref().map(|rest| rest.split_once('/').ok_or(rest.to_owned())) {
                Some(Ok((folder, _))) => entries.insert(folder.to_owned(), None),
                Some(Err(name)) => entries.insert(name, Some(bytes.len() as u64)),
                None => None,
            };
        }
        Ok(entries.into_iter().map(|(name, length)| Entry { name, length }).collect())
    }

    fn delete(&self, key: &str) -> Result<()> {
        let mut inside = self.inside.lock().unwrap();
        if inside.kept_until.is_some() && key.contains('/') && inside.objects.contains_key(key) {
            return Err(Kept { address: self.address(key), until: inside.kept_until }.into());
        }
        inside.objects.remove(key);
        Ok(())
    }

    fn tree(&self) -> Option<&dyn Tree> {
        self.with_folders.then_some(self)
    }
}

impl Tree for MemoryStore {
    fn make_folder(&self, path: &str) -> Result<()> {
        let mut inside = self.inside.lock().unwrap();
        inside.folders.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
        inside.folders.insert(path.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<Published> {
        let mut inside = self.inside.lock().unwrap();
        if inside.folders.contains(to) {
            return Ok(Published::Taken);
        }
        if !inside.folders.remove(from) {
            bail!("there is no folder {from}");
        }
        if inside.kept_until.is_some() && !from.starts_with('.') {
            inside.folders.insert(from.to_owned());
            return Err(Kept { address: self.address(from), until: inside.kept_until }.into());
        }
        inside.folders.insert(to.to_owned());
        let below = format!("{from}/");
        let keys: Vec<String> = inside.objects.keys().filter(|k| k.starts_with(&below)).cloned().collect();
        for key in keys {
            let bytes = inside.objects.remove(&key).unwrap();
            inside.objects.insert(format!("{to}/{}", &key[below.len()..]), bytes);
        }
        Ok(Published::Done)
    }

    fn remove_all(&self, path: &str) -> Result<bool> {
        let mut inside = self.inside.lock().unwrap();
        let below = format!("{path}/");
        inside.objects.retain(|key, _| !key.starts_with(&below));
        inside.folders.retain(|folder| !folder.starts_with(&below));
        Ok(inside.folders.remove(path))
    }

    fn remove_empty(&self, path: &str) -> Result<bool> {
        if !self.list(path)?.is_empty() {
            return Ok(false);
        }
        self.inside.lock().unwrap().folders.remove(path);
        Ok(true)
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: String,
    mode: Mode,
    bytes: Vec<u8>,
}

impl Write for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn finish(self: Box<Self>, length: u64) -> Result<()> {
        assert_eq!(self.bytes.len() as u64, length);
        let mut inside = self.store.inside.lock().unwrap();
        if self.mode == Mode::New && inside.objects.contains_key(&self.key) {
            return Err(AlreadyThere(self.key.clone()).into());
        }
        inside.objects.insert(self.key.clone(), Arc::new(self.bytes));
        Ok(())
    }
}

struct MemoryObject(Arc<Vec<u8>>);

impl ReadAt for MemoryObject {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let rest = self.0.get(offset as usize..).and_then(|rest| rest.get(..length));
        rest.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

impl Object for MemoryObject {
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.0[offset as usize..].to_vec())))
    }
}
