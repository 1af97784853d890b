//! A folder on another machine, over SSH: SFTP version 3 through the SSH client of the system.
//!
//! The protocol is spoken by code of its own. It is small, and what matters here is what libraries leave out or
//! decide otherwise: a rename that never replaces anything, files that are made durable and counted before they
//! count, an answer that does not come in time, and the client's own words when there is no connection.

mod error;
mod files;
pub mod host_key;
mod session;
mod settings;
mod ssh;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use self::error::SftpError;
use self::files::{Handle, SftpObject, SftpUpload};
use self::session::Session;
use self::ssh::Destination;
use self::wire::{Answer, Attributes, Packet, kind, open, status};
use super::{AlreadyThere, Entry, Mode, Object, Store, Tree, Upload};
use crate::config::SftpPlace;
use crate::model::{ByteSize, TargetName};
use crate::target::{Permanent, Published, Space, says_nothing_of_content};

/// Less free space than this counts as full.
const FULL: u64 = 1 << 20;
/// The server's file system is mounted read-only.
const STATVFS_READ_ONLY: u64 = 1;
/// How often a folder is made anew that somebody removes before anything stands in it.
const ANEW: u32 = 4;

/// A folder on another machine. Clones share one connection, which is made when it is needed.
#[derive(Clone)]
pub struct SftpStore(Arc<Inner>);

struct Inner {
    destination: Arc<Destination>,
    session: Mutex<Option<Arc<Session>>>,
}

/// What stands at a path.
enum There {
    Nothing,
    Folder,
    Other,
}

impl SftpStore {
    /// The folder that the configuration describes; `address` is how it is shown. Nothing is asked for yet.
    pub fn new(target: &TargetName, place: &SftpPlace, address: String) -> Self {
        let destination = Arc::new(Destination { target: target.clone(), place: place.clone(), address });
        Self(Arc::new(Inner { destination, session: Mutex::default() }))
    }

    /// Files are made so that not even their owner can change them, where the server forbids to change permissions.
    fn write_only(&self) -> bool {
        self.0.destination.place.write_only
    }

    /// The connection; a new one where there is none or the last one broke.
    fn session(&self) -> Result<Arc<Session>, SftpError> {
        // Held while it is made: whoever comes meanwhile uses the same.
        let mut slot = self.0.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = slot.as_ref().filter(|session| session.is_alive()) {
            return Ok(Arc::clone(session));
        }
        *slot = None;
        Ok(Arc::clone(slot.insert(Arc::new(Session::connect(&self.0.destination)?))))
    }

    fn root(&self) -> &str {
        match self.0.destination.place.path.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }

    /// The path of a key at the server.
    fn path(&self, key: &str) -> String {
        match (self.root(), key) {
            (root, "") => root.to_owned(),
            ("/", key) => format!("/{key}"),
            (root, key) => format!("{root}/{key}"),
        }
    }

    fn shown(&self, key: &str) -> String {
        match key {
            "" => self.0.destination.address.clone(),
            key => format!("{}/{key}", self.0.destination.address.trim_end_matches('/')),
        }
    }

    /// A request about one path, and its answer.
    fn ask(&self, kind: u8, key: &str) -> Result<Answer, SftpError> {
        self.session()?.call(Packet::new(kind).string(self.path(key).as_bytes()))
    }

    fn attributes(&self, kind: u8, key: &str) -> Result<Attributes, SftpError> {
        self.ask(kind, key)?.expect(kind::ATTRS)?.attributes()
    }

    fn there(&self, key: &str) -> Result<There, SftpError> {
        match self.attributes(kind::LSTAT, key) {
            Ok(found) if found.is_folder() => Ok(There::Folder),
            Ok(_) => Ok(There::Other),
            Err(e) if e.is(status::NO_SUCH_FILE) => Ok(There::Nothing),
            Err(e) => Err(e),
        }
    }

    fn no_root(&self) -> anyhow::Error {
        let Destination { place, address, .. } = &*self.0.destination;
        Permanent(format!(
            "the folder {address} does not exist; make it at {}, owned by the account of the login: mkdir -p {}",
            place.host, place.path
        ))
        .into()
    }

    /// A failed write with what a full disk would have to do with it: servers say no more than "failure".
    fn why(&self, error: SftpError) -> SftpError {
        if !error.is(status::FAILURE) {
            return error;
        }
        let message = match self.space() {
            Ok(Some((space, _))) if space.free < FULL => {
                format!(
                    "there is no room left, {} of {} are free",
                    ByteSize(space.free),
                    ByteSize(space.total)
                )
            }
            _ => "the disk there may be full, or a quota used up".to_owned(),
        };
        SftpError::Status { code: status::FAILURE, message }
    }

    /// The room below the root and whether it is mounted read-only; none where the server does not say.
    fn space(&self) -> Result<Option<(Space, bool)>, SftpError> {
        let session = self.session()?;
        if !session.can.statvfs {
            return Ok(None);
        }
        let packet = Packet::extended("statvfs@openssh.com").string(self.root().as_bytes());
        let answer = session.call(packet)?;
        let mut fields = match answer.expect(kind::EXTENDED_REPLY) {
            // A server may forbid it and say that it has it all the same.
            Err(e) if e.is(status::UNSUPPORTED) || e.is(status::PERMISSION_DENIED) => return Ok(None),
            fields => fields?,
        };
        let mut next = || fields.u64();
        let (_block, unit, total, _free, available) = (next()?, next()?, next()?, next()?, next()?);
        let (_files, _files_free, files_available) = (next()?, next()?, next()?);
        let (_id, flags) = (next()?, next()?);
        let inodes_used_up = _files > 0 && files_available == 0;
        let free = if inodes_used_up { 0 } else { available.saturating_mul(unit) };
        let space = Space { total: total.saturating_mul(unit), free };
        Ok(Some((space, flags & STATVFS_READ_ONLY != 0)))
    }

    /// Everything in a folder but itself and its parent; none where there is no such folder.
    fn entries(&self, key: &str) -> Result<Option<Vec<(String, Attributes)>>, SftpError> {
        let session = self.session()?;
        let handle = match Handle::folder(&session, &self.path(key)) {
            Err(e) if e.is(status::NO_SUCH_FILE) => return Ok(None),
            handle => handle?,
        };
        let mut found = Vec::new();
        loop {
            let answer = session.call(handle.packet(kind::READDIR))?;
            let mut fields = match answer.expect(kind::NAME) {
                Err(e) if e.is(status::EOF) => return Ok(Some(found)),
                fields => fields?,
            };
            for _ in 0..fields.u32()? {
                let (name, _long) = (fields.string()?, fields.string()?);
                let attributes = fields.attributes()?;
                // What is no UTF-8 is not ours.
                let Ok(name) = std::str::from_utf8(name) else { continue };
                if !matches!(name, "." | "..") && !name.contains('/') {
                    found.push((name.to_owned(), attributes));
                }
            }
        }
    }

    /// Makes one folder below the root; one that is there is fine.
    fn make_one(&self, key: &str) -> Result<()> {
        let made = self.session().and_then(|session| {
            let packet = Packet::new(kind::MKDIR).string(self.path(key).as_bytes());
            session.call(packet.permissions(0o700))?.done()
        });
        let Err(e) = made else { return Ok(()) };
        match self.there(key) {
            Ok(There::Folder) => Ok(()),
            Ok(There::Nothing) if e.is(status::NO_SUCH_FILE) && !key.contains('/') => Err(self.no_root()),
            _ => Err(self.why(e).doing(format_args!("making the folder {}", self.shown(key)))),
        }
    }

    fn remove_inside(&self, key: &str) -> Result<bool> {
        let doing = |e: SftpError, key: &str| e.doing(format_args!("removing {}", self.shown(key)));
        let Some(entries) = self.entries(key).map_err(|e| doing(e, key))? else { return Ok(false) };
        for (name, attributes) in entries {
            let inner = format!("{key}/{name}");
            if attributes.is_folder() {
                self.remove_inside(&inner)?;
                continue;
            }
            match self.ask(kind::REMOVE, &inner).and_then(|answer| answer.done()) {
                Err(e) if !e.is(status::NO_SUCH_FILE) => return Err(doing(e, &inner)),
                _ => {}
            }
        }
        match self.ask(kind::RMDIR, key).and_then(|answer| answer.done()) {
            Err(e) if !e.is(status::NO_SUCH_FILE) => Err(doing(e, key)),
            _ => Ok(true),
        }
    }
}

impl Store for SftpStore {
    fn kind(&self) -> &'static str {
        "sftp"
    }

    fn address(&self, key: &str) -> String {
        self.shown(key)
    }

    fn probe(&self) -> Result<Option<Space>> {
        let doing = |e: SftpError| e.doing(format_args!("looking at {}", self.shown("")));
        let found = match self.attributes(kind::STAT, "") {
            Err(e) if e.is(status::NO_SUCH_FILE) => return Err(self.no_root()),
            found => found.map_err(doing)?,
        };
        if found.mode.is_some() && !found.is_folder() {
            return Err(Permanent(format!("{} is no folder", self.shown(""))).into());
        }
        let closed = found.mode.is_some_and(|mode| mode & 0o222 == 0);
        let Some((space, read_only)) = self.space().map_err(doing)? else { return Ok(None) };
        if read_only {
            bail!("{} is mounted read-only there", self.shown(""));
        }
        // To root the permissions mean nothing.
        if closed && self.0.destination.place.user.as_deref().is_some_and(|user| user != "root") {
            return Err(Permanent(format!("nobody may write to {}", self.shown(""))).into());
        }
        if space.free < FULL {
            let (free, total) = (ByteSize(space.free), ByteSize(space.total));
            bail!("there is no room left on {}; {free} of {total} are free", self.shown(""));
        }
        Ok(Some(space))
    }

    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        let how = match mode {
            Mode::New => open::WRITE | open::CREATE | open::EXCLUSIVE,
            Mode::Replace => open::WRITE | open::CREATE | open::TRUNCATE,
        };
        let permissions = if self.write_only() { 0o400 } else { 0o600 };
        let begin = || Handle::open(&self.session()?, &self.path(key), how, permissions);
        let mut opened = begin();
        if let Some((parent, _)) = key.rsplit_once('/')
            && opened.as_ref().is_err_and(|e| e.is(status::NO_SUCH_FILE))
        {
            self.make_folder(parent)?;
            opened = begin();
        }
        match opened {
            Ok(handle) => Ok(Box::new(SftpUpload::new(self.clone(), key, handle))),
            Err(e) if e.is(status::NO_SUCH_FILE) && !key.contains('/') => Err(self.no_root()),
            // Servers say no more than "failure".
            Err(e) if mode == Mode::New && e.is(status::FAILURE) => match self.there(key) {
                Ok(There::Folder | There::Other) => Err(AlreadyThere(self.shown(key)).into()),
                _ => Err(self.why(e).doing(format_args!("creating {}", self.shown(key)))),
            },
            Err(e) => Err(self.why(e).doing(format_args!("creating {}", self.shown(key)))),
        }
    }

    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>> {
        Ok(SftpObject::open(self, key)?.map(|object| Box::new(object) as Box<dyn Object>))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let entries = self.entries(folder);
        let entries = entries.map_err(|e| e.doing(format_args!("listing {}", self.shown(folder))))?;
        let Some(entries) = entries else {
            return if folder.is_empty() { Err(self.no_root()) } else { Ok(Vec::new()) };
        };
        let mut found = Vec::new();
        for (name, mut attributes) in entries {
            if attributes.mode.is_none() {
                let inner = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                attributes = self
                    .attributes(kind::LSTAT, &inner)
                    .map_err(|e| e.doing(format_args!("looking at {}", self.shown(&inner))))?;
            }
            // Links and the like are nobody's backups.
            if attributes.is_folder() {
                found.push(Entry { name, length: None });
            } else if attributes.is_file() {
                found.push(Entry { name, length: Some(attributes.size.unwrap_or(0)) });
            }
        }
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        match self.ask(kind::REMOVE, key).and_then(|answer| answer.done()) {
            Err(e) if !e.is(status::NO_SUCH_FILE) => {
                Err(e.doing(format_args!("removing {}", self.shown(key))))
            }
            _ => Ok(()),
        }
    }

    fn tree(&self) -> Option<&dyn Tree> {
        Some(self)
    }
}

impl SftpStore {
    fn try_make_folder(&self, path: &str) -> Result<()> {
        // Mostly everything above is there. The root is never made: it may be a mount point.
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut missing = Vec::new();
        for end in ends.collect::<Vec<_>>().into_iter().rev() {
            match self.there(&path[..end]) {
                Ok(There::Folder) => break,
                Ok(_) => missing.push(end),
                Err(e) => return Err(e.doing(format_args!("looking at {}", self.shown(&path[..end])))),
            }
        }
        missing.into_iter().rev().try_for_each(|end| self.make_one(&path[..end]))
    }
}

impl Tree for SftpStore {
    fn make_folder(&self, path: &str) -> Result<()> {
        // Another run's retention removes empty folders, as those are that were just looked at or made. A server that is
        // away is no such case: the caller waits for it.
        for _ in 0..ANEW {
            match self.try_make_folder(path) {
                Err(e) if !says_nothing_of_content(&e) => tracing::debug!("once more: {e:#}"),
                done => return done,
            }
        }
        self.try_make_folder(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<Published> {
        let doing =
            |e: SftpError| e.doing(format_args!("renaming {} to {}", self.shown(from), self.shown(to)));
        // Looked at first, because servers differ in what a rename does with what is there: some replace it. A
        // connection that broke while nothing happened is made anew by this.
        let before = match self.there(to) {
            Err(SftpError::Lost(_)) => self.there(to),
            before => before,
        };
        if !matches!(before.map_err(doing)?, There::Nothing) {
            return Ok(Published::Taken);
        }
        let rename = || {
            let packet = Packet::new(kind::RENAME).string(self.path(from).as_bytes());
            self.session()?.call(packet.string(self.path(to).as_bytes()))?.done()
        };
        let mut renamed = rename();
        if let Some((above, _)) = to.rsplit_once('/') {
            // Another run's retention removes folders of days that are empty, as the one above was until now.
            let is_missing = |renamed: &Result<(), SftpError>| {
                renamed.as_ref().is_err_and(|e| e.is(status::NO_SUCH_FILE))
                    && matches!(self.there(from), Ok(There::Folder))
            };
            for _ in 0..ANEW {
                if !is_missing(&renamed) {
                    break;
                }
                self.make_folder(above)?;
                renamed = rename();
            }
        }
        match renamed {
            Ok(()) => Ok(Published::Done),
            // Somebody else was faster.
            Err(e) if e.is(status::FAILURE) && matches!(self.there(to), Ok(There::Folder | There::Other)) => {
                Ok(Published::Taken)
            }
            Err(e) => Err(doing(e)),
        }
    }

    fn remove_all(&self, path: &str) -> Result<bool> {
        if path.is_empty() {
            bail!("{} itself is never removed", self.shown(""));
        }
        match self.there(path).map_err(|e| e.doing(format_args!("looking at {}", self.shown(path))))? {
            There::Nothing => Ok(false),
            There::Folder => self.remove_inside(path),
            There::Other => self.delete(path).map(|()| true),
        }
    }

    fn remove_empty(&self, path: &str) -> Result<bool> {
        match self.ask(kind::RMDIR, path).and_then(|answer| answer.done()) {
            Ok(()) => Ok(true),
            Err(e) if e.is(status::NO_SUCH_FILE) => Ok(true),
            // "Failure" is all that is said of a folder that is not empty.
            Err(e) if e.is(status::FAILURE) => Ok(false),
            Err(e) => Err(e.doing(format_args!("removing {}", self.shown(path)))),
        }
    }
}
