//! Reads a stored backup back and compares it with its manifest.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::import;
use super::sample;
use super::stored::{Backup, Locked};
use crate::archive::{StreamDecoder, check_tar};
use crate::config::ReadBack;
use crate::crypt::Keyring;
use crate::event::Progress;
use crate::manifest::{self, Component, Kind, Manifest, StoredFile};
use crate::model::{RunId, Sha256};
use crate::target::{Cache, Target, says_nothing_of_content};

/// How closely a backup is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every file is there with its length.
    Lengths,
    /// And small files are read whole, of large ones pieces chosen by chance.
    Sample,
    /// And every byte is read, its digest compared.
    Digests,
    /// And every component is decompressed, its frames, entries and bytes counted.
    Deep,
}

impl Depth {
    /// How closely a target's backups are read back; none where they are not.
    pub fn of(read_back: ReadBack) -> Option<Depth> {
        match read_back {
            ReadBack::Full => Some(Depth::Digests),
            ReadBack::Sample => Some(Depth::Sample),
            ReadBack::Never => None,
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Files looked at.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, a sentence each; empty for a good backup.
    pub problems: Vec<String>,
    /// Files that were to be decompressed and were not, since a program packed them that this one does not replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_unpacked: Vec<String>,
}

impl Report {
    /// Notes what an attempt to read says of the backup. An error when it says nothing of it: a target that went away
    /// in the middle is no damage, and a backup that counts as damaged may be removed.
    fn problem(&mut self, target: &dyn Target, location: &str, error: anyhow::Error) -> Result<()> {
        if error.is::<crate::event::Interrupted>() || says_nothing_of_content(&error) {
            return Err(error);
        }
        // A disk that is gone answers like a damaged one.
        target.probe_readable(location)?;
        self.problems.push(format!("{error:#}"));
        Ok(())
    }

    /// `Ok` for a good backup, else all problems as one sentence.
    pub fn result(&self) -> Result<(), String> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems.join("; ")) }
    }
}

/// Reads the manifest of a backup.
pub fn read_manifest(target: &dyn Target, location: &str) -> Result<Manifest> {
    let mut bytes = Vec::new();
    target
        .open(location, manifest::FILE, Cache::Cold)?
        .read_to_end(&mut bytes)
        .with_context(|| format!("target {}: reading the manifest in {location}", target.name()))?;
    Manifest::parse(&bytes).with_context(|| format!("target {}: {location}", target.name()))
}

/// Compares a backup with its manifest. An error means that it could not be looked at; what is wrong with
/// it stands in the report.
pub fn verify(
    target: &dyn Target,
    location: &str,
    run: &RunId,
    depth: Depth,
    progress: &Progress,
) -> Result<Report> {
    verify_with(target, location, run, depth, &Arc::default(), progress)
}

/// The same with keys, which an encrypted backup needs to be looked at deeply; without one that fits, that is an
/// error and says nothing of the backup.
pub fn verify_with(
    target: &dyn Target,
    location: &str,
    run: &RunId,
    depth: Depth,
    keys: &Arc<Keyring>,
    progress: &Progress,
) -> Result<Report> {
    let mut report = Report::default();
    // A target that is away is no damage of the backup.
    target.probe_readable(location)?;
    let manifest = match read_manifest(target, location) {
        Ok(manifest) => manifest,
        Err(e) => {
            report.problem(target, location, e)?;
            return Ok(report);
        }
    };
    if manifest.run_id != *run {
        report.problems.push(format!("the manifest is that of run {}, not {run}", manifest.run_id));
        return Ok(report);
    }
    let mut backup = Backup::of(target, location, manifest);
    if depth == Depth::Deep {
        backup = backup
            .with_keys(Arc::clone(keys))
            .context("it can be looked at deeply with its key only; all digests are compared without one")?;
    }
    let manifest = &backup.manifest;
    check_sums(target, location, manifest, &mut report)?;
    for stored in manifest.files() {
        report.files += 1;
        let found = match depth {
            Depth::Lengths => length(target, location, &stored.file).map(|length| (length, None)),
            Depth::Sample if stored.bytes > sample::SMALL => {
                sample::look(target, location, manifest, &stored, progress).map(|looked| {
                    report.bytes += looked.read;
                    (looked.length, None)
                })
            }
            _ => digest(target, location, &stored.file, progress).map(|(length, d)| (length, Some(d))),
        };
        match found {
            Err(e) => report.problem(target, location, e)?,
            Ok((length, _)) if length != stored.bytes => {
                report
                    .problems
                    .push(format!("{} has {length} bytes, {} were written", stored.file, stored.bytes));
            }
            Ok((length, Some(found))) => {
                report.bytes += length;
                if found != stored.sha256 {
                    report
                        .problems
                        .push(format!("{} has digest {found}, {} was written", stored.file, stored.sha256));
                }
            }
            Ok((_, None)) => {}
        }
    }
    if depth == Depth::Deep && report.problems.is_empty() {
        for component in &manifest.components {
            match check_content(&backup, component, progress) {
                Err(e) if e.is::<Locked>() => return Err(e),
                Err(_) if progress.is_cancelled() => return Err(crate::event::Interrupted.into()),
                Err(e) => report.problem(target, location, e.context(component.file.clone()))?,
                Ok(()) => {}
            }
        }
    }
    Ok(report)
}

/// Compares files that another program stored with what they were when they were imported; looked at deeply, they are
/// decompressed to their end.
pub fn verify_files(
    target: &dyn Target,
    location: &str,
    files: &[StoredFile],
    depth: Depth,
    progress: &Progress,
) -> Result<Report> {
    let mut report = Report::default();
    target.probe_readable(location)?;
    for known in files {
        report.files += 1;
        match digest(target, location, &known.file, progress) {
            Err(e) => report.problem(target, location, e)?,
            Ok((length, _)) if length != known.bytes => {
                report.problems.push(format!("{} has {length} bytes, it had {}", known.file, known.bytes));
            }
            Ok((length, found)) => {
                report.bytes += length;
                if found != known.sha256 {
                    report.problems.push(format!(
                        "{} has digest {found}, it had {} when it was imported",
                        known.file, known.sha256
                    ));
                }
            }
        }
        if depth == Depth::Deep && report.problems.is_empty() {
            match import::look_into(target, location, &known.file, progress) {
                Ok(true) => {}
                Ok(false) => report.not_unpacked.push(known.file.clone()),
                Err(_) if progress.is_cancelled() => return Err(crate::event::Interrupted.into()),
                Err(e) => report.problem(target, location, e)?,
            }
        }
    }
    Ok(report)
}

fn length(target: &dyn Target, location: &str, file: &str) -> Result<u64> {
    let stored = target.open(location, file, Cache::Warm)?;
    stored.read_at().length().with_context(|| format!("looking at {file}"))
}

fn digest(target: &dyn Target, location: &str, file: &str, progress: &Progress) -> Result<(u64, Sha256)> {
    let mut stored = target.open(location, file, Cache::Cold)?;
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        if progress.is_cancelled() {
            return Err(crate::event::Interrupted.into());
        }
        match stored.read(&mut buffer) {
            Ok(0) => return Ok((length, Sha256(digest.finalize().into()))),
            Ok(got) => {
                digest.update(&buffer[..got]);
                length += got as u64;
                progress.add_source(got as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("reading {file} at byte {length}")),
        }
    }
}

/// `SHA256SUMS` must say what the manifest says: people restore by it.
pub(super) fn check_sums(
    target: &dyn Target,
    location: &str,
    manifest: &Manifest,
    report: &mut Report,
) -> Result<()> {
    let mut text = String::new();
    let read = target
        .open(location, manifest::SUMS_FILE, Cache::Cold)
        .and_then(|mut file| file.read_to_string(&mut text).context("reading SHA256SUMS"));
    if let Err(e) = read {
        return report.problem(target, location, e);
    }
    let listed: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once("  ").map(|(sum, file)| (file, sum))).collect();
    for stored in manifest.files() {
        if listed.get(stored.file.as_str()) != Some(&stored.sha256.to_string().as_str()) {
            report.problems.push(format!("SHA256SUMS and the manifest do not agree on {}", stored.file));
        }
    }
    match (
        listed.get(manifest::RESTORE_FILE),
        digest(target, location, manifest::RESTORE_FILE, &Progress::default()),
    ) {
        (Some(sum), Ok((_, found))) if **sum == found.to_string() => {}
        (_, Err(e)) => report.problem(target, location, e)?,
        _ => report.problems.push(format!("{} is not what was written", manifest::RESTORE_FILE)),
    }
    Ok(())
}

/// Decompresses a component to its end and compares what is in it.
fn check_content(backup: &Backup<'_>, component: &Component, progress: &Progress) -> Result<()> {
    let stored = Watched::new(backup.file(&component.file)?, progress);
    let (stored, _) = backup.sequential_of(stored, &component.file)?;
    let mut compressed = Counting { source: stored, read: 0 };
    let mut decoder = StreamDecoder::new(&mut compressed, backup.manifest.codec);
    match component.kind {
        Kind::Stream => {
            let raw = io::copy(&mut decoder, &mut io::sink()).context("decompressing")?;
            equal("bytes", raw, component.raw_bytes)?;
        }
        Kind::Tar => {
            let found = check_tar(&mut decoder)?;
            equal("entries", found.entries, component.entries)?;
            equal("bytes", found.raw_bytes, component.raw_bytes)?;
        }
    }
    drop(decoder);
    if component.index.is_none() {
        return Ok(());
    }
    let index = backup.index(component)?;
    let reader = index.reader()?;
    let (mut frames, mut entries, mut stored) = (0, 0, 0);
    reader.for_each(|frame, found| {
        frames += 1;
        entries += found.len() as u64;
        stored += u64::from(frame.stored);
        Ok(())
    })?;
    equal("frames in the index", frames, component.frames)?;
    equal("entries in the index", entries, component.entries)?;
    let length = compressed.read;
    anyhow::ensure!(stored == length, "{stored} bytes of frames in the index, the archive has {length}");
    Ok(())
}

/// Counts what is read.
struct Counting<R> {
    source: R,
    read: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.read += got as u64;
        Ok(got)
    }
}

/// A stored file whose reading is counted, and ends when it is asked to.
pub(super) struct Watched<'a, R> {
    stored: R,
    progress: &'a Progress,
}

impl<'a, R> Watched<'a, R> {
    pub(super) fn new(stored: R, progress: &'a Progress) -> Self {
        Self { stored, progress }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other(crate::event::Interrupted));
        }
        let got = self.stored.read(buffer)?;
        self.progress.add_source(got as u64);
        Ok(got)
    }
}

fn equal(what: &str, found: u64, expected: u64) -> Result<()> {
    anyhow::ensure!(found == expected, "{found} {what}, the manifest says {expected}");
    Ok(())
}
