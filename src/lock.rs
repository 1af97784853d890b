//! The two locks of a run: files held with flock(2), the lock util-linux `flock` takes.
//!
//! A lock file is never removed: a lock on a file that no longer has its name excludes nobody. Should
//! somebody else remove or replace it, a lock is only handed out after the open file and the path have
//! been seen to be the same file. What remains is the holder whose file is removed under it; it keeps its
//! lock, but a newcomer locks a new file. That is why a run holds two locks and why the state records
//! the holder's [`ProcessIdentity`].

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

#[cfg(test)]
mod tests;

/// How often a lock that is waited for is tried.
const POLL: Duration = Duration::from_millis(200);
/// How often a lock file that keeps being replaced is opened again.
const REPLACED_ATTEMPTS: u32 = 50;
/// Tries, and the pause between them, before a lock counts as held: [`is_free`] holds a lock for an instant, and so does
/// what a process has just forked, until it becomes another program. On a machine with much to do either may take longer.
const BUSY_ATTEMPTS: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Whose file it is, which decides how it is opened and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// The agent's own: made with mode 0600, a symbolic link in its place is refused.
    Private,
    /// Shared with other programs: links are followed as util-linux `flock` does, a folder is accepted as
    /// it does, an existing file keeps its mode and owner, and a new one gets 0644, since reading is enough
    /// to lock.
    Configured,
}

/// Why a lock could neither be taken nor be seen to be held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The folder of the lock file does not exist.
    #[error("cannot lock {}: the folder {} does not exist; make it, or name another lock file",
        path.display(), folder.display())]
    NoFolder {
        /// The lock file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The path names something that is no lock file.
    #[error("cannot lock {}: it is {found}; name a regular file", path.display())]
    NotAFile {
        /// The lock file.
        path: PathBuf,
        /// What stands there, in words.
        found: &'static str,
    },
    /// Somebody removes or replaces the file faster than it can be locked.
    #[error("cannot lock {}: it was removed or replaced {REPLACED_ATTEMPTS} times while it was being locked; \
             find out what removes it, lock files must stay", path.display())]
    Replaced {
        /// The lock file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} the lock file {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl LockError {
    fn io(path: &Path, action: &'static str, errno: Errno) -> Self {
        Self::Io { path: path.to_owned(), action, source: errno.into() }
    }
}

/// A held lock; dropping it releases it. Child processes do not inherit it.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct FileLock {
    file: OwnedFd,
    path: PathBuf,
    mode: LockMode,
}

impl FileLock {
    /// Takes the lock if nobody holds it. `Ok(None)` means that somebody does.
    pub fn try_acquire(path: &Path, mode: LockMode) -> Result<Option<FileLock>, LockError> {
        let mut busy = 0;
        let mut replaced = 0;
        loop {
            let file = open_or_create(path, mode)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    busy += 1;
                    if busy >= BUSY_ATTEMPTS {
                        return Ok(None);
                    }
                    std::thread::sleep(BUSY_PAUSE);
                    continue;
                }
                Err(errno) => return Err(LockError::io(path, "take the lock on", errno)),
            }
            let lock = FileLock { file, path: path.to_owned(), mode };
            if lock.is_in_place()? {
                return Ok(Some(lock));
            }
            replaced += 1;
            if replaced >= REPLACED_ATTEMPTS {
                return Err(LockError::Replaced { path: path.to_owned() });
            }
        }
    }

    /// Waits for the lock until `deadline`, or until `cancel` returns true, which is asked several times a
    /// second. `Ok(None)` means that one of the two happened first. The lock is tried at least once.
    pub fn acquire_wait(
        path: &Path,
        mode: LockMode,
        deadline: Instant,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<FileLock>, LockError> {
        loop {
            if let Some(lock) = Self::try_acquire(path, mode)? {
                return Ok(Some(lock));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || cancel() {
                return Ok(None);
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// The path that was locked.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True while the path still names the file that is locked. When it does not, somebody removed or
    /// replaced the file, and this lock no longer keeps newcomers out.
    pub fn is_in_place(&self) -> Result<bool, LockError> {
        let held = rustix::fs::fstat(&self.file).map_err(|e| LockError::io(&self.path, "look at", e))?;
        let named = match self.mode {
            LockMode::Private => rustix::fs::lstat(&self.path),
            LockMode::Configured => rustix::fs::stat(&self.path),
        };
        match named {
            Ok(named) => Ok((held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(LockError::io(&self.path, "look at", errno)),
        }
    }
}

/// Whether nobody holds the lock on `path`, without making the file. A path that does not exist is free.
///
/// For readers that want to know whether a run is alive. The question takes a shared lock for an instant;
/// [`FileLock::try_acquire`] is patient enough not to be misled by it.
pub fn is_free(path: &Path) -> Result<bool, LockError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(LockError::io(path, "open", errno)),
    };
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(LockError::io(path, "probe", errno)),
        }
    }
}

/// Opens the lock file, and makes it when it does not exist.
///
/// An existing file is opened without `O_CREAT`: in a sticky folder that all may write to, such as
/// /var/lock, Linux (`fs.protected_regular`) refuses `O_CREAT` on another user's file even to root.
fn open_or_create(path: &Path, mode: LockMode) -> Result<OwnedFd, LockError> {
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if mode == LockMode::Private {
        flags |= OFlags::NOFOLLOW;
    }
    for _ in 0..REPLACED_ATTEMPTS {
        match open_existing(path, flags) {
            Ok(file) => return check_kind(path, mode, file),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP) if mode == LockMode::Private => {
                return Err(LockError::NotAFile { path: path.to_owned(), found: "a symbolic link" });
            }
            Err(errno) => return Err(LockError::io(path, "open", errno)),
        }
        let permissions = match mode {
            LockMode::Private => Mode::from_raw_mode(0o600),
            LockMode::Configured => Mode::from_raw_mode(0o644),
        };
        match rustix::fs::open(path, flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, permissions) {
            Ok(file) => return Ok(file),
            // Somebody was faster, or the name is a link that leads nowhere.
            Err(Errno::EXIST) => {
                if is_dangling_link(path) {
                    let found = "a symbolic link to a file that does not exist";
                    return Err(LockError::NotAFile { path: path.to_owned(), found });
                }
            }
            Err(Errno::NOENT) => {
                let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
                return Err(LockError::NoFolder { path: path.to_owned(), folder });
            }
            Err(errno) => return Err(LockError::io(path, "make", errno)),
        }
    }
    Err(LockError::Replaced { path: path.to_owned() })
}

/// Opens for writing when that is allowed, since NFS wants it for an exclusive lock; else for reading.
fn open_existing(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::open(path, flags | OFlags::RDWR, Mode::empty()) {
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::ISDIR | Errno::NXIO) => {
            rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty())
        }
        other => other,
    }
}

fn check_kind(path: &Path, mode: LockMode, file: OwnedFd) -> Result<OwnedFd, LockError> {
    let stat: Stat = rustix::fs::fstat(&file).map_err(|e| LockError::io(path, "look at", e))?;
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(file),
        FileType::Directory if mode == LockMode::Configured => return Ok(file),
        FileType::Directory => "a folder",
        FileType::Fifo => "a FIFO",
        _ => "a device",
    };
    Err(LockError::NotAFile { path: path.to_owned(), found })
}

fn is_dangling_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) && fs::metadata(path).is_err()
}

/// The id of this boot of the machine; empty where /proc does not tell.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Which process this is, in a form that a reused process number or a reboot cannot forge.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessIdentity {
    /// The boot it belongs to, as [`boot_id`] gives it.
    pub boot_id: String,
    /// Its process number.
    pub pid: u32,
    /// When it started, in clock ticks after boot; `None` where /proc does not tell.
    pub start_ticks: Option<u64>,
}

impl ProcessIdentity {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { boot_id: boot_id(), pid, start_ticks: start_ticks(pid) }
    }

    /// Whether that very process still lives. Without a start time, any process of that number counts.
    pub fn is_alive(&self) -> bool {
        if self.boot_id != boot_id() {
            return false;
        }
        match (start_ticks(self.pid), self.start_ticks) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(now), Some(then)) => now == then,
        }
    }
}

/// Field 22 of /proc/PID/stat. A zombie counts as gone: it runs nothing any more and holds no lock.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in parentheses and may itself hold blanks and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}
