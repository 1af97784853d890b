//! Files below another root, read so that nothing in them or instead of them can do harm: no FIFO is waited
//! for, no device read, no file read whole that is too big, no loop of links followed.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// No crontab is longer; of a longer file this much is read.
const SIZE_MAX: u64 = 1 << 20;
/// No folder of crontabs or units holds more; of a larger one so many names are looked at.
const NAMES_MAX: usize = 5000;
/// Symbolic links followed before a path counts as a loop.
const LINKS_MAX: usize = 16;

/// A place that could not be looked at, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The place as this host names it.
    pub path: PathBuf,
    /// Why; one line.
    pub why: String,
    /// Whether another user could look.
    pub denied: bool,
}

/// A folder that stands for `/`, and what could not be read below it.
#[derive(Debug)]
pub(super) struct Root {
    folder: PathBuf,
    pub(super) unread: Vec<Unread>,
}

/// What is known of a file beside its text.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) meta: Metadata,
}

impl Root {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), unread: Vec::new() }
    }

    /// Whether this is the machine itself.
    pub(super) fn is_host(&self) -> bool {
        self.folder == Path::new("/")
    }

    /// Who counts as root: the owner of the folder that stands for `/`.
    pub(super) fn owner(&self) -> u32 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&self.folder).map_or(0, |meta| meta.uid())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.real(Path::new(path))).is_ok()
    }

    /// What is known of a file without opening it, or following it where it is a link; none when it does not exist.
    pub(super) fn meta(&self, path: &Path) -> Option<Metadata> {
        fs::symlink_metadata(self.real(path)).ok()
    }

    /// Where a path of the host lies really. Links in its folders lead where the system leads them; `..`
    /// leads nowhere.
    fn real(&self, path: &Path) -> PathBuf {
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
        parts.fold(self.folder.clone(), |real, part| real.join(part))
    }

    /// Where the link at `path` leads, as the host names it; none when it is no link.
    pub(super) fn link(&self, path: &Path) -> Option<PathBuf> {
        let target = fs::read_link(self.real(path)).ok()?;
        let mut whole = if target.is_absolute() { PathBuf::new() } else { path.parent()?.to_owned() };
        for part in target.components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                Component::Normal(name) => whole.push(name),
                Component::RootDir => whole = PathBuf::from("/"),
                _ => {}
            }
        }
        Some(whole)
    }

    /// The names in a folder, sorted; none when it does not exist.
    pub(super) fn names(&mut self, folder: &Path) -> Vec<OsString> {
        let entries = match fs::read_dir(self.real(folder)) {
            Ok(entries) => entries,
            Err(e) => {
                self.note(folder, &e);
                return Vec::new();
            }
        };
        let mut names: Vec<OsString> =
            entries.take(NAMES_MAX).filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.sort();
        names
    }

    /// The text of a regular file, invalid UTF-8 replaced; none when it does not exist, is something else,
    /// or could not be read, which is then noted.
    pub(super) fn text(&mut self, path: &Path) -> Option<Text> {
        match self.try_text(path) {
            Ok(found) => found,
            Err(e) => {
                self.note(path, &e);
                None
            }
        }
    }

    fn try_text(&mut self, path: &Path) -> io::Result<Option<Text>> {
        let mut place = path.to_owned();
        let mut links = 0;
        while let Some(target) = self.link(&place) {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("it is a loop of symbolic links"));
            }
            place = target;
        }
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(self.real(&place))?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(SIZE_MAX).read_to_end(&mut bytes)?;
        if meta.len() > SIZE_MAX {
            let why = format!("it has {} bytes, of which the first {SIZE_MAX} were read", meta.len());
            self.unread.push(Unread { path: path.to_owned(), why, denied: false });
        }
        Ok(Some(Text { text: String::from_utf8_lossy(&bytes).into_owned(), meta }))
    }

    fn note(&mut self, path: &Path, error: &io::Error) {
        // A socket answers so; a path below a file so.
        let nothing = [libc::ENXIO, libc::ENOTDIR, libc::ENOENT].map(Some);
        if !nothing.contains(&error.raw_os_error()) {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let why = if denied { "no permission".to_owned() } else { error.to_string() };
            self.unread.push(Unread { path: path.to_owned(), why, denied });
        }
    }
}
