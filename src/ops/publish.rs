//! From staged components to a visible backup: sums, instructions, manifest, rename.

use anyhow::{Result, bail};
use sha2::Digest;

use super::restore_text::restore_text;
use crate::failpoint;
use crate::manifest::{self, Manifest, StoredFile};
use crate::model::Sha256;
use crate::target::{Published, Stage};

/// Writes what describes a backup into its staging place. The manifest is the last file; beside encrypted files
/// it names no path of the source.
pub fn describe(stage: &mut dyn Stage, manifest: &Manifest) -> Result<()> {
    let text = restore_text(manifest);
    let mut files: Vec<StoredFile> = manifest.files().collect();
    files.push(write(stage, manifest::RESTORE_FILE, text.as_bytes())?);
    write(stage, manifest::SUMS_FILE, sums(&files).as_bytes())?;
    write(stage, manifest::FILE, &manifest.without_paths().to_bytes())?;
    Ok(())
}

/// `SHA256SUMS` as coreutils reads it.
pub fn sums(files: &[StoredFile]) -> String {
    files.iter().map(|f| format!("{}  {}\n", f.sha256, f.file)).collect()
}

fn write(stage: &mut dyn Stage, name: &str, bytes: &[u8]) -> Result<StoredFile> {
    let mut file = stage.create(name)?;
    file.write_all(bytes)?;
    file.finish(bytes.len() as u64)?;
    let sha256 = Sha256(sha2::Sha256::digest(bytes).into());
    Ok(StoredFile { file: name.to_owned(), sha256, bytes: bytes.len() as u64 })
}

/// Publishes at the first of `locations` that is free and gives it. `record` is told each location before it
/// is tried: after a crash between the rename and the end of the run, that record finds the folder.
pub fn publish(
    stage: &mut dyn Stage,
    locations: &[String],
    record: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<String> {
    let settled: Option<Vec<String>> = stage.settled().map(|location| vec![location.to_owned()]);
    for location in settled.as_deref().unwrap_or(locations) {
        failpoint::hit("record-location")?;
        record(location)?;
        failpoint::hit("recorded-location")?;
        if stage.publish(location)? == Published::Done {
            return Ok(location.clone());
        }
    }
    bail!("every name for the backup is taken: {}", locations.join(", "))
}
