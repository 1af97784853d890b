//! Files that hold secrets: read only when others cannot read them, written so that others cannot.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::model::Secret;

/// More than any password or key.
const MAX_BYTES: u64 = 64 << 10;
/// Permission bits of everybody who is neither owner nor in the group.
const OTHERS: u32 = 0o007;
/// Permission bits of the group, but for running the file.
const GROUP: u32 = 0o060;

/// Who may read a file with a secret, beside its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Nobody but root's group.
    Owner,
    /// Its group as well: the application's own `.env`, which PHP reads as another user.
    Group,
    /// Its group too, though it should not: a key without which nothing can be restored.
    GroupForNow,
}

impl Readers {
    /// Why `path`, of which `meta` tells, is not to be used.
    fn refuse(self, path: &Path, meta: &Metadata) -> Result<(), String> {
        let shown = path.display();
        if !meta.is_file() {
            return Err(format!("{shown} is not a file, and should hold a secret"));
        }
        let mode = meta.mode() & 0o7777;
        let group = self == Readers::Owner && meta.gid() != 0 && mode & GROUP != 0;
        if mode & OTHERS == 0 && !group {
            return Ok(());
        }
        let (who, closed) = match self {
            Readers::Owner => ("other users", "600"),
            Readers::Group => ("every user", "640"),
            Readers::GroupForNow => ("every user", "600"),
        };
        Err(format!("{shown} has mode {mode:04o}, so {who} can read its secret; `chmod {closed} {shown}`"))
    }
}

fn absent(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{shown} does not exist; write the secret there, then `chmod 600 {shown}`")
        }
        _ => format!("{shown} cannot be looked at: {error}"),
    }
}

/// Why a file with a secret is not to be used: it is not there, or others than `readers` can read it. It is not
/// opened, so that nobody needs to be able to read it.
pub fn look(path: &Path, readers: Readers) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| absent(path, &error))?;
    readers.refuse(path, &meta)
}

/// Checks that `path` is a file that this process can read and others cannot. What it holds is not looked
/// at.
pub fn check(path: &Path, readers: Readers) -> anyhow::Result<()> {
    open(path, readers).map(drop)
}

/// Reads a secret: the whole file without the line ends that close it.
pub fn read(path: &Path) -> anyhow::Result<Secret> {
    read_of(path, Readers::Owner)
}

/// The same for a file that `readers` may read.
pub fn read_of(path: &Path, readers: Readers) -> anyhow::Result<Secret> {
    let mut text = String::new();
    open(path, readers)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading the secret in {}", path.display()))?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{} is too long for a secret: more than {MAX_BYTES} bytes", path.display());
    }
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        bail!("{} holds no secret: it is empty", path.display());
    }
    if secret.contains('\0') {
        bail!("{} holds a NUL byte, which no password may contain", path.display());
    }
    Ok(Secret::new(secret))
}

/// Opens a file that none but `readers` can get at.
pub fn open(path: &Path, readers: Readers) -> anyhow::Result<File> {
    // O_NONBLOCK: a FIFO in the place of a file must not hold up the run.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!("{}", absent(path, &error)),
        _ => anyhow::Error::new(error)
            .context(format!("opening {}, which should hold a secret", path.display())),
    })?;
    let meta = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
    readers.refuse(path, &meta).map_err(|why| anyhow!("{why}"))?;
    Ok(file)
}

/// A file with a secret that lives as long as this value.
#[derive(Debug)]
pub struct TemporarySecret(PathBuf);

impl TemporarySecret {
    /// Writes `content` to a new file of this user alone.
    pub fn write(path: PathBuf, content: &str) -> anyhow::Result<Self> {
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let this = Self(path);
        let mode = file.metadata().with_context(|| format!("looking at {}", this.0.display()))?.mode();
        if mode & 0o077 != 0 {
            bail!(
                "{} cannot hold a password: its file system gives it the mode {:04o} instead of 0600",
                this.0.display(),
                mode & 0o7777
            );
        }
        file.write_all(content.as_bytes()).with_context(|| format!("writing {}", this.0.display()))?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporarySecret {
    fn drop(&mut self) {
        // The run removes the whole folder anyway.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(dir: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_is_the_file_without_its_last_line_end() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&file(&dir, b" a # b \r\n", 0o600)).unwrap().expose(), " a # b ");
        assert_eq!(read_of(&file(&dir, b"x", 0o640), Readers::Group).unwrap().expose(), "x");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&file(&dir, b"hunter2", 0o644)).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && error.contains("0644") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn empty_missing_and_strange_files_are_no_secrets() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"\n", b"a\0b", b"\xff", &vec![b'x'; 70_000]] {
            assert!(read(&file(&dir, content, 0o600)).is_err());
        }
        assert!(read(&dir.path().join("none")).is_err());
        assert!(read(dir.path()).is_err());
    }

    #[test]
    fn a_temporary_secret_is_private_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let secret = TemporarySecret::write(dir.path().join("x.cnf"), "text").unwrap();
        let path = secret.path().to_path_buf();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(secret);
        assert!(!path.exists());
    }
}
