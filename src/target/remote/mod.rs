//! Targets reached over the network.
//!
//! Two layers. A [`Store`] is one protocol: a handful of operations on whole objects under keys with slashes,
//! nothing about backups. What makes a target of it is written once for all of them: `tree` for stores that can
//! rename a folder (SFTP, WebDAV), `objects` for those that cannot (S3). Below both, `patient` tries again what
//! failed for a moment.

mod http;
mod http_body;
#[cfg(test)]
mod memory;
mod objects;
#[cfg(feature = "azblob")]
mod opendal;
mod patient;
mod proxy;
pub mod s3;
pub mod sftp;
mod shared;
#[cfg(test)]
mod tests;
mod tree;
mod webdav;

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::{Published, Space, Target};
use crate::archive::ReadAt;
use crate::config::Place;
use crate::model::TargetName;
use crate::state::TargetIdentity;

/// A protocol to store objects over the network. Keys are relative, with slashes, without empty parts; the empty
/// key is the root. Calls block and end by themselves: each has its own limits of time.
///
/// Errors name the address. What trying again cannot change carries [`super::Permanent`].
pub trait Store: Send + Sync {
    /// Its kind, as the configuration calls it.
    fn kind(&self) -> &'static str;

    /// The address of a key, for people; no secret is in it.
    fn address(&self, key: &str) -> String;

    /// Looks whether it answers, knows the credentials, and has the root. Gives its room where it says it.
    fn probe(&self) -> Result<Option<Space>>;

    /// Begins an object. Nothing is visible under the key before [`Upload::finish`]; where the protocol cannot
    /// do that, the caller uses keys nobody looks at.
    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>>;

    /// Opens an object; none where there is none.
    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>>;

    /// What stands directly below a folder; nothing where there is no such folder.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;

    /// Every key below the root that ends in `/name`, when the store can tell without being walked through.
    fn find(&self, _name: &str) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Removes an object; one that is not there is removed. One that write-once storage keeps is [`Kept`], also
    /// where the store would hide it and keep what is in it.
    fn delete(&self, key: &str) -> Result<()>;

    /// Removes an object that is no backup's any more, or from sight at least: what write-once storage keeps of it
    /// is left to its own rules, and that is no error.
    fn put_away(&self, key: &str) -> Result<()> {
        self.delete(key)
    }

    /// Gives up what was begun below a folder and never finished, as far as it is not visible and that is allowed.
    fn discard(&self, _folder: &str) -> Result<()> {
        Ok(())
    }

    /// Its folders, when it has such.
    fn tree(&self) -> Option<&dyn Tree>;
}

/// A store with real folders.
pub trait Tree: Send + Sync {
    /// Makes a folder and those above it; one that is there is fine.
    fn make_folder(&self, path: &str) -> Result<()>;

    /// Renames a folder. [`Published::Taken`] when something stands at `to`, and then nothing happened.
    fn rename(&self, from: &str, to: &str) -> Result<Published>;

    /// Removes a folder with all that is in it; true when there was one.
    fn remove_all(&self, path: &str) -> Result<bool>;

    /// Removes a folder that is empty; true when it is gone, false when it is not empty.
    fn remove_empty(&self, path: &str) -> Result<bool>;

    /// Removes what [`Tree::remove_empty`] left where the program died in the middle of it; true when there was
    /// something.
    fn tidy(&self) -> Result<bool> {
        Ok(false)
    }
}

/// What an upload does with an object that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refuses it, with [`AlreadyThere`] in the chain, at the beginning or at the end.
    New,
    /// Replaces it.
    Replace,
}

/// An object being written. Dropped unfinished, it leaves nothing visible, and as little as can be otherwise.
pub trait Upload: Write + Send {
    /// Says before the first byte how many there will be, where that is known: some servers need it.
    fn expect(&mut self, _length: u64) {}

    /// Sends the rest, and has the store confirm that `length` bytes arrived.
    fn finish(self: Box<Self>, length: u64) -> Result<()>;
}

/// A stored object, read by position or from an offset on.
pub trait Object: ReadAt {
    /// Its bytes from `offset` to the end, as one stream.
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>>;
}

/// Something directly below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, the last part of its key.
    pub name: String,
    /// Length in bytes; none for a folder.
    pub length: Option<u64>,
}

/// An object of that name is there.
#[derive(Debug, thiserror::Error)]
#[error("{0} is there already")]
pub struct AlreadyThere(pub String);

/// The store does not let something go yet, and that is meant so: write-once storage. [`Store::delete`] and
/// [`Tree::rename`] fail with it in the chain, and then nothing happened; it is not tried again.
#[derive(Debug, thiserror::Error)]
#[error("the storage keeps {address}{}", .until.map_or(String::new(), |until| format!(" until {until}")))]
pub struct Kept {
    /// What it keeps.
    pub address: String,
    /// Until when, where it says so.
    pub until: Option<DateTime<Utc>>,
}

/// What a target over the network is made with.
pub struct Settings {
    /// Its name.
    pub name: TargetName,
    /// Where sources put what they need on the way; only a run needs it.
    pub scratch: Option<PathBuf>,
    /// What must stand there, where that is known.
    pub expected: Option<TargetIdentity>,
    /// Nothing is listed, read or removed: the credentials may not allow it.
    pub write_only: bool,
}

/// The store that the configuration of a target describes.
///
/// # Errors
/// A secret or a certificate that cannot be read, a program that is not installed.
pub(super) fn store(target: &TargetName, place: &Place) -> Result<Box<dyn Store>> {
    match place {
        Place::Sftp(sftp) => Ok(Box::new(sftp::SftpStore::new(target, sftp, place.address("")))),
        Place::Webdav(webdav) => Ok(Box::new(webdav::open(webdav)?)),
        #[cfg(feature = "azblob")]
        Place::Azblob(azblob) => Ok(Box::new(opendal::OpendalStore::azblob(azblob)?)),
        _ => bail!("this program was built without targets of this type"),
    }
}

/// Makes a target of a store.
pub fn target(store: Box<dyn Store>, settings: Settings) -> Box<dyn Target> {
    // Publication by a rename needs the right to rename.
    let renames = store.tree().is_some() && !settings.write_only;
    let store = patient::Patient::new(store);
    match renames {
        true => Box::new(tree::TreeTarget::new(store, settings)),
        false => Box::new(objects::ObjectTarget::new(store, settings)),
    }
}
