//! What has to wait until other entries are there: further names of files, and the attributes of folders, which
//! filling them would change.

use std::sync::Mutex;

use anyhow::Result;

use super::attributes::Attributes;
use super::place::Restorer;
use crate::archive::path_order;

/// More than this many entries are not kept waiting when some of them need not.
const WAITING_MAX: usize = 10_000;

/// Entries that wait.
#[derive(Default)]
pub(super) struct Later {
    pub dirs: Vec<Attributes>,
    pub links: Vec<Attributes>,
}

impl Later {
    /// Takes out what need not wait any longer when everything before `path`, in the order of the archive,
    /// is there, and nothing but `path` and what follows it is still to come.
    fn settled_before(&mut self, path: &[u8]) -> Self {
        let before = |other: &[u8]| {
            let other = other.strip_suffix(b"/").unwrap_or(other);
            let above = path.starts_with(other) && path.get(other.len()) == Some(&b'/');
            path_order(other, path).is_lt() && !above
        };
        // A name whose file is still to come stands behind that file, so no folder before `path` waits for it.
        let links = self.links.extract_if(.., |link| before(&link.link)).collect();
        let dirs = self.dirs.extract_if(.., |dir| before(&dir.path)).collect();
        Self { dirs, links }
    }

    /// Makes the links, then sets the attributes of the folders, what is inside before what is around it.
    pub fn finish(self, restorer: &mut Restorer<'_>) -> Result<()> {
        for link in self.links {
            restorer.link(link)?;
        }
        let mut dirs = self.dirs;
        dirs.sort_by(|a, b| path_order(&b.path, &a.path));
        dirs.iter().for_each(|dir| restorer.finish_dir(dir));
        Ok(())
    }
}

/// Keeps the number of waiting entries within bounds: finishes those that need not wait, given the path of the
/// first entry that is not there yet.
pub(super) fn thin(later: &Mutex<Later>, first_missing: &[u8], restorer: &mut Restorer<'_>) -> Result<()> {
    let settled = {
        let mut later = later.lock().unwrap_or_else(|e| e.into_inner());
        if later.dirs.len() + later.links.len() < WAITING_MAX {
            return Ok(());
        }
        later.settled_before(first_missing)
    };
    settled.finish(restorer)
}

#[cfg(test)]
mod tests {
    use rustix::fs::Timespec;
    use tar::EntryType;

    use super::*;

    fn entry(path: &str, link: &str) -> Attributes {
        Attributes {
            path: path.into(),
            kind: EntryType::Directory,
            link: link.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime: Timespec { tv_sec: 0, tv_nsec: 0 },
            xattrs: Vec::new(),
            device: (0, 0),
            sparse_size: None,
        }
    }

    #[test]
    fn only_what_nothing_can_change_any_more_is_settled() {
        let mut later = Later::default();
        for dir in ["var/", "var/lib/", "var/lib/a/", "var/lib/b/", "var/lib/b.d/", "var/www/"] {
            later.dirs.push(entry(dir, ""));
        }
        later.links.push(entry("var/www/x", "var/lib/a/x"));
        later.links.push(entry("var/www/y", "var/lib/b/z"));
        let settled = later.settled_before(b"var/lib/b/m");
        let paths = |list: &[Attributes]| -> Vec<String> {
            list.iter().map(|a| String::from_utf8(a.path.clone()).unwrap()).collect()
        };
        assert_eq!(paths(&settled.dirs), ["var/lib/a/"]);
        assert_eq!(paths(&settled.links), ["var/www/x"]);
        assert_eq!(paths(&later.dirs), ["var/", "var/lib/", "var/lib/b/", "var/lib/b.d/", "var/www/"]);
        assert_eq!(paths(&later.links), ["var/www/y"]);
    }
}
