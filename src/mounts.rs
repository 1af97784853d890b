//! Which file system a path lies on, told without touching it: from the kernel's list of mounts.
//!
//! Whoever touches a path on a dead network share waits in the kernel. So a path is followed part by part,
//! and looked at only while it lies on a local file system.

use std::io;
use std::path::{Component, Path, PathBuf};

/// File systems whose server is another machine, or may be. Of `fuse.…` only those that are known to be
/// local are not counted among them.
const REMOTE: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "9p",
    "ncpfs",
    "coda",
    "lustre",
    "gpfs",
    "glusterfs",
    "ocfs2",
    "gfs2",
    "autofs",
    "davfs",
    "fuse",
    "beegfs",
    "orangefs",
    "virtiofs",
];
/// File systems in user space on a local disk.
const LOCAL_FUSE: &[&str] =
    &["fuse.ntfs-3g", "fuse.exfat", "fuse.lxcfs", "fuse.fuse-overlayfs", "fuseblk", "fusectl"];
/// Symbolic links followed before a path counts as a loop.
const LINKS_MAX: usize = 40;

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Its type as the kernel names it: `ext4`, `nfs4`, `fuse.sshfs`.
    pub kind: String,
    /// What is mounted: `/dev/sda1`, `nas:/export`.
    pub source: String,
    /// Whether it can be written.
    pub writable: bool,
}

impl Mount {
    /// Whether its data lies on another machine, or may lie there.
    pub fn is_remote(&self) -> bool {
        let kind = self.kind.as_str();
        REMOTE.contains(&kind) || (kind.starts_with("fuse") && !LOCAL_FUSE.contains(&kind))
    }
}

/// The mounts of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// The mounts this process sees.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// Reads the text of `/proc/self/mountinfo`. Lines that make no sense are passed over.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    /// The mount a path lies on, by its text alone: no link is followed. A later mount hides an earlier one
    /// at the same place.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let mut best: Option<&Mount> = None;
        for mount in self.0.iter().filter(|mount| path.starts_with(&mount.point)) {
            let longer = |best: &Mount| mount.point.as_os_str().len() >= best.point.as_os_str().len();
            if best.is_none_or(longer) {
                best = Some(mount);
            }
        }
        best
    }

    /// Where file systems of other machines are mounted.
    pub fn remote_points(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|mount| mount.is_remote()).map(|mount| mount.point.as_path())
    }

    /// Whether something is mounted exactly there.
    pub fn is_point(&self, path: &Path) -> bool {
        self.0.iter().any(|mount| mount.point == path)
    }

    /// Follows the links of an absolute path, and stops where it comes to another machine's file system.
    /// Gives where it came to and the mount that lies on. Parts that do not exist are taken as they stand.
    pub fn follow(&self, path: &Path) -> io::Result<(PathBuf, Option<&Mount>)> {
        let mut done = PathBuf::from("/");
        let mut todo: Vec<std::ffi::OsString> = parts(path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(&part);
            let mount = self.of(&done);
            if mount.is_some_and(Mount::is_remote) {
                todo.reverse();
                let whole = todo.iter().fold(done.clone(), |path, part| path.join(part));
                return Ok((whole, self.of(&done)));
            }
            if let Ok(target) = std::fs::read_link(&done) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::other(format!("{} is a loop of symbolic links", path.display())));
                }
                if target.is_absolute() {
                    done = PathBuf::from("/");
                } else {
                    done.pop();
                }
                todo.extend(parts(&target));
            }
        }
        let mount = self.of(&done);
        Ok((done, mount))
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let point = words.nth(4)?;
    let options = words.next()?;
    let mut after = words.skip_while(|word| *word != b"-").skip(1);
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    use std::os::unix::ffi::OsStringExt;
    Some(Mount {
        point: PathBuf::from(std::ffi::OsString::from_vec(unescape(point))),
        kind: text(after.next()?),
        source: text(&unescape(after.next()?)),
        writable: !options.split(|byte| *byte == b',').any(|option| option == b"ro"),
    })
}

/// Blanks, tabs, line ends and backslashes stand there as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let digits = word.get(at + 1..at + 4).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(digits) if word[at] == b'\\' => {
                let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                at += 4;
            }
            _ => {
                out.push(word[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 27 0:30 / /mnt/my\\040nas rw,relatime - nfs4 nas:/export rw
31 27 0:31 / /srv/ssh ro,relatime - fuse.sshfs me@host:/ rw
32 27 0:32 / /media/disk rw - fuseblk /dev/sdb1 rw
33 27 0:33 / /mnt/twice rw - ext4 /dev/sdc rw
34 27 0:34 / /mnt/twice rw - cifs //nas/x rw
nonsense
";

    #[test]
    fn a_path_lies_on_the_nearest_mount_and_the_last_one_there() {
        let mounts = Mounts::parse(TEXT);
        let kind = |path: &str| mounts.of(Path::new(path)).unwrap().kind.clone();
        assert_eq!(kind("/var/lib"), "ext4");
        assert_eq!(kind("/mnt/my nas/locks/x"), "nfs4");
        assert_eq!(kind("/mnt/my nasty"), "ext4");
        assert_eq!(kind("/mnt/twice/x"), "cifs");
        let remote = |path: &str| mounts.of(Path::new(path)).unwrap().is_remote();
        assert!(remote("/srv/ssh") && remote("/mnt/twice") && !remote("/media/disk") && !remote("/"));
        assert!(!mounts.of(Path::new("/srv/ssh/x")).unwrap().writable);
        assert!(mounts.is_point(Path::new("/mnt/my nas")) && !mounts.is_point(Path::new("/mnt")));
    }

    #[test]
    fn links_are_followed_until_the_path_leaves_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        std::os::unix::fs::symlink("/mnt/my nas/../my nas/locks", root.join("away")).unwrap();
        let mounts = Mounts::parse(TEXT);
        let (path, mount) = mounts.follow(&root.join("link/x")).unwrap();
        assert_eq!((path, mount.unwrap().kind.as_str()), (root.join("real/x"), "ext4"));
        let (path, mount) = mounts.follow(&root.join("away/job.lock")).unwrap();
        assert_eq!(mount.unwrap().kind, "nfs4");
        assert_eq!(path, Path::new("/mnt/my nas/../my nas/locks/job.lock"));
        assert!(mounts.follow(&root.join("loop")).is_err());
    }
}
