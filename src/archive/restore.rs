//! Tar streams back into files.
//!
//! Safe as root, whatever the archive says: names are taken apart, `..` and absolute ones are refused, every
//! folder on the way is opened beneath the restore folder without following links, files are created
//! exclusively, and devices are never made. Owner, mode, attributes and times of a folder are set when its
//! content is done, because filling it would change them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::entries::{TarEntry, TarReader};
use super::header::END;
use super::meta::acl_from_text;
use super::select::Selection;
use crate::event::{Interrupted, Progress};
use crate::fsutil::open_dir_beneath;
use crate::manifest::PathText;

/// How a restore behaves.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Replace files that are there.
    pub overwrite: bool,
    /// Keep set-uid and set-gid bits.
    pub allow_setid: bool,
    /// Set owners; only root may.
    pub owners: bool,
    /// Take owner ids as they are, without looking up names.
    pub numeric_owner: bool,
    /// Counters, and the wish to stop.
    pub progress: Arc<Progress>,
}

/// What came of a restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreSummary {
    /// Entries restored.
    pub entries: u64,
    /// Content bytes written.
    pub bytes: u64,
    /// Set-uid and set-gid bits left out.
    pub setid_dropped: u64,
    /// Entries that were refused or failed, with the reason.
    pub problems: Vec<(PathText, String)>,
    /// Attributes that could not be set; the content is there.
    pub notes: Vec<(PathText, String)>,
}

/// Restores the entries of a tar stream below `root`; with a selection, only those.
pub fn restore_tree(
    stream: &mut dyn Read,
    root: &Path,
    selection: Option<&Selection>,
    options: &RestoreOptions,
) -> Result<RestoreSummary> {
    let root_fd = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("opening the restore folder {}", root.display()))?;
    let mut restorer = Restorer {
        root: root_fd,
        open: Vec::new(),
        options,
        summary: RestoreSummary::default(),
        users: HashMap::new(),
        groups: HashMap::new(),
        placed: HashMap::new(),
    };
    // Chosen frames are whole entries without the archive's end, so it is put behind them.
    let end: &[u8] = if selection.is_some() { &END } else { &[] };
    let mut stream = stream.chain(end);
    let mut archive = TarReader::new(&mut stream);
    while let Some(entry) = archive.next().context("reading the archive")? {
        if options.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let size = entry.size;
        let mut attributes = Attributes::read(entry).context("reading the archive: a header is damaged")?;
        if let Some(selection) = selection
            && !selection.paths.contains(&attributes.path)
        {
            match selection.aliases.get(&attributes.path) {
                None => continue,
                Some(alias) => {
                    let content = std::mem::replace(&mut attributes.path, alias.clone());
                    restorer.placed.insert(content, alias.clone());
                }
            }
        }
        restorer.restore(&mut archive, size, attributes)?;
    }
    restorer.close_all();
    rustix::fs::syncfs(&restorer.root)
        .with_context(|| format!("making the restored files in {} durable", root.display()))?;
    Ok(restorer.summary)
}

/// What an entry's headers say.
struct Attributes {
    path: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    user: Vec<u8>,
    group: Vec<u8>,
    mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The real size of a sparse file in GNU's pax format.
    sparse_size: Option<u64>,
}

impl Attributes {
    fn read(entry: TarEntry) -> Result<Self> {
        let header = &entry.header;
        let mut found = Self {
            path: entry.path,
            kind: header.entry_type(),
            link: entry.link,
            mode: header.mode()? & 0o7777,
            uid: header.uid()? as u32,
            gid: header.gid()? as u32,
            user: header.username_bytes().unwrap_or_default().to_vec(),
            group: header.groupname_bytes().unwrap_or_default().to_vec(),
            mtime: Timespec { tv_sec: header.mtime()? as i64, tv_nsec: 0 },
            xattrs: Vec::new(),
            sparse_size: None,
        };
        for (key, value) in entry.pax {
            let text = || std::str::from_utf8(&value).ok();
            let number = || text().and_then(|v| v.parse::<u64>().ok());
            match &key[..] {
                b"GNU.sparse.realsize" => found.sparse_size = Some(number().context("a damaged size")?),
                b"uid" => found.uid = number().context("a damaged uid")? as u32,
                b"gid" => found.gid = number().context("a damaged gid")? as u32,
                b"uname" => found.user = value,
                b"gname" => found.group = value,
                b"mtime" => found.mtime = text().and_then(pax_time).context("a damaged mtime")?,
                b"SCHILY.acl.access" => found.add_acl("system.posix_acl_access", &value),
                b"SCHILY.acl.default" => found.add_acl("system.posix_acl_default", &value),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        found.xattrs.push((name.to_vec(), value));
                    }
                }
            }
        }
        Ok(found)
    }

    fn add_acl(&mut self, name: &str, text: &[u8]) {
        if let Some(binary) = std::str::from_utf8(text).ok().and_then(acl_from_text) {
            self.xattrs.push((name.as_bytes().to_vec(), binary));
        }
    }
}

/// A decimal number of seconds with a fraction, as pax writes times.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some(match (negative, nanos) {
        (true, 1..) => Timespec { tv_sec: whole - 1, tv_nsec: 1_000_000_000 - nanos },
        _ => Timespec { tv_sec: whole, tv_nsec: nanos },
    })
}

/// A folder that entries are being put into.
struct OpenDir {
    path: Vec<u8>,
    fd: OwnedFd,
    /// Set when its content is done; absent for a folder the archive has no entry for.
    attributes: Option<Attributes>,
}

struct Restorer<'a> {
    root: OwnedFd,
    open: Vec<OpenDir>,
    options: &'a RestoreOptions,
    summary: RestoreSummary,
    users: HashMap<Vec<u8>, Option<u32>>,
    groups: HashMap<Vec<u8>, Option<u32>>,
    /// Content restored under another name than its own.
    placed: HashMap<Vec<u8>, Vec<u8>>,
}

impl Restorer<'_> {
    fn restore(&mut self, content: &mut dyn Read, size: u64, attributes: Attributes) -> Result<()> {
        let path = attributes.path.clone();
        match self.place(content, size, attributes) {
            Ok(()) => {
                self.summary.entries += 1;
                self.options.progress.add_entries(1);
                Ok(())
            }
            // A full disk or a broken archive will not get better with the next file.
            Err(e) if is_fatal(&e) => Err(e.context(format!("restoring {}", PathText(path).display()))),
            Err(e) => {
                self.summary.problems.push((PathText(path), format!("{e:#}")));
                Ok(())
            }
        }
    }

    fn place(&mut self, content: &mut dyn Read, size: u64, attributes: Attributes) -> Result<()> {
        let parts = safe_parts(&attributes.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        if attributes.kind == EntryType::Directory {
            self.enter(&parts)?;
            if let Some(dir) = self.open.last_mut() {
                dir.attributes = Some(attributes);
            }
            return Ok(());
        }
        self.enter(parents)?;
        let parent = self.open.last().map_or(self.root.as_fd(), |dir| dir.fd.as_fd()).try_clone_to_owned()?;
        match attributes.kind {
            EntryType::Regular | EntryType::Continuous => {
                self.file(content, size, parent.as_fd(), name, &attributes)
            }
            EntryType::Symlink => self.symlink(parent.as_fd(), name, &attributes),
            EntryType::Link => self.hard_link(parent.as_fd(), name, &attributes),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                bail!("devices and FIFOs are not restored")
            }
            other => bail!("entries of type {:?} are not known", other.as_byte() as char),
        }
    }

    /// Makes sure that the folder of these parts is the innermost open one.
    fn enter(&mut self, parts: &[&[u8]]) -> Result<()> {
        let path = parts.join(&b'/');
        while let Some(dir) = self.open.last() {
            let inside =
                path == dir.path || (path.starts_with(&dir.path) && path.get(dir.path.len()) == Some(&b'/'));
            if inside {
                break;
            }
            self.close_innermost();
        }
        let depth = self.open.len();
        for level in depth..parts.len() {
            let parent = self.open.last().map_or(self.root.as_fd(), |dir| dir.fd.as_fd());
            let name = OsStr::from_bytes(parts[level]);
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io::Error::from(e)).context("making the folder"),
            }
            let fd = open_dir_beneath(parent, Path::new(name))
                .map_err(|e| anyhow!("opening the folder: {e}; is something else of that name there?"))?;
            self.open.push(OpenDir { path: parts[..=level].join(&b'/'), fd, attributes: None });
        }
        Ok(())
    }

    fn close_innermost(&mut self) {
        let Some(dir) = self.open.pop() else { return };
        if let Some(attributes) = dir.attributes {
            self.apply(dir.fd.as_fd(), &attributes);
        }
    }

    fn close_all(&mut self) {
        while !self.open.is_empty() {
            self.close_innermost();
        }
    }

    fn clear_the_way(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        if !self.options.overwrite {
            return Ok(());
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(io::Error::from(e)).context("removing what stands in its place"),
        }
    }

    fn file(
        &mut self,
        content: &mut dyn Read,
        size: u64,
        parent: BorrowedFd<'_>,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<()> {
        let name = OsStr::from_bytes(name);
        self.clear_the_way(parent, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(io::Error::from)
            .context("creating the file")?;
        let mut file = File::from(fd);
        let written = match attributes.sparse_size {
            Some(real_size) => write_sparse(content, size, &mut file, real_size)?,
            None => {
                let written = io::copy(content, &mut file).map_err(WriteError)?;
                if written != size {
                    return Err(WriteError(io::ErrorKind::UnexpectedEof.into()))
                        .context("the content ends early");
                }
                written
            }
        };
        self.summary.bytes += written;
        self.options.progress.add_source(written);
        self.apply(file.as_fd(), attributes);
        crate::fsutil::close(file).map_err(WriteError)?;
        Ok(())
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> Result<()> {
        let name = OsStr::from_bytes(name);
        self.clear_the_way(parent, name)?;
        rustix::fs::symlinkat(OsStr::from_bytes(&attributes.link), parent, name)
            .map_err(io::Error::from)
            .context("making the symbolic link")?;
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        if let Err(e) = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            self.note(attributes, format!("setting its time: {e}"));
        }
        if self.options.owners {
            let (uid, gid) = self.owner(attributes);
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            if let Err(e) =
                rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)
            {
                self.note(attributes, format!("setting its owner: {e}"));
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> Result<()> {
        let name = OsStr::from_bytes(name);
        let target = self.placed.get(&attributes.link).unwrap_or(&attributes.link);
        if *target == attributes.path {
            return Ok(()); // its content was restored under this very name
        }
        let parts = safe_parts(target).context("the file it is a further name of")?;
        let Some((target_name, target_parents)) = parts.split_last() else { bail!("it links to nothing") };
        let target_parent = target_parents.join(&b'/');
        let target_dir = open_dir_beneath(self.root.as_fd(), Path::new(OsStr::from_bytes(&target_parent)))
            .context("opening the folder of the file it is a further name of")?;
        self.clear_the_way(parent, name)?;
        rustix::fs::linkat(&target_dir, OsStr::from_bytes(target_name), parent, name, AtFlags::empty())
            .map_err(io::Error::from)
            .with_context(|| format!("linking it to {}", PathText(attributes.link.clone()).display()))
    }

    /// Owner first, since changing it clears set-uid bits and capabilities; then attributes, mode, time.
    fn apply(&mut self, fd: BorrowedFd<'_>, attributes: &Attributes) {
        if self.options.owners {
            let (uid, gid) = self.owner(attributes);
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            if let Err(e) = rustix::fs::fchown(fd, Some(owner.0), Some(owner.1)) {
                self.note(attributes, format!("setting its owner: {e}"));
            }
        }
        for (name, value) in &attributes.xattrs {
            // Ordinary users may set their own attributes only; the rest is root's business.
            let own = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
            if !own && !self.options.owners {
                continue;
            }
            if let Err(e) = rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                self.note(attributes, format!("setting attribute {}: {e}", PathText(name.clone()).display()));
            }
        }
        let mut mode = attributes.mode;
        if mode & 0o6000 != 0 && !self.options.allow_setid && attributes.kind != EntryType::Directory {
            mode &= !0o6000;
            self.summary.setid_dropped += 1;
        }
        if let Err(e) = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)) {
            self.note(attributes, format!("setting its mode: {e}"));
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        if let Err(e) = rustix::fs::futimens(fd, &times) {
            self.note(attributes, format!("setting its time: {e}"));
        }
    }

    fn note(&mut self, attributes: &Attributes, text: String) {
        self.summary.notes.push((PathText(attributes.path.clone()), text));
    }

    fn owner(&mut self, attributes: &Attributes) -> (u32, u32) {
        if self.options.numeric_owner {
            return (attributes.uid, attributes.gid);
        }
        let user = self.users.entry(attributes.user.clone()).or_insert_with_key(|name| {
            let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
            nix::unistd::User::from_name(name).ok().flatten().map(|u| u.uid.as_raw())
        });
        let group = self.groups.entry(attributes.group.clone()).or_insert_with_key(|name| {
            let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
            nix::unistd::Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw())
        });
        (user.unwrap_or(attributes.uid), group.unwrap_or(attributes.gid))
    }
}

/// Writing the content failed, or reading it from the archive: neither gets better with the next file.
#[derive(Debug, thiserror::Error)]
#[error("writing the content: {0}")]
struct WriteError(#[source] io::Error);

fn is_fatal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<WriteError>().is_some()
        || error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            )
        })
}

/// The parts of a path that stays inside, or the reason why it does not.
fn safe_parts(path: &[u8]) -> Result<Vec<&[u8]>> {
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

/// Content of a sparse file in GNU's pax format 1.0: the map, padded to whole blocks, then the extents.
fn write_sparse(content: &mut dyn Read, length: u64, file: &mut File, real_size: u64) -> Result<u64> {
    let mut content = content.take(length);
    let mut map_bytes = 0;
    let mut number = || -> Result<u64> {
        let mut digits = String::new();
        loop {
            let mut byte = [0];
            content.read_exact(&mut byte).map_err(WriteError)?;
            map_bytes += 1;
            match byte[0] {
                b'\n' => return digits.parse().context("the sparse map is damaged"),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte[0] as char),
                _ => bail!("the sparse map is damaged"),
            }
        }
    };
    let count = number()?;
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push((number()?, number()?));
    }
    io::copy(&mut content.by_ref().take(super::header::padding(map_bytes) as u64), &mut io::sink())
        .map_err(WriteError)?;
    let mut written = 0;
    for (offset, length) in extents {
        if offset.checked_add(length).is_none_or(|end| end > real_size) {
            bail!("the sparse map leaves the file");
        }
        file.seek(SeekFrom::Start(offset)).map_err(WriteError)?;
        let copied = io::copy(&mut content.by_ref().take(length), file).map_err(WriteError)?;
        if copied != length {
            return Err(WriteError(io::ErrorKind::UnexpectedEof.into()).into());
        }
        written += copied;
    }
    file.set_len(real_size).map_err(WriteError)?;
    file.flush().map_err(WriteError)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_are_read_with_their_sign() {
        let time = |t: &str| pax_time(t).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time("12.5x"), None);
        assert_eq!(time(""), None);
    }

    #[test]
    fn paths_that_leave_are_refused() {
        assert_eq!(safe_parts(b"./a//b/").unwrap(), [&b"a"[..], b"b"]);
        for bad in [&b"/etc/passwd"[..], b"../x", b"a/../../x"] {
            assert!(safe_parts(bad).is_err());
        }
    }
}
