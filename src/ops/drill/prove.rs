//! A backup restored and compared, in the child process that touches the target.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component as Part, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::archive::{EntryKind, IndexEntry, RestoreOptions};
use crate::crypt::KeyFiles;
use crate::event::{Interrupted, Progress};
use crate::fsutil;
use crate::manifest::{self, Component, Content, Kind, PathText};
use crate::model::{ByteSize, ComponentName, RunId, Sha256};
use crate::ops::isolate::At;
use crate::ops::restore::{Destination, Wanted, restore};
use crate::ops::stored::Backup;

/// How many problems of one kind are told; more are counted.
const SHOWN: usize = 10;
/// Room that must be left beside what is restored.
const SPARE: u64 = 64 << 20;
/// What an entry takes beside its content.
const ENTRY: u64 = 4096;
/// So many files are drawn for each that is to be compared: some will have changed.
const DRAWN: usize = 8;

/// What a restore proved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Milliseconds until everything was restored into files; none when that was not tried.
    pub restore_ms: Option<u64>,
    /// Content bytes restored.
    pub bytes: u64,
    /// Entries restored.
    pub entries: u64,
    /// Files compared with the live source.
    pub compared: u64,
    /// Files drawn that changed at the source since.
    pub changed: u64,
    /// Where each stream (a dump, a database) was restored to.
    pub streams: BTreeMap<ComponentName, Stream>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// A stream that was restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub content: Content,
    /// The databases in it, by their own names, where they are known.
    pub databases: Vec<String>,
}

/// Restores the backup of `run` into a folder for each component below `folder`, counts what is there against
/// index and manifest, and compares up to `sample` files with the live ones. An error means that the backup
/// could not be looked at; what is wrong with it stands in the proof.
pub fn prove(
    at: &At,
    run: &RunId,
    folder: &Path,
    sample: usize,
    keys: &KeyFiles,
    progress: &Arc<Progress>,
) -> Result<Proof> {
    let target = at.open()?;
    target.probe_readable(&at.location)?;
    let keys = Arc::new(keys.read()?);
    let backup = Backup::open(target.as_ref(), &at.location, run)?.with_keys(Arc::clone(&keys))?;
    let mut proof = Proof::default();
    if let Some(problem) = no_room(&backup, folder)? {
        proof.problems.push(problem);
        return Ok(proof);
    }
    let options = RestoreOptions {
        overwrite: false,
        allow_setid: false,
        devices: false,
        owners: rustix::process::geteuid().is_root(),
        numeric_owner: false,
        sync: false,
        keep_going: true,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        progress: Arc::clone(progress),
    };
    let begun = Instant::now();
    // Why these are not there is told by their restore.
    let mut lost: HashSet<(ComponentName, PathText)> = HashSet::new();
    for component in &backup.manifest.components {
        let to = folder.join(component.name.as_str());
        let wanted = Wanted {
            component: Some(component.name.clone()),
            paths: Vec::new(),
            to: Destination::Folder(to),
            force: false,
            keys: Arc::clone(&keys),
        };
        match restore(target.as_ref(), &at.location, run, &wanted, &options) {
            Err(e) if progress.is_cancelled() => return Err(e),
            Err(e) => proof.problems.push(format!("{e:#}")),
            Ok(restored) => {
                for (name, _, summary) in restored.components {
                    proof.bytes += summary.bytes;
                    proof.entries += summary.entries;
                    let told = summary.problems.iter().map(|(path, why)| {
                        format!("component {name}: {} was not restored: {why}", path.display())
                    });
                    tell(&mut proof.problems, told, summary.problems.len());
                    lost.extend(summary.problems.into_iter().map(|(path, _)| (name.clone(), path)));
                }
            }
        }
    }
    proof.restore_ms = Some(begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
    for component in &backup.manifest.components {
        let to = folder.join(component.name.as_str());
        match component.kind {
            Kind::Stream => stream(&backup, component, &to, &mut proof),
            Kind::Tar => tree(&backup, component, &to, sample, progress, &lost, &mut proof)?,
        }
    }
    Ok(proof)
}

/// The first few of many problems, and how many more there are.
fn tell(problems: &mut Vec<String>, all: impl Iterator<Item = String>, count: usize) {
    problems.extend(all.take(SHOWN));
    if count > SHOWN {
        problems.push(format!("… and {} more of this kind", count - SHOWN));
    }
}

fn no_room(backup: &Backup<'_>, folder: &Path) -> Result<Option<String>> {
    let needed: u64 = backup
        .manifest
        .components
        .iter()
        .map(|c| match c.kind {
            Kind::Stream => c.raw_bytes,
            Kind::Tar => c.source_bytes + c.entries * ENTRY,
        })
        .sum();
    let (_, free) = fsutil::space(folder)
        .with_context(|| format!("asking for the free space of {}", folder.display()))?;
    let needed = needed + SPARE;
    Ok((free < needed).then(|| {
        format!(
            "there is no room for a drill: {} are needed in {}, {} are free; set `drill.scratch` to a folder with more",
            ByteSize(needed),
            folder.parent().unwrap_or(folder).display(),
            ByteSize(free)
        )
    }))
}

fn stream(backup: &Backup<'_>, component: &Component, to: &Path, proof: &mut Proof) {
    let path = to.join(backup.manifest.plain_name(component));
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() && found.len() == component.raw_bytes => {
            let (content, databases) = (component.content, component.databases.clone());
            proof.streams.insert(component.name.clone(), Stream { path, content, databases });
        }
        Ok(found) => proof.problems.push(format!(
            "component {}: {} bytes came back, {} were backed up",
            component.name,
            found.len(),
            component.raw_bytes
        )),
        // Why it is not there was told by its restore.
        Err(_) => {}
    }
}

/// Counts what is there of a tree against its index, and draws files to be compared.
fn tree(
    backup: &Backup<'_>,
    component: &Component,
    to: &Path,
    sample: usize,
    progress: &Progress,
    lost: &HashSet<(ComponentName, PathText)>,
    proof: &mut Proof,
) -> Result<()> {
    let index = match backup.checked_index(component) {
        Ok(index) => index,
        Err(e) => {
            proof.problems.push(format!("component {}: {e:#}", component.name));
            return Ok(());
        }
    };
    let unsure: HashSet<PathText> = match backup.warnings(component) {
        Ok(warnings) => warnings.into_iter().map(|warning| warning.path).collect(),
        Err(e) => {
            proof.problems.push(format!("component {}: {e:#}", component.name));
            HashSet::new()
        }
    };
    let (mut entries, mut wrong, mut count) = (0_u64, Vec::new(), 0);
    let mut drawn: Vec<PathBuf> = Vec::new();
    let mut candidates = 0_usize;
    index.reader()?.for_each(|_, found| {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        for entry in found {
            entries += 1;
            if let Err(why) = came_back(to, &entry) {
                if lost.contains(&(component.name.clone(), entry.path.clone())) {
                    continue;
                }
                count += 1;
                if wrong.len() < SHOWN {
                    wrong.push(format!("component {}: {}: {why}", component.name, entry.path.display()));
                }
                continue;
            }
            let of_archive_only = entry.path.0.starts_with(manifest::ARCHIVE_ONLY.as_bytes());
            if sample == 0 || entry.kind != EntryKind::File || of_archive_only || unsure.contains(&entry.path)
            {
                continue;
            }
            // Each file has the same chance, however many there are.
            candidates += 1;
            let path = PathBuf::from(OsStr::from_bytes(&entry.path.0));
            if drawn.len() < sample * DRAWN {
                drawn.push(path);
            } else {
                let place = rand::random_range(0..candidates);
                if place < drawn.len() {
                    drawn[place] = path;
                }
            }
        }
        Ok(())
    })?;
    if entries != component.entries {
        proof.problems.push(format!(
            "component {}: its index has {entries} entries, the manifest says {}",
            component.name, component.entries
        ));
    }
    tell(&mut proof.problems, wrong.into_iter(), count);
    let mut left = sample;
    // As many as fit into a full sample are in the order of the archive: not only its beginning counts.
    while left > 0 && !drawn.is_empty() {
        let path = drawn.swap_remove(rand::random_range(0..drawn.len()));
        match compare(&to.join(&path), &Path::new("/").join(&path), progress)? {
            Compared::Same => {
                proof.compared += 1;
                left -= 1;
            }
            Compared::Changed => proof.changed += 1,
            Compared::Different => {
                proof.compared += 1;
                left -= 1;
                proof.problems.push(format!(
                    "component {}: /{} came back with another content than the live file, which has the same size and time of change",
                    component.name,
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

/// Whether an entry is where it should be, of its kind and length.
fn came_back(to: &Path, entry: &IndexEntry) -> Result<(), String> {
    let name = entry.path.0.strip_suffix(b"/").unwrap_or(&entry.path.0);
    let path = Path::new(OsStr::from_bytes(name));
    if !path.components().all(|part| matches!(part, Part::Normal(_))) {
        return Err("the path leads out of the folder".to_owned());
    }
    let found = fs::symlink_metadata(to.join(path)).map_err(|e| format!("it is not there: {e}"))?;
    let kind = found.file_type();
    let fits = match entry.kind {
        EntryKind::File | EntryKind::Hardlink => kind.is_file(),
        EntryKind::Dir => kind.is_dir(),
        EntryKind::Symlink => kind.is_symlink(),
    };
    match fits {
        false => Err("something else than was backed up is there".to_owned()),
        true if entry.kind == EntryKind::File && found.len() != entry.size => {
            Err(format!("{} bytes are there, {} were backed up", found.len(), entry.size))
        }
        true => Ok(()),
    }
}

/// How a restored file compares with the live one.
enum Compared {
    Same,
    /// The live one is another by now, or gone.
    Changed,
    Different,
}

fn compare(restored: &Path, live: &Path, progress: &Progress) -> Result<Compared> {
    let looks = |one: &Metadata, other: &Metadata| {
        one.is_file()
            && other.is_file()
            && (one.len(), one.mtime(), one.mtime_nsec()) == (other.len(), other.mtime(), other.mtime_nsec())
    };
    let look = |path: &Path| fs::symlink_metadata(path).ok();
    let Some(back) = look(restored) else { return Ok(Compared::Changed) };
    let Some(before) = look(live).filter(|live| looks(&back, live)) else { return Ok(Compared::Changed) };
    let Some(there) = digest(live, progress)? else { return Ok(Compared::Changed) };
    let here = digest(restored, progress)?;
    let same_time = look(live).is_some_and(|after| looks(&before, &after) && after.ctime() == before.ctime());
    Ok(match (here == Some(there), same_time) {
        (true, _) => Compared::Same,
        (false, true) => Compared::Different,
        (false, false) => Compared::Changed,
    })
}

/// None for a file that cannot be read: it is none to be compared with.
fn digest(path: &Path, progress: &Progress) -> Result<Option<Sha256>> {
    let opened =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let Ok(mut file): std::io::Result<File> = opened else { return Ok(None) };
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(Sha256(digest.finalize().into()))),
            Ok(got) => {
                digest.update(&buffer[..got]);
                progress.add_source(got as u64);
            }
            Err(_) => return Ok(None),
        }
    }
}
