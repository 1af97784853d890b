//! The walk: every entry below the roots, sorted, by one thread.
//!
//! Symbolic links are never followed. Folders are opened relative to their parent's descriptor, so that a
//! folder swapped for a link meanwhile leads nowhere. Names of a folder are kept in one block of memory: a
//! million of them cost their own length and eight bytes each.
//!
//! Whoever looks at a dead network share waits in the kernel and cannot be woken. So what is left out for good where
//! one is mounted is told by its path, and not looked at.

mod names;
mod roots;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use anyhow::{Context, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::names::SortedNames;
use self::roots::{Skipped, archive_path, roots};
use super::TreeSpec;
use super::limits::SEGMENT;
use super::meta::{Meta, unchanged};
use super::plan::{BigFile, Item, Planner};
use super::segment::{extents_of, open_to_read};
use crate::event::{Interrupted, Progress};
use crate::fsutil;
use crate::manifest::{FileWarning, PathText};
use crate::model::WarningKind;
use crate::mounts::Mounts;

const CACHEDIR_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Walks all roots of `spec` and gives their entries to `planner`.
pub(super) fn walk<F: FnMut(Vec<Item>) -> Result<()>>(
    spec: &TreeSpec,
    now: i64,
    progress: &Progress,
    planner: &mut Planner<F>,
) -> Result<()> {
    let mut starts: Vec<Start> = roots(spec)?.into_iter().map(Start::Root).collect();
    for file in &spec.virtual_files {
        starts.push(Start::Virtual(file.path.clone().into_bytes(), file));
    }
    starts.sort_by(|a, b| super::path_order(a.path(), b.path()));
    // Without the list nothing is known to be remote.
    let mounts = Mounts::read().unwrap_or_default();
    let shares = mounts.remote_points().map(archive_path).collect();
    let skip = Skipped::new(&spec.skip, &mounts);
    let mut walker = Walker { spec, skip, shares, links: HashMap::new(), progress, planner };
    for start in starts {
        match start {
            Start::Root(root) => walker.root(&root)?,
            Start::Virtual(path, file) => {
                let item = Item::Virtual {
                    path: path.clone(),
                    bytes: file.bytes.clone(),
                    mode: file.mode,
                    mtime: now,
                };
                walker.planner.add(&path, file.bytes.len() as u64, item)?;
            }
        }
    }
    walker.planner.flush()
}

enum Start<'a> {
    Root(PathBuf),
    Virtual(Vec<u8>, &'a super::VirtualFile),
}

impl Start<'_> {
    fn path(&self) -> &[u8] {
        match self {
            Start::Root(path) => &fsutil::path_bytes(path)[1..],
            Start::Virtual(path, _) => path,
        }
    }
}

struct Walker<'a, F> {
    spec: &'a TreeSpec,
    skip: Skipped,
    /// Where file systems of other machines are mounted.
    shares: HashSet<Vec<u8>>,
    /// Files with several names: the path under which the content stands.
    links: HashMap<(u64, u64), Vec<u8>>,
    progress: &'a Progress,
    planner: &'a mut Planner<F>,
}

/// A folder being walked.
struct Level {
    dir: Arc<OwnedFd>,
    /// Archive path with a `/` at its end; empty for `/` itself.
    path: Vec<u8>,
    names: SortedNames,
    next: usize,
}

/// The excludes of one root.
struct Rules {
    root: PathBuf,
    device: u64,
    exclude: Gitignore,
}

impl<F: FnMut(Vec<Item>) -> Result<()>> Walker<'_, F> {
    fn root(&mut self, root: &Path) -> Result<()> {
        let metadata =
            std::fs::symlink_metadata(root).with_context(|| format!("looking at {}", root.display()))?;
        let mut builder = GitignoreBuilder::new(root);
        for line in &self.spec.exclude {
            builder.add_line(None, line).with_context(|| format!("the exclude pattern {line:?}"))?;
        }
        let rules = Rules {
            root: root.to_owned(),
            device: metadata.dev(),
            exclude: builder.build().context("the exclude patterns")?,
        };
        let (parent, name) = match (root.parent(), root.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (Path::new("/"), std::ffi::OsStr::new(".")),
        };
        let open =
            || rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let parent_fd = Arc::new(open().with_context(|| format!("opening folder {}", parent.display()))?);
        let mut prefix = fsutil::path_bytes(parent)[1..].to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let mut stack = Vec::new();
        self.entry(&parent_fd, &prefix, name.as_encoded_bytes(), &rules, true, &mut stack)?;
        while let Some(level) = stack.last_mut() {
            if self.progress.is_cancelled() {
                return Err(Interrupted.into());
            }
            let Some(name) = level.names.get(level.next).map(<[u8]>::to_vec) else {
                stack.pop();
                continue;
            };
            level.next += 1;
            let (dir, prefix) = (Arc::clone(&level.dir), level.path.clone());
            self.entry(&dir, &prefix, &name, &rules, false, &mut stack)?;
        }
        Ok(())
    }

    fn warn(&mut self, kind: WarningKind, path: Vec<u8>, detail: impl Into<String>) -> Result<()> {
        self.planner.note(FileWarning { kind, path: PathText(path), detail: detail.into() })
    }

    fn entry(
        &mut self,
        dir: &Arc<OwnedFd>,
        prefix: &[u8],
        name: &[u8],
        rules: &Rules,
        is_root: bool,
        stack: &mut Vec<Level>,
    ) -> Result<()> {
        let mut path = [prefix, name].concat();
        if self.skip.paths.contains(&path) {
            return Ok(());
        }
        if !is_root && self.shares.contains(&path) {
            if self.excluded(rules, &path, true) {
                return Ok(());
            }
            if self.spec.one_file_system {
                return self.mount_point(path);
            }
        }
        let stat = match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return self.warn(WarningKind::Vanished, path, "gone when it was looked at"),
            Err(e) => return self.warn(WarningKind::Unreadable, path, format!("looking at it: {e}")),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !is_root && self.excluded(rules, &path, kind == FileType::Directory) {
            return Ok(());
        }
        match kind {
            FileType::Directory => {
                if self.skip.folders.contains(&(stat.st_dev, stat.st_ino)) {
                    return Ok(());
                }
                if name == b"." && prefix.is_empty() {
                    path.clear(); // the file system's root has no entry of its own
                } else {
                    path.push(b'/');
                }
                self.directory(dir, name, path, &stat, rules, stack)
            }
            FileType::RegularFile => self.file(dir, name, path, &stat),
            FileType::Symlink => {
                if stat.st_nlink > 1
                    && let Some(target) = self.links.get(&(stat.st_dev, stat.st_ino))
                {
                    let item =
                        Item::Hardlink { path: path.clone(), target: target.clone(), meta: Meta::of(&stat) };
                    return self.planner.add(&path, 0, item);
                }
                if stat.st_nlink > 1 {
                    self.links.insert((stat.st_dev, stat.st_ino), path.clone());
                }
                let item =
                    Item::Named { dir: Arc::clone(dir), name: name.to_vec(), path: path.clone(), stat };
                self.planner.add(&path, 0, item)
            }
            other => self.warn(WarningKind::Skipped, path, special_name(other)),
        }
    }

    /// The extended attributes of what is open; none, with a warning, where they cannot be read.
    fn xattrs(&mut self, open: impl AsFd, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        fsutil::xattrs(open).or_else(|e| {
            let detail = format!("reading its extended attributes: {e}");
            self.warn(WarningKind::Unreadable, path.to_vec(), detail).map(|()| Vec::new())
        })
    }

    /// The folder that something is mounted over. What it is like shows only when the share is away.
    fn mount_point(&mut self, mut path: Vec<u8>) -> Result<()> {
        path.push(b'/');
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };
        self.planner.add(&path.clone(), 0, Item::Dir { path, meta, xattrs: Vec::new() })
    }

    fn excluded(&self, rules: &Rules, path: &[u8], is_dir: bool) -> bool {
        use std::os::unix::ffi::OsStrExt;
        if rules.exclude.is_empty() {
            return false;
        }
        let absolute = Path::new("/").join(std::ffi::OsStr::from_bytes(path));
        let relative = absolute.strip_prefix(&rules.root).unwrap_or(&absolute);
        rules.exclude.matched(relative, is_dir).is_ignore()
    }

    fn directory(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
        rules: &Rules,
        stack: &mut Vec<Level>,
    ) -> Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty());
        let (dir, stat) = match opened.and_then(|dir| rustix::fs::fstat(&dir).map(|stat| (dir, stat))) {
            Ok(found) => found,
            Err(Errno::NOENT) => return self.warn(WarningKind::Vanished, path, "gone when it was opened"),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return self.warn(WarningKind::Changed, path, "replaced by something that is no folder");
            }
            Err(e) => {
                // The folder itself is kept, so that its owner and mode come back; its content is lost.
                let item = Item::Dir { path: path.clone(), meta: Meta::of(stat), xattrs: Vec::new() };
                self.planner.add(&path, 0, item)?;
                return self.warn(WarningKind::Unreadable, path, format!("opening the folder: {e}"));
            }
        };
        let xattrs = self.xattrs(&dir, &path)?;
        if !path.is_empty() {
            let item = Item::Dir { path: path.clone(), meta: Meta::of(&stat), xattrs };
            self.planner.add(&path, 0, item)?;
        }
        if self.spec.one_file_system && stat.st_dev != rules.device {
            return Ok(());
        }
        let mut names = match SortedNames::read(&dir) {
            Ok(names) => names,
            Err(e) => return self.warn(WarningKind::Unreadable, path, format!("reading the folder: {e}")),
        };
        if let Some(tag) = self.exclusion_tag(&dir, &names) {
            names.keep_only(&tag);
        }
        stack.push(Level { dir: Arc::new(dir), path, names, next: 0 });
        Ok(())
    }

    /// The name of the entry that says this folder's content is not wanted.
    fn exclusion_tag(&self, dir: &OwnedFd, names: &SortedNames) -> Option<Vec<u8>> {
        let present =
            self.spec.exclude_if_present.iter().map(String::as_bytes).find(|tag| names.contains(tag));
        if let Some(tag) = present {
            return Some(tag.to_vec());
        }
        let tag = b"CACHEDIR.TAG";
        if !self.spec.exclude_caches || !names.contains(tag) {
            return None;
        }
        let file = open_to_read(dir.as_fd(), tag).ok()?;
        let mut start = [0; CACHEDIR_SIGNATURE.len()];
        rustix::io::pread(&file, &mut start[..], 0).ok()?;
        (start == CACHEDIR_SIGNATURE).then(|| tag.to_vec())
    }

    fn file(&mut self, dir: &Arc<OwnedFd>, name: &[u8], path: Vec<u8>, stat: &Stat) -> Result<()> {
        let identity = (stat.st_dev, stat.st_ino);
        let linked = stat.st_nlink > 1;
        if linked && let Some(target) = self.links.get(&identity) {
            let item = Item::Hardlink { path: path.clone(), target: target.clone(), meta: Meta::of(stat) };
            return self.planner.add(&path, 0, item);
        }
        if !linked && stat.st_size as u64 <= SEGMENT as u64 {
            let item =
                Item::Named { dir: Arc::clone(dir), name: name.to_vec(), path: path.clone(), stat: *stat };
            return self.planner.add(&path, stat.st_size as u64, item);
        }
        // Big files are read by position from one descriptor, and the first name of a linked file must be
        // known to be open before another name refers to it.
        let file = match open_to_read(dir.as_fd(), name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return self.warn(WarningKind::Vanished, path, "gone when it was opened"),
            Err(Errno::LOOP) => return self.warn(WarningKind::Changed, path, "replaced by a symbolic link"),
            Err(e) => return self.warn(WarningKind::Unreadable, path, format!("opening it: {e}")),
        };
        let stat = rustix::fs::fstat(&file)
            .with_context(|| format!("looking at {}", PathText(path.clone()).display()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return self.warn(WarningKind::Changed, path, "replaced by something that is no file");
        }
        if linked {
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        if stat.st_size as u64 <= SEGMENT as u64 {
            let size = stat.st_size as u64;
            return self.planner.add(&path.clone(), size, Item::Leader { file, path });
        }
        self.big_file(file, path, stat)
    }

    fn big_file(&mut self, file: File, path: Vec<u8>, stat: Stat) -> Result<()> {
        let size = stat.st_size as u64;
        let xattrs = self.xattrs(&file, &path)?;
        let extents = extents_of(&file, &stat);
        let data_length = extents.as_ref().map_or(size, |e| e.iter().map(|(_, length)| length).sum());
        if data_length == 0 {
            // All hole: nothing will be read, so nothing would notice a change.
            let after = rustix::fs::fstat(&file).context("looking at a sparse file again")?;
            if !unchanged(&stat, &after) {
                self.warn(WarningKind::Changed, path.clone(), "changed while it was read")?;
            }
        }
        self.planner.add_big(BigFile {
            file,
            path,
            stat,
            xattrs,
            extents,
            data_length,
            left: AtomicU64::new(data_length),
            reported: AtomicBool::new(false),
        })
    }
}

fn special_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "neither file, folder nor link",
    }
}
