//! The scratch folder of a drill: private, recorded before it is made, and gone afterwards, also when the
//! drill died.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::DrillConfig;
use crate::model::RunId;
use crate::ops::Agent;

/// How the names of all scratch folders begin.
const PREFIX: &str = "backup-agent-drill-";

/// The folder in which scratch folders are made.
pub(super) fn base(agent: &Agent, config: &DrillConfig) -> Result<PathBuf> {
    let base = match &config.scratch {
        Some(folder) if folder.is_dir() => folder.clone(),
        Some(folder) => {
            bail!("the folder {} for drills does not exist; make it: mkdir -p {0}", folder.display())
        }
        None => {
            let folder = agent.config.state_dir.join("drill");
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(e).with_context(|| format!("making {}", folder.display()));
                }
                _ => folder,
            }
        }
    };
    base.canonicalize().with_context(|| format!("opening {}", base.display()))
}

/// A name nobody can know before.
pub(super) fn name(base: &Path, run: &RunId) -> PathBuf {
    base.join(format!("{PREFIX}{run}-{:08x}", rand::random::<u32>()))
}

/// Makes the folder, for this user only.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making the scratch folder {}", folder.display()))
}

/// Removes the folder, following no links.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let is_one = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !is_one {
        bail!("{} is no scratch folder, it is left alone", folder.display());
    }
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match gone(fs::remove_dir_all(folder)) {
        // Restored folders may be closed even to their owner, which root does not notice.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder);
            gone(fs::remove_dir_all(folder))
        }
        other => other,
    }
    .with_context(|| format!("removing the scratch folder {}", folder.display()))
}

/// Lets the owner into every folder below.
fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(found) = fs::symlink_metadata(folder) else { return };
    if !found.is_dir() || fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}
