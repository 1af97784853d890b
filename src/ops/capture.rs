//! Reads all sources of a job into the staging place.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow, bail};

use crate::archive::{self, Outputs, TreeSpec, capture_stream, capture_tree};
use crate::config::{Limits, OnShrink, Unreadable};
use crate::event::{Event, Level, Observer, is_interruption};
use crate::manifest::{Codec, Component, Kind, StoredFile};
use crate::model::{ByteSize, ComponentName, Outcome, WarningKind};
use crate::source::{Capture, Context, Source};
use crate::state::Baseline;
use crate::target::{Stage, StagedFile};

/// What capturing needs to know beside the sources.
pub struct Plan<'a> {
    /// Compression and load.
    pub options: &'a archive::Options,
    /// Folders that are never captured: targets and state.
    pub skip: Vec<PathBuf>,
    /// Limits on how far a component may shrink.
    pub limits: Limits,
    /// What each component usually holds.
    pub baseline: &'a dyn Fn(&ComponentName) -> Option<Baseline>,
    /// Seconds since 1970, the date of files made up for the archive.
    pub now: i64,
}

/// All components, and how good they are together.
#[derive(Debug)]
pub struct Captured {
    /// In the order of capture.
    pub components: Vec<Component>,
    /// `success`, `warning` or `partial`.
    pub outcome: Outcome,
}

/// The error of one component, which messages name.
#[derive(Debug, thiserror::Error)]
#[error("component {component}")]
pub struct ComponentError {
    /// Which.
    pub component: ComponentName,
    /// Why.
    pub source: anyhow::Error,
}

/// Captures `sources` in their order.
pub fn capture_all(
    sources: &[Box<dyn Source>],
    stage: &mut dyn Stage,
    context: &Context,
    plan: &Plan<'_>,
    observer: &dyn Observer,
) -> Result<Captured> {
    let mut captured = Captured { components: Vec::new(), outcome: Outcome::Success };
    for source in sources {
        let name = source.name().clone();
        let baseline = (plan.baseline)(&name);
        let expected_bytes = baseline.map(|b| b.source_bytes);
        observer.event(&Event::ComponentStarted { component: name.clone(), expected_bytes });
        let component = capture_one(source.as_ref(), stage, context, plan)
            .and_then(|c| check_shrink(&c, baseline, plan.limits, observer).map(|()| c))
            .map_err(|e| ComponentError { component: name.clone(), source: e })?;
        observer.event(&Event::ComponentEnded {
            component: name,
            source_bytes: component.source_bytes,
            stored_bytes: component.stored_bytes,
            warnings: component.warning_counts.total(),
        });
        captured.outcome = worse(captured.outcome, judge(&component, source.unreadable()));
        captured.components.push(component);
    }
    Ok(captured)
}

fn worse(a: Outcome, b: Outcome) -> Outcome {
    let rank = |o: Outcome| Outcome::ALL.iter().position(|x| *x == o);
    if rank(b) > rank(a) { b } else { a }
}

/// How good one component is. Files that could not be read make the backup partial, unless the job said
/// that it can live with that.
fn judge(component: &Component, unreadable: Unreadable) -> Outcome {
    let counts = &component.warning_counts;
    match (counts.get(WarningKind::Unreadable), unreadable) {
        (1.., Unreadable::Fail) => Outcome::Partial,
        _ if counts.total() > 0 => Outcome::Warning,
        _ => Outcome::Success,
    }
}

fn capture_one(
    source: &dyn Source,
    stage: &mut dyn Stage,
    context: &Context,
    plan: &Plan<'_>,
) -> Result<Component> {
    let codec = match plan.options.codec {
        archive::Codec::Zstd(_) => Codec::Zstd,
        archive::Codec::Gzip(_) => Codec::Gzip,
    };
    let file = format!("{}.{}", source.file_name(), codec.extension());
    match source.open(context)? {
        Capture::Tree(mut spec) => {
            spec.skip.extend(plan.skip.iter().cloned());
            let (component, files) = capture_files(source.name(), &spec, file, stage, plan)?;
            if files == 0 && !source.allow_empty() {
                bail!("{}", empty(&spec, &component));
            }
            Ok(component)
        }
        Capture::Stream(mut stream) => {
            let mut out = stage.create(&file)?;
            let read = match capture_stream(stream.reader(), plan.options, &mut out) {
                Ok(read) => {
                    stream.finish()?;
                    read
                }
                Err(e) if is_interruption(&e) => return Err(e),
                // A dump that died explains itself better than the pipe it left behind; a full disk does not
                // become clearer by the complaint of the program whose output nobody took.
                Err(e) if is_write_error(&e) => return Err(e),
                Err(e) => return Err(stream.finish().err().unwrap_or(e)),
            };
            out.finish(read.stored_bytes)?;
            Ok(component(source.name(), Kind::Stream, file, read, None, None))
        }
    }
}

/// An empty source is an unmounted disk or a wrong path far more often than it is right.
fn empty(spec: &TreeSpec, component: &Component) -> String {
    let roots: Vec<String> = spec.roots.iter().map(|root| root.display().to_string()).collect();
    let why = match component.warning_counts.get(WarningKind::Unreadable) {
        0 => "is it mounted, or is everything excluded?".to_owned(),
        unreadable => format!("{unreadable} entries could not be read; run as root, or as their owner?"),
    };
    format!("not one file was found in {}: {why} (`allow_empty = true` if that is right)", roots.join(", "))
}

fn is_write_error(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    })
}

/// The component, and how many regular files are in it.
fn capture_files(
    name: &ComponentName,
    spec: &TreeSpec,
    file: String,
    stage: &mut dyn Stage,
    plan: &Plan<'_>,
) -> Result<(Component, u64)> {
    let index_file = format!("{name}.index.zst");
    let warnings_file = format!("{name}.warnings.zst");
    let mut archive = stage.create(&file)?;
    let mut index = stage.create(&index_file)?;
    // Most runs have no long list of warnings, so its file is made when it is needed.
    let list: Arc<Mutex<Option<Box<dyn StagedFile>>>> = Arc::default();
    let stage = Mutex::new(stage);
    let mut open_list = || -> Result<Box<dyn Write + Send>> {
        let mut stage = stage.lock().map_err(|_| anyhow!("a thread panicked"))?;
        let made = stage.create(&warnings_file)?;
        *list.lock().map_err(|_| anyhow!("a thread panicked"))? = Some(made);
        Ok(Box::new(Shared(Arc::clone(&list))))
    };
    let outputs = Outputs { archive: &mut archive, index: &mut index, warnings: &mut open_list };
    let read = capture_tree(spec, plan.options, plan.now, outputs)?;
    archive.finish(read.stored_bytes)?;
    let stored = |file: String, (sha256, bytes)| StoredFile { file, sha256, bytes };
    let index_length = read.index.map_or(0, |(_, length)| length);
    index.finish(index_length)?;
    let list = list.lock().map_err(|_| anyhow!("a thread panicked"))?.take();
    if let (Some(list), Some((_, length))) = (list, read.warnings_file) {
        list.finish(length)?;
    }
    let files = read.files;
    let (index, list) = (read.index, read.warnings_file);
    let index = index.map(|i| stored(index_file, i));
    Ok((component(name, Kind::Tar, file, read, index, list.map(|l| stored(warnings_file.clone(), l))), files))
}

fn component(
    name: &ComponentName,
    kind: Kind,
    file: String,
    read: archive::Captured,
    index: Option<StoredFile>,
    warnings_file: Option<StoredFile>,
) -> Component {
    Component {
        name: name.clone(),
        kind,
        file,
        source_bytes: read.source_bytes,
        raw_bytes: read.raw_bytes,
        stored_bytes: read.stored_bytes,
        sha256: read.sha256,
        entries: read.entries,
        frames: read.frames,
        index,
        warning_counts: read.warning_counts,
        warnings: read.warnings,
        warnings_file,
    }
}

/// A source that lost most of its content is an unmounted disk or a wrong path more often than it is right.
fn check_shrink(
    component: &Component,
    baseline: Option<Baseline>,
    limits: Limits,
    observer: &dyn Observer,
) -> Result<()> {
    let Some(baseline) = baseline else { return Ok(()) };
    for (what, now, usual) in [
        ("bytes", component.source_bytes, baseline.source_bytes),
        ("entries", component.entries, baseline.entries),
    ] {
        let least = usual as f64 * (1.0 - limits.max_shrink);
        if (now as f64) >= least {
            continue;
        }
        let amount = |n: u64| if what == "bytes" { ByteSize(n).to_string() } else { format!("{n} {what}") };
        let text = format!(
            "it shrank to {}; the median of the last good runs is {}, and max_shrink allows {:.0} %",
            amount(now),
            amount(usual),
            limits.max_shrink * 100.0
        );
        match limits.on_shrink {
            OnShrink::Fail => bail!("{text}. If that is right: agent ack JOB"),
            OnShrink::Warn => observer.event(&Event::Note(
                Level::Warning,
                format!("{}: {text}. If that is right: agent ack JOB", component.name),
            )),
        }
        return Ok(());
    }
    Ok(())
}

struct Shared(Arc<Mutex<Option<Box<dyn StagedFile>>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.lock().map_err(|_| io::Error::other("a thread panicked"))?.as_mut() {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the list of warnings was closed")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
