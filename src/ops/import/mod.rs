//! Archives that another program made, as backups that are read and never changed.
//!
//! | file | what it does |
//! | --- | --- |
//! | `find` | which files are archives, and which of them are one backup |
//! | `date` | when a backup was taken, by the names of its folders and files |
//! | `restore` | files out of such archives |
//! | `look` | what is in them |

mod date;
mod find;
mod look;
mod restore;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::Digest;

pub use find::{Found, Kind, find, kind_of};
pub use look::{Archives, Listing, is_tree, look_into, name_of};
pub use restore::{Brought, restore};

use super::{Agent, open_target};
use crate::event::{Interrupted, Progress};
use crate::model::{JobName, RunId, Sha256, TargetName};
use crate::state::{Copy, CopyStatus, ImportedFile, ImportedRun};
use crate::target::{Cache, Target, says_nothing_of_content};

/// What an import did, or would do.
#[derive(Debug, Default)]
pub struct Imported {
    /// The target the archives belong to.
    pub target: Option<TargetName>,
    /// Backups that are new, oldest first, with their bytes.
    pub new: Vec<(Found, RunId)>,
    /// Backups that were imported before.
    pub known: usize,
    /// Imported before, and removed by whoever made them.
    pub gone: Vec<RunId>,
    /// Files that were passed over, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Finds the archives below `folder`, which must lie in a target, and records those that are new as backups of
/// `job`: each is read for its digest, and decompressed to its end. With `dry` nothing is read or recorded.
pub fn import(
    agent: &Agent,
    folder: &Path,
    job: &JobName,
    target: Option<&TargetName>,
    dry: bool,
    progress: &Progress,
) -> Result<Imported> {
    let zone = agent.config.job_timezone(agent.job(job)?);
    let folder = folder.canonicalize().with_context(|| format!("opening {}", folder.display()))?;
    let (name, top) = home_of(agent, &folder, target)?;
    let found = find(&top, &folder, zone, agent.now())?;
    let mut imported = Imported { target: Some(name.clone()), skipped: found.skipped, ..Imported::default() };
    let before: Vec<Copy> =
        agent.state.copies(None, Some(&name))?.into_iter().filter(|copy| copy.imported).collect();
    let known: BTreeSet<&RunId> =
        before.iter().filter(|copy| copy.status != CopyStatus::Expired).map(|copy| &copy.run_id).collect();
    for backup in found.backups {
        let id = run_id(&backup);
        match known.contains(&id) {
            true => imported.known += 1,
            false => imported.new.push((backup, id)),
        }
    }
    for copy in before.iter().filter(|copy| copy.status != CopyStatus::Expired) {
        if is_gone(agent, copy, &top, &folder)? {
            imported.gone.push(copy.run_id.clone());
        }
    }
    if dry {
        return Ok(imported);
    }
    let store = open_target(&name, agent.target(&name)?)?;
    for (backup, run_id) in std::mem::take(&mut imported.new) {
        let (mut files, passed_over) = (Vec::new(), imported.skipped.len());
        for (file, _) in &backup.files {
            files.push(read(store.as_ref(), &backup.location, file, progress)?);
            // What cannot be restored is no backup, and must not count as the newest one.
            if let Err(e) = look_into(store.as_ref(), &backup.location, file, progress) {
                if progress.is_cancelled() || says_nothing_of_content(&e) {
                    return Err(e);
                }
                imported
                    .skipped
                    .push((top.join(&backup.location).join(file), format!("it is no backup: {e:#}")));
            }
        }
        if imported.skipped.len() > passed_over {
            continue;
        }
        let run = ImportedRun {
            run_id: run_id.clone(),
            taken: backup.taken,
            location: backup.location.clone(),
            files,
        };
        // One by one: what was read stays read when somebody stops it.
        agent.state.import_runs(job, &name, &[run], agent.now())?;
        imported.new.push((backup, run_id));
    }
    for run_id in &imported.gone {
        agent.state.copy_expired(run_id, &name, agent.now())?;
    }
    Ok(imported)
}

/// The target a folder lies in, and its path: the one named, else the innermost.
fn home_of(agent: &Agent, folder: &Path, target: Option<&TargetName>) -> Result<(TargetName, PathBuf)> {
    let mut around = Vec::new();
    for (name, config) in &agent.config.target {
        if target.is_some_and(|target| target != name) {
            continue;
        }
        if let Some(top) = config.folder().and_then(|top| top.canonicalize().ok())
            && folder.starts_with(&top)
        {
            around.push((name.clone(), top));
        }
    }
    if let Some(target) = target {
        agent.target(target)?;
    }
    around.into_iter().max_by_key(|(_, top)| top.components().count()).with_context(|| {
        let above = folder.parent().unwrap_or(folder);
        format!(
            "{} lies in no target{}: say in the configuration where it belongs, such as\n  [target.old]\n  type = \"directory\"\n  path = {:?}\n(no job needs to use it: then nothing is ever written there)",
            folder.display(),
            target.map_or_else(String::new, |target| format!(" {target}")),
            above.display().to_string()
        )
    })
}

/// The same id whenever the same archives are found: made of when and where.
fn run_id(found: &Found) -> RunId {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digest = sha2::Sha256::digest(found.key.as_bytes());
    let tail: String = digest.iter().take(6).map(|byte| DIGITS[usize::from(byte & 31)] as char).collect();
    format!("{}-{tail}", found.taken.format("%Y%m%dT%H%M%SZ"))
        .parse()
        .expect("a time between 1990 and now and six digits are an id")
}

/// Whether an imported backup below `folder` lost a file, or one of its files is another by now: whoever made
/// it goes on removing what is old.
fn is_gone(agent: &Agent, copy: &Copy, top: &Path, folder: &Path) -> Result<bool> {
    let Some(location) = &copy.location else { return Ok(false) };
    let place = top.join(location);
    if !place.starts_with(folder) {
        return Ok(false);
    }
    let files = agent.state.imported_files(&copy.run_id, &copy.target)?;
    for known in files {
        match fs::symlink_metadata(place.join(&known.file)) {
            Ok(found) if found.is_file() && found.len() == known.bytes => {}
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e).with_context(|| format!("looking at {}", place.display())),
        }
    }
    Ok(false)
}

fn read(target: &dyn Target, location: &str, file: &str, progress: &Progress) -> Result<ImportedFile> {
    let mut stored = target.open(location, file, Cache::Cold)?;
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let got = stored.read(&mut buffer).with_context(|| format!("reading {location}/{file}"))?;
        if got == 0 {
            break;
        }
        digest.update(&buffer[..got]);
        bytes += got as u64;
        progress.add_source(got as u64);
    }
    if bytes == 0 {
        bail!("{location}/{file} is empty");
    }
    Ok(ImportedFile { file: file.to_owned(), bytes, sha256: Sha256(digest.finalize().into()) })
}
