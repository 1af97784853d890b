//! Files and folders, written so that a crash leaves either the old state or the new one.
//!
//! The order is always the same: write, check the length, fsync, close with its error looked at (the
//! standard library hides it, and network file systems report a full disk there), rename, fsync the folder.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, RenameFlags, ResolveFlags};

/// Closes a file and reports the error of `close`, which dropping it would hide.
pub fn close(file: File) -> io::Result<()> {
    nix::unistd::close(OwnedFd::from(file)).map_err(io::Error::from)
}

/// Makes the entries of a folder durable: names made, renamed and removed in it.
pub fn fsync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("making the entries of folder {} durable (fsync)", dir.display()))
}

/// Writes a small file so that readers see either the old content or the new one, and a crash neither
/// loses nor mixes them. The file gets exactly `mode`.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().context("a file name is missing")?;
    let mut temporary = dir.join(name).into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let result = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        close(file)?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = result {
        let _ = fs::remove_file(&temporary); // the error to report is the first one
        return Err(error).with_context(|| format!("writing {}", path.display()));
    }
    fsync_dir(dir)
}

/// Writes a small file where there is none, whole and durably as [`write_atomic`]. False, and nothing is changed, when
/// there is one: of several writers, also on several hosts that share the folder, one is the first.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<bool> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    // A process id is that of processes on other hosts, too.
    temporary.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    let temporary = PathBuf::from(temporary);
    let result = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        close(file)?;
        // The one of these that NFS decides at the server. Where there are no links there is the flag of rename.
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            Err(_) => rename_noreplace(&temporary, path),
            Ok(()) => {
                let _ = fs::remove_file(&temporary); // it is there; a name too many does no harm
                Ok(())
            }
        }
    })();
    match result {
        Ok(()) => fsync_dir(dir).map(|()| true),
        Err(error) => {
            let _ = fs::remove_file(&temporary); // the error to report is the first one
            match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(false),
                _ => Err(error).with_context(|| format!("writing {}", path.display())),
            }
        }
    }
}

/// Renames `from` to `to` and fails with `AlreadyExists` when `to` is there, even an empty folder.
pub fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // Network file systems may not know the flag. Looking first leaves a gap, but whoever shares the
        // folder with us holds the same lock.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => other.map_err(io::Error::from),
    }
}

/// Makes `relative` and its parents below `base` (which must exist), and makes each new name durable. One that
/// somebody removes meanwhile, since it is empty, is made again.
pub fn create_dirs_below(base: &Path, relative: &Path) -> Result<()> {
    if let Some(part) = relative.components().find(|part| !matches!(part, Component::Normal(_))) {
        bail!("the folder {} would leave {} ({part:?})", relative.display(), base.display());
    }
    let mut below: Vec<&Path> = relative.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    below.reverse();
    let (mut next, mut repeated) = (0, 0);
    while let Some(path) = below.get(next).map(|path| base.join(path)) {
        match fs::create_dir(&path) {
            Ok(()) => fsync_dir(path.parent().unwrap_or(base))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(_) if !path.exists() && repeated < 4 => {
                (next, repeated) = (0, repeated + 1);
                continue;
            }
            Err(e) => return Err(e).with_context(|| format!("making folder {}", path.display())),
        }
        next += 1;
    }
    Ok(())
}

/// True when `path` is the root of a mounted file system: its device differs from its parent's.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let here = fs::metadata(path)?;
    let parent = fs::metadata(path.join(".."))?;
    Ok(here.dev() != parent.dev() || here.ino() == parent.ino())
}

/// Total and free bytes of the file system that holds `path`; free is what an ordinary user may use.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Free inodes of the file system that holds `path`; `None` where it does not count them.
pub fn free_inodes(path: &Path) -> io::Result<Option<u64>> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_files > 0).then_some(stat.f_favail))
}

/// Opens a folder below `root` without leaving it: no `..`, no symbolic link on the way, no mount tricks
/// through `/proc`. `relative` must be made of normal components only; an empty one opens `root` again.
pub fn open_dir_beneath(root: BorrowedFd<'_>, relative: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, target, flags, Mode::empty(), resolve) {
        // Kernels before 5.6, and sandboxes that refuse the call: walk by hand.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => open_dir_stepwise(root, relative),
        other => other.map_err(io::Error::from),
    }
}

fn open_dir_stepwise(root: BorrowedFd<'_>, relative: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(root, c".", flags, Mode::empty())?;
    for part in relative.components() {
        let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
        dir = rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?;
    }
    Ok(dir)
}

/// The extended attributes of an open file, sorted by name. Attributes the file system does not keep or
/// that vanish while they are listed are left out.
pub fn xattrs(fd: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let fd = fd.as_fd();
    read_xattrs(
        |names| rustix::fs::flistxattr(fd, names),
        |name, value| rustix::fs::fgetxattr(fd, name, value),
    )
}

/// The extended attributes of the symbolic link `name` in the folder `dir`, as [`xattrs`] gives them. Users
/// cannot set any on a link; root and security modules can. None for a link that is gone.
pub fn link_xattrs(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = link_path(dir.as_fd(), name);
    let found = read_xattrs(
        |names| rustix::fs::llistxattr(&path, names),
        |name, value| rustix::fs::lgetxattr(&path, name, value),
    );
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

/// Sets an extended attribute of the symbolic link `name` in the folder `dir`, never of what it names.
pub fn set_link_xattr(dir: impl AsFd, name: &[u8], attribute: &[u8], value: &[u8]) -> io::Result<()> {
    let path = link_path(dir.as_fd(), name);
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(&path, OsStr::from_bytes(attribute), value, flags)?)
}

/// The kernel takes the attributes of a link by path alone: this one goes through the open folder.
fn link_path(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(OsStr::from_bytes(name))
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut short = [0u8; 4096];
    let mut long = Vec::new();
    let names = match list(&mut short) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(length) => &short[..length],
        Err(rustix::io::Errno::RANGE) => {
            long.resize(65536, 0); // XATTR_LIST_MAX
            let length = list(&mut long)?;
            &long[..length]
        }
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    let mut value = vec![0u8; 65536]; // XATTR_SIZE_MAX
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match get(name, &mut value) {
            Ok(length) => found.push((name.to_bytes().to_vec(), value[..length].to_vec())),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// A path's last component, or the path itself where it has none.
pub fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

/// The path's bytes.
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_with_the_given_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        write_atomic(&path, b"one", 0o644).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn of_many_that_write_a_new_file_one_is_the_first_and_its_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.json");
        let write =
            |number: usize| write_new(&path, format!("{number}").repeat(1000).as_bytes(), 0o644).unwrap();
        let wrote: Vec<bool> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|number| scope.spawn(move || write(number))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(wrote.iter().filter(|wrote| **wrote).count(), 1);
        let first = wrote.iter().position(|wrote| *wrote).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}").repeat(1000));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_taken_name_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        assert_eq!(rename_noreplace(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(&b).unwrap();
        rename_noreplace(&a, &b).unwrap();
        assert!(b.is_dir() && !a.exists());
    }

    #[test]
    fn folders_are_never_made_outside_the_base() {
        let dir = tempfile::tempdir().unwrap();
        create_dirs_below(dir.path(), Path::new("daily/2026/11/24")).unwrap();
        assert!(dir.path().join("daily/2026/11/24").is_dir());
        assert!(create_dirs_below(dir.path(), Path::new("../x")).is_err());
        assert!(create_dirs_below(dir.path(), Path::new("/x")).is_err());
    }

    #[test]
    fn a_folder_beneath_is_not_reached_through_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        for open in [open_dir_beneath, open_dir_stepwise] {
            assert!(open(root.as_fd(), Path::new("a/b")).is_ok());
            assert!(open(root.as_fd(), Path::new("")).is_ok());
            assert!(open(root.as_fd(), Path::new("a/link/etc")).is_err());
            assert!(open(root.as_fd(), Path::new("../")).is_err());
        }
    }
}
