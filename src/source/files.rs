//! Files and folders.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::{Capture, Context, Part, RANK_FILES, Ready, Source};
use crate::archive::TreeSpec;
use crate::config::{FilesConfig, Unreadable};
use crate::manifest::{Content, Kind};
use crate::model::ComponentName;

/// Files and folders, walked by the engine.
#[derive(Debug)]
pub struct FilesSource {
    name: ComponentName,
    config: FilesConfig,
}

impl FilesSource {
    /// Makes the source; nothing is looked at yet.
    pub fn new(name: ComponentName, config: FilesConfig) -> Self {
        Self { name, config }
    }
}

/// Refuses a root that cannot be read. A symbolic link counts as what it names: the engine captures both.
fn check_root(path: &Path) -> anyhow::Result<()> {
    ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
    let meta = fs::metadata(path).with_context(|| match fs::read_link(path) {
        Ok(to) => {
            format!("{} is a symbolic link to {}, which cannot be backed up", path.display(), to.display())
        }
        Err(_) => format!("{} cannot be backed up", path.display()),
    })?;
    if meta.is_dir() {
        // The first entry is asked for too: a dead network mount opens, and fails here.
        fs::read_dir(path).and_then(|mut entries| entries.next().transpose().map(drop))
    } else if meta.is_file() {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map(drop)
    } else {
        bail!("{} is neither a file nor a folder", path.display());
    }
    .with_context(|| format!("{} cannot be read", path.display()))
}

/// Refuses a path that lies inside another one: it would stand in the archive twice.
fn check_overlap(paths: &[PathBuf]) -> anyhow::Result<()> {
    for (i, a) in paths.iter().enumerate() {
        for b in &paths[i + 1..] {
            ensure!(a != b, "paths names {} twice", a.display());
            for (outer, inner) in [(a, b), (b, a)] {
                ensure!(
                    !inner.starts_with(outer),
                    "paths names {}, which lies inside {}: name the outer one only",
                    inner.display(),
                    outer.display()
                );
            }
        }
    }
    Ok(())
}

impl Source for FilesSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "files"
    }

    fn preflight(&self, _: &Context) -> anyhow::Result<Ready> {
        ensure!(!self.config.paths.is_empty(), "paths names nothing to back up");
        check_overlap(&self.config.paths)?;
        self.config.paths.iter().try_for_each(|path| check_root(path))?;
        Ok(Ready::whole(Part::whole(&self.name, "tar", Kind::Tar, Content::Files)))
    }

    fn open(&self, _: &Part, _: &Context) -> anyhow::Result<Capture> {
        let config = self.config.clone();
        Ok(Capture::Tree(TreeSpec {
            roots: config.paths,
            exclude: config.exclude,
            exclude_caches: config.exclude_caches,
            exclude_if_present: config.exclude_if_present,
            one_file_system: config.one_file_system,
            ..TreeSpec::default()
        }))
    }

    fn unreadable(&self) -> Unreadable {
        self.config.unreadable
    }

    fn allow_empty(&self) -> bool {
        self.config.allow_empty
    }

    fn rank(&self) -> u8 {
        RANK_FILES
    }
}
