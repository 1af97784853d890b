//! The copying itself, in the child.

use std::fmt;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, anyhow};

use crate::event::Progress;
use crate::manifest;
use crate::model::{RunId, Sha256};
use crate::ops::isolate::{At, Reply};
use crate::ops::verify::{Depth, Report, check_sums, read_manifest, verify};
use crate::ops::{publish, sample};
use crate::target::{Cache, Stage, Target};

/// Stands in the chain of an error that came from where the backup was read, not from where it goes.
#[derive(Debug)]
pub struct AtSource;

impl fmt::Display for AtSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backup could not be copied")
    }
}

/// Copies a backup: every byte is digested on its way and compared with the manifest before the copy is published.
/// `depth` is how closely it is read back; not at all without one.
pub(in crate::ops) fn copy(
    from: &At,
    to: &At,
    locations: &[String],
    run: &RunId,
    depth: Option<Depth>,
    progress: &Progress,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    let (source, target) = (from.open()?, to.open()?);
    target.probe()?;
    let manifest = read_manifest(source.as_ref(), &from.location).context(AtSource)?;
    if manifest.run_id != *run {
        let message =
            format!("target {}: {} holds run {}, not {run}", from.target, from.location, manifest.run_id);
        return Err(anyhow!(message).context(AtSource));
    }
    // Those are copied as they are: damage would be found in the copy only, and blamed on it.
    let mut sums = Report::default();
    check_sums(source.as_ref(), &from.location, &manifest, &mut sums).context(AtSource)?;
    if let Err(problems) = sums.result() {
        return Err(anyhow!("target {}: {problems}", from.target).context(AtSource));
    }
    let mut stage = target.stage(run, locations)?;
    let staged =
        copy_files(source.as_ref(), &from.location, stage.as_mut(), &manifest, progress).and_then(|bytes| {
            publish::publish(stage.as_mut(), locations, publishing).map(|location| (bytes, location))
        });
    let (bytes, location) = match staged {
        Ok(done) => done,
        Err(e) => {
            let _ = stage.abandon(); // the error to report is the first one; the next attempt cleans up
            return Err(e);
        }
    };
    let Some(depth) = depth else { return Ok(Reply::Copied { location, bytes }) };
    let read_back = verify(target.as_ref(), &location, run, depth, progress)
        .and_then(|report| report.result().map_err(|problems| anyhow!("{problems}")))
        .and_then(|()| match depth {
            // The original is at hand: what is read of large files is compared with it too.
            Depth::Sample => sample::compare(
                (source.as_ref(), &from.location),
                (target.as_ref(), &location),
                &manifest,
                progress,
            ),
            _ => Ok(()),
        });
    match read_back {
        Ok(()) => Ok(Reply::Copied { location, bytes }),
        Err(e) => {
            // It stays in the queue, so that a better one is made; this one must not be found meanwhile.
            let _ = target.remove(&location, run); // the error to report is the first one
            Err(e.context("the copy could not be read back as it was written"))
        }
    }
}

/// Copies all files; gives the bytes of those that a backup's size counts, as [`manifest::Manifest::stored_bytes`].
fn copy_files(
    source: &dyn Target,
    location: &str,
    stage: &mut dyn Stage,
    manifest: &manifest::Manifest,
    progress: &Progress,
) -> Result<u64> {
    let mut total = 0;
    for stored in manifest.files() {
        let (bytes, digest) = copy_file(source, location, stage, &stored.file, progress)?;
        if bytes != stored.bytes || digest != stored.sha256 {
            let message = format!(
                "target {}: {} in {location} is damaged ({bytes} bytes, digest {digest}): it was not copied",
                source.name(),
                stored.file
            );
            return Err(anyhow!(message).context(AtSource));
        }
        total += bytes;
    }
    for name in [manifest::RESTORE_FILE, manifest::SUMS_FILE, manifest::FILE] {
        copy_file(source, location, stage, name, progress)?;
    }
    Ok(total)
}

fn copy_file(
    source: &dyn Target,
    location: &str,
    stage: &mut dyn Stage,
    file: &str,
    progress: &Progress,
) -> Result<(u64, Sha256)> {
    let mut input = source.open(location, file, Cache::Warm).context(AtSource)?;
    let mut output = stage.create(file)?;
    if let Ok(length) = input.read_at().length() {
        output.expect(length);
    }
    let mut digest = <sha2::Sha256 as sha2::Digest>::new();
    // Small enough to show that a slow target goes on.
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                let describe = || format!("target {}: reading {file}", source.name());
                return Err(e).with_context(describe).context(AtSource);
            }
        };
        output.write_all(&buffer[..got])?;
        sha2::Digest::update(&mut digest, &buffer[..got]);
        bytes += got as u64;
        progress.add_stored(got as u64);
    }
    output.finish(bytes)?;
    Ok((bytes, Sha256(sha2::Digest::finalize(digest).into())))
}
