//! Puts entries into folders, beneath the restore folder and nowhere else.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::attributes::Attributes;
use super::later::Later;
use super::sparse::write_sparse;
use super::{RestoreOptions, RestoreSummary};
use crate::event::Progress;
use crate::fsutil::open_dir_beneath;
use crate::manifest::PathText;

/// A folder that entries are being put into.
struct OpenDir {
    path: Vec<u8>,
    fd: Rc<OwnedFd>,
}

/// Whether an entry is there, or waits until others are.
enum Placed {
    Now,
    Later,
}

/// Restores entries, one after the other. Several of them work side by side, on entries of their own, and
/// share what has to wait until others are done.
pub(super) struct Restorer<'a> {
    root: BorrowedFd<'a>,
    top: Rc<OwnedFd>,
    open: Vec<OpenDir>,
    options: &'a RestoreOptions,
    later: &'a Mutex<Later>,
    /// What came of it so far.
    pub summary: RestoreSummary,
    users: HashMap<Vec<u8>, Option<u32>>,
    groups: HashMap<Vec<u8>, Option<u32>>,
}

impl<'a> Restorer<'a> {
    pub fn new(root: BorrowedFd<'a>, options: &'a RestoreOptions, later: &'a Mutex<Later>) -> Result<Self> {
        let top = Rc::new(root.try_clone_to_owned().context("opening the restore folder again")?);
        let summary = RestoreSummary::default();
        let (users, groups) = (HashMap::new(), HashMap::new());
        Ok(Self { root, top, open: Vec::new(), options, later, summary, users, groups })
    }

    /// Restores one entry. An error is one that ends the whole restore: a full disk or a broken archive does
    /// not get better with the next file.
    pub fn restore(&mut self, content: &mut dyn Read, size: u64, attributes: Attributes) -> Result<()> {
        let path = attributes.path.clone();
        let placed = self.place(content, size, attributes);
        self.count(path, placed)
    }

    fn count(&mut self, path: Vec<u8>, placed: Result<Placed>) -> Result<()> {
        match placed {
            Ok(Placed::Later) => Ok(()),
            Ok(Placed::Now) => {
                self.summary.entries += 1;
                self.options.progress.add_entries(1);
                Ok(())
            }
            Err(e) if is_fatal(&e) => Err(e.context(format!("restoring {}", PathText(path).display()))),
            Err(e) => {
                self.summary.problems.push((PathText(path), format!("{e:#}")));
                Ok(())
            }
        }
    }

    fn place(&mut self, content: &mut dyn Read, size: u64, attributes: Attributes) -> Result<Placed> {
        let parts = safe_parts(&attributes.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(Placed::Now) };
        let name = OsStr::from_bytes(name);
        if attributes.kind == EntryType::Directory {
            self.enter(&parts)?;
            self.later().dirs.push(attributes);
            return Ok(Placed::Now);
        }
        let parent = self.enter(parents)?;
        let parent = parent.as_fd();
        match attributes.kind {
            EntryType::Regular | EntryType::Continuous => {
                self.file(content, size, parent, name, &attributes)?;
            }
            EntryType::Symlink => self.symlink(parent, name, &attributes)?,
            EntryType::Link => {
                self.later().links.push(attributes);
                return Ok(Placed::Later);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo if self.options.devices => {
                self.node(parent, name, &attributes)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                bail!("devices and FIFOs are not restored unless asked for")
            }
            other => bail!("entries of type {:?} are not known", other.as_byte() as char),
        }
        Ok(Placed::Now)
    }

    fn later(&self) -> std::sync::MutexGuard<'a, Later> {
        self.later.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the folder of these parts where it is missing, and opens it.
    fn enter(&mut self, parts: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        let path = parts.join(&b'/');
        while let Some(dir) = self.open.last() {
            let inside =
                path == dir.path || (path.starts_with(&dir.path) && path.get(dir.path.len()) == Some(&b'/'));
            if inside {
                break;
            }
            self.open.pop();
        }
        for level in self.open.len()..parts.len() {
            let parent = self.open.last().map_or(&self.top, |dir| &dir.fd).as_fd();
            let name = OsStr::from_bytes(parts[level]);
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io::Error::from(e)).context("making the folder"),
            }
            let fd = open_dir_beneath(parent, Path::new(name))
                .map_err(|e| anyhow!("opening the folder: {e}; is something else of that name there?"))?;
            self.open.push(OpenDir { path: parts[..=level].join(&b'/'), fd: Rc::new(fd) });
        }
        Ok(Rc::clone(self.open.last().map_or(&self.top, |dir| &dir.fd)))
    }

    /// Where an entry is made first: under its own name, or beside what it replaces, so that there is never
    /// a moment without the one or the other.
    fn making(&self, name: &OsStr) -> OsString {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if !self.options.overwrite {
            return name.to_owned();
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        format!(".agent-restore-{}-{number}", std::process::id()).into()
    }

    /// Gives what was made its own name; takes it away again where it could not be made whole.
    fn made(&self, parent: BorrowedFd<'_>, made: &OsStr, name: &OsStr, whole: Result<()>) -> Result<()> {
        let named = whole.and_then(|()| {
            if made == name {
                return Ok(());
            }
            rustix::fs::renameat(parent, made, parent, name)
                .map_err(io::Error::from)
                .context("replacing what stands in its place")
        });
        if named.is_err() {
            // The error to report is the first one.
            let _ = rustix::fs::unlinkat(parent, made, AtFlags::empty());
        }
        named
    }

    fn file(
        &mut self,
        content: &mut dyn Read,
        size: u64,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<()> {
        let making = self.making(name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, &making, flags, Mode::from_raw_mode(0o600))
            .map_err(io::Error::from)
            .context("creating the file")?;
        let whole = self.fill(content, size, File::from(fd), attributes);
        self.made(parent, &making, name, whole)
    }

    fn fill(
        &mut self,
        content: &mut dyn Read,
        size: u64,
        mut file: File,
        attributes: &Attributes,
    ) -> Result<()> {
        let mut content = Counted { content, progress: &self.options.progress };
        let written = match attributes.sparse_size {
            Some(real_size) => write_sparse(&mut content, size, &mut file, real_size)?,
            None => {
                let written = io::copy(&mut content.by_ref().take(size), &mut file).map_err(WriteError)?;
                if written != size {
                    return Err(WriteError(io::ErrorKind::UnexpectedEof.into()))
                        .context("the content ends early");
                }
                written
            }
        };
        self.summary.bytes += written;
        self.apply(file.as_fd(), attributes);
        crate::fsutil::close(file).map_err(WriteError)?;
        Ok(())
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &OsStr, attributes: &Attributes) -> Result<()> {
        let making = self.making(name);
        rustix::fs::symlinkat(OsStr::from_bytes(&attributes.link), parent, &making)
            .map_err(io::Error::from)
            .context("making the symbolic link")?;
        self.apply_by_name(parent, &making, attributes);
        self.made(parent, &making, name, Ok(()))
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr, attributes: &Attributes) -> Result<()> {
        let kind = match attributes.kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let making = self.making(name);
        let device = rustix::fs::makedev(attributes.device.0, attributes.device.1);
        rustix::fs::mknodat(parent, &making, kind, Mode::from_raw_mode(0o600), device)
            .map_err(io::Error::from)
            .context("making the device or FIFO")?;
        self.apply_by_name(parent, &making, attributes);
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        if let Err(e) = rustix::fs::chmodat(parent, &making, mode, AtFlags::empty()) {
            self.note(attributes, format!("setting its mode: {e}"));
        }
        self.made(parent, &making, name, Ok(()))
    }

    fn apply_by_name(&mut self, parent: BorrowedFd<'_>, name: &OsStr, attributes: &Attributes) {
        let owners = self.options.owners;
        if owners {
            let (uid, gid) = self.owner(attributes);
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            if let Err(e) =
                rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)
            {
                self.note(attributes, format!("setting its owner: {e}"));
            }
        }
        for (attribute, value) in attributes.xattrs.iter().filter(|(name, _)| may_set(name, owners)) {
            if let Err(e) = crate::fsutil::set_link_xattr(parent, name.as_bytes(), attribute, value) {
                self.note_attribute(attributes, attribute, &e);
            }
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        if let Err(e) = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            self.note(attributes, format!("setting its time: {e}"));
        }
    }

    /// Makes a further name of a file that is there by now.
    pub fn link(&mut self, attributes: Attributes) -> Result<()> {
        let made = self.hard_link(&attributes).map(|()| Placed::Now);
        self.count(attributes.path, made)
    }

    fn hard_link(&mut self, attributes: &Attributes) -> Result<()> {
        let parts = safe_parts(&attributes.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let name = OsStr::from_bytes(name);
        let target = safe_parts(&attributes.link).context("the file it is a further name of")?;
        let Some((target_name, target_parents)) = target.split_last() else { bail!("it links to nothing") };
        if target == parts {
            return Ok(()); // its content was restored under this very name
        }
        let target_parent = target_parents.join(&b'/');
        let target_dir = open_dir_beneath(self.root, Path::new(OsStr::from_bytes(&target_parent)))
            .context("opening the folder of the file it is a further name of")?;
        let parent = self.enter(parents)?;
        if self.options.overwrite {
            // Renaming one name of a file over another would do nothing.
            match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(io::Error::from(e)).context("removing what stands in its place"),
            }
        }
        rustix::fs::linkat(&target_dir, OsStr::from_bytes(target_name), &parent, name, AtFlags::empty())
            .map_err(io::Error::from)
            .with_context(|| format!("linking it to {}", PathText(attributes.link.clone()).display()))
    }

    /// Sets what the headers say of a folder whose content is done.
    pub fn finish_dir(&mut self, attributes: &Attributes) {
        let opened = safe_parts(&attributes.path).and_then(|parts| {
            let path = parts.join(&b'/');
            Ok(open_dir_beneath(self.root, Path::new(OsStr::from_bytes(&path)))?)
        });
        match opened {
            Ok(dir) => self.apply(dir.as_fd(), attributes),
            Err(e) => self.note(attributes, format!("opening the folder to set its attributes: {e:#}")),
        }
    }

    /// Owner first, since changing it clears set-uid bits and capabilities; then attributes, mode, time.
    fn apply(&mut self, fd: BorrowedFd<'_>, attributes: &Attributes) {
        let owners = self.options.owners;
        if owners {
            let (uid, gid) = self.owner(attributes);
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            if let Err(e) = rustix::fs::fchown(fd, Some(owner.0), Some(owner.1)) {
                self.note(attributes, format!("setting its owner: {e}"));
            }
        }
        let mut rights_dropped = false;
        for (name, value) in attributes.xattrs.iter().filter(|(name, _)| may_set(name, owners)) {
            // What runs with capabilities has as much power as what runs set-uid.
            if name == b"security.capability" && !self.options.allow_setid {
                rights_dropped = true;
                continue;
            }
            if let Err(e) = rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                self.note_attribute(attributes, name, &e.into());
            }
        }
        let mut mode = attributes.mode;
        if mode & 0o6000 != 0 && !self.options.allow_setid && attributes.kind != EntryType::Directory {
            mode &= !0o6000;
            rights_dropped = true;
        }
        self.summary.setid_dropped += u64::from(rights_dropped);
        if let Err(e) = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)) {
            self.note(attributes, format!("setting its mode: {e}"));
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        if let Err(e) = rustix::fs::futimens(fd, &times) {
            self.note(attributes, format!("setting its time: {e}"));
        }
    }

    fn note_attribute(&mut self, attributes: &Attributes, attribute: &[u8], error: &io::Error) {
        let attribute = PathText(attribute.to_vec());
        self.note(attributes, format!("setting attribute {}: {error}", attribute.display()));
    }

    fn note(&mut self, attributes: &Attributes, text: String) {
        self.summary.notes.push((PathText(attributes.path.clone()), text));
    }

    fn owner(&mut self, attributes: &Attributes) -> (u32, u32) {
        if self.options.numeric_owner {
            return (attributes.uid, attributes.gid);
        }
        let known =
            |name: &Vec<u8>| std::str::from_utf8(name).ok().filter(|n| !n.is_empty()).map(str::to_owned);
        let user = match self.users.get(&attributes.user) {
            Some(found) => *found,
            None => {
                let found = known(&attributes.user)
                    .and_then(|name| nix::unistd::User::from_name(&name).ok().flatten())
                    .map(|u| u.uid.as_raw());
                *self.users.entry(attributes.user.clone()).or_insert(found)
            }
        };
        let group = match self.groups.get(&attributes.group) {
            Some(found) => *found,
            None => {
                let found = known(&attributes.group)
                    .and_then(|name| nix::unistd::Group::from_name(&name).ok().flatten())
                    .map(|g| g.gid.as_raw());
                *self.groups.entry(attributes.group.clone()).or_insert(found)
            }
        };
        (user.unwrap_or(attributes.uid), group.unwrap_or(attributes.gid))
    }
}

/// Writing the content failed, or reading it from the archive: neither gets better with the next file.
#[derive(Debug, thiserror::Error)]
#[error("writing the content: {0}")]
pub(super) struct WriteError(#[source] pub io::Error);

fn is_fatal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<WriteError>().is_some()
        || error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            )
        })
}

/// Content that is counted as it is read: a large file takes long, and must not look like a standstill.
struct Counted<'a> {
    content: &'a mut dyn Read,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.progress.add_source(read as u64);
        Ok(read)
    }
}

/// Ordinary users may set their own attributes only; the rest comes with owners, and is root's business.
fn may_set(attribute: &[u8], owners: bool) -> bool {
    owners || attribute.starts_with(b"user.") || attribute.starts_with(b"system.posix_acl_")
}

/// The parts of a path that stays inside, or the reason why it does not.
pub(super) fn safe_parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for part in Path::new(OsStr::from_bytes(path)).components() {
        match part {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => bail!("refused: its path is absolute"),
            Component::ParentDir => bail!("refused: its path leaves the restore folder"),
        }
    }
    if path.contains(&0) {
        bail!("refused: its path contains a zero byte");
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_counted_while_it_is_read_and_not_at_its_end() {
        let progress = Progress::default();
        let mut content = Counted { content: &mut io::repeat(7), progress: &progress };
        content.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(progress.source_bytes(), 1000);
    }

    #[test]
    fn paths_that_leave_are_refused() {
        assert_eq!(safe_parts(b"./a//b/").unwrap(), [&b"a"[..], b"b"]);
        for bad in [&b"/etc/passwd"[..], b"../x", b"a/../../x"] {
            assert!(safe_parts(bad).is_err());
        }
    }
}
