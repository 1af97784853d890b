//! A drill for a key: does the one somebody holds open the newest backup?

use std::io::{self, Read};

use anyhow::{Context, Result};

use super::stored::{Backup, Locked};
use crate::archive::{FrameReader, FrameRecord};
use crate::event::{Interrupted, Progress};
use crate::manifest::{Component, Kind};
use crate::model::ComponentName;

/// Frames of an archive that are read: the first, the last, and some between them.
const FRAMES: u64 = 16;
/// Content bytes of a stream that are read from its beginning.
const BEGINNING: u64 = 4 << 20;

/// What a key opened.
#[derive(Debug)]
pub struct Checked {
    /// For each component the content bytes that were read.
    pub components: Vec<(ComponentName, u64)>,
    /// What is wrong, a sentence each. With damage it is not the key's fault.
    pub problems: Vec<String>,
}

/// Opens each component of a backup with the keys it was opened with: headers, indexes and lists of warnings, some
/// frames from the first to the last, and the end. What is wrong stands in the result; an error means that this
/// could not be tried.
pub fn check(backup: &Backup<'_>, progress: &Progress) -> Result<Checked> {
    let mut checked = Checked { components: Vec::new(), problems: Vec::new() };
    for component in &backup.manifest.components {
        let read = match component.kind {
            Kind::Tar => tree(backup, component, progress),
            Kind::Stream => stream(backup, component),
        };
        let read = read.and_then(|bytes| backup.warnings(component).map(|_| bytes));
        match read {
            Ok(bytes) => checked.components.push((component.name.clone(), bytes)),
            Err(e) if e.is::<Interrupted>() => return Err(e),
            Err(e) => {
                let locked = e.is::<Locked>();
                checked.problems.push(format!("component {}: {e:#}", component.name));
                if locked {
                    break; // the others are encrypted alike
                }
            }
        }
    }
    Ok(checked)
}

fn tree(backup: &Backup<'_>, component: &Component, progress: &Progress) -> Result<u64> {
    let index = backup.checked_index(component)?;
    let step = (component.frames / FRAMES).max(1);
    let mut chosen: Vec<FrameRecord> = Vec::new();
    let mut last = None;
    index.reader()?.for_each(|frame, _| {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        if frame.frame % step == 0 {
            chosen.push(*frame);
        }
        last = Some(*frame);
        Ok(())
    })?;
    chosen.extend(last.filter(|last| chosen.last().is_none_or(|chosen| chosen.frame != last.frame)));
    let stored = backup.content(&component.file)?;
    let mut frames = FrameReader::new(stored.read_at(), backup.manifest.codec, chosen)?;
    io::copy(&mut frames, &mut io::sink()).with_context(|| format!("reading {}", component.file))
}

fn stream(backup: &Backup<'_>, component: &Component) -> Result<u64> {
    let (decoder, _) = backup.stream(component)?;
    let read = io::copy(&mut decoder.take(BEGINNING), &mut io::sink())
        .with_context(|| format!("reading {}", component.file))?;
    let stored = backup.content(&component.file)?;
    let ending = || format!("reading the end of {}", component.file);
    let length = stored.read_at().length().with_context(ending)?;
    stored.read_at().read_exact_at(length.saturating_sub(1), length.min(1) as usize).with_context(ending)?;
    Ok(read)
}
