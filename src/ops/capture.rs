//! Reads all sources of a job into the staging place.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, bail};

use super::hooks::{Hooks, Scope, Verdict};
use super::panics::unwinding;
use super::{keys, preflight, shrink};
use crate::archive::{self, Outputs, TreeSpec, capture_stream, capture_tree};
use crate::config::{Limits, Unreadable};
use crate::crypt::SUFFIX;
use crate::event::{Event, Observer, is_interruption};
use crate::manifest::{Codec, Component, Encryption, StoredFile};
use crate::model::{ComponentName, Outcome, WarningKind};
use crate::source::{Capture, Context, Part, Ready, Source};
use crate::state::Baseline;
use crate::target::{Stage, StagedFile};

/// What capturing needs to know beside the sources.
pub struct Plan<'a> {
    /// Compression, encryption and load.
    pub options: &'a archive::Options,
    /// Folders that are never captured: targets and state.
    pub skip: Vec<PathBuf>,
    /// Limits on how far a component may shrink.
    pub limits: Limits,
    /// The command that accepts a shrink as the new normal.
    pub accept: String,
    /// What each component usually holds.
    pub baselines: &'a BTreeMap<ComponentName, Baseline>,
    /// Seconds since 1970, the date of files made up for the archive.
    pub now: i64,
    /// Commands around single sources.
    pub hooks: &'a Hooks<'a>,
}

/// All components, and how good they are together.
#[derive(Debug)]
pub struct Captured {
    /// In the order of capture.
    pub components: Vec<Component>,
    /// `success`, `warning` or `partial`.
    pub outcome: Outcome,
    /// What all of them are encrypted to.
    pub encryption: Encryption,
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

/// The staging place, shared by the components that are captured at the same time.
type SharedStage<'a> = Mutex<&'a mut dyn Stage>;

/// Captures `sources` in their order. `ready` holds what the preflight found; a source that is not in it is
/// looked at when it is its turn.
pub fn capture_all(
    sources: &[Box<dyn Source>],
    mut ready: BTreeMap<ComponentName, Ready>,
    stage: &mut dyn Stage,
    context: &Context,
    plan: &Plan<'_>,
    observer: &dyn Observer,
) -> Result<Captured> {
    let stage = Mutex::new(stage);
    let encryption = keys::described(plan.options.seal.as_deref());
    let mut captured = Captured { components: Vec::new(), outcome: Outcome::Success, encryption };
    for source in sources {
        let scope = Scope::Source(source.name().clone());
        let ready = ready.remove(source.name());
        let result = plan
            .hooks
            .before(&scope, &context.cancel())
            .and_then(|()| capture_source(source.as_ref(), ready, &stage, context, plan, observer));
        let outcome = match &result {
            Ok(components) => components
                .iter()
                .fold(Outcome::Success, |worst, c| worse(worst, judge(c, source.unreadable()))),
            Err(_) if context.progress.is_cancelled() => Outcome::Interrupted,
            Err(_) => Outcome::Failure,
        };
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        plan.hooks.after(&scope, Verdict { outcome: Some(outcome), error: error.as_deref() });
        captured.components.extend(result?);
        captured.outcome = worse(captured.outcome, outcome);
    }
    Ok(captured)
}

/// All components of one source.
fn capture_source(
    source: &dyn Source,
    ready: Option<Ready>,
    stage: &SharedStage<'_>,
    context: &Context,
    plan: &Plan<'_>,
    observer: &dyn Observer,
) -> Result<Vec<Component>> {
    let ready = match ready {
        Some(ready) => ready,
        None => preflight::one(source, context, observer)?,
    };
    shrink::check_missing(source.name(), &ready.parts, plan, observer)
        .map_err(|e| ComponentError { component: source.name().clone(), source: e })?;
    let lanes = source.parallel().min(ready.parts.len()).max(1);
    let job = Job { source, stage, plan, observer };
    if lanes == 1 {
        return ready.parts.iter().map(|part| job.capture(part, context, plan.options)).collect();
    }
    job.capture_side_by_side(&ready.parts, lanes, context)
}

/// What is the same for all components of a source.
struct Job<'a, 's> {
    source: &'a dyn Source,
    stage: &'a SharedStage<'s>,
    plan: &'a Plan<'a>,
    observer: &'a dyn Observer,
}

impl Job<'_, '_> {
    /// Captures `lanes` components at a time, and gives all in their order. The first error ends the others.
    /// Threads and read rate are shared out, so that memory and load stay about those of one.
    fn capture_side_by_side(
        &self,
        parts: &[Part],
        lanes: usize,
        context: &Context,
    ) -> Result<Vec<Component>> {
        let options = archive::Options {
            threads: (self.plan.options.threads / lanes).max(1),
            read_limit: self.plan.options.read_limit.map(|limit| (limit / lanes as u64).max(1)),
            ..self.plan.options.clone()
        };
        let context = Context { given_up: Arc::default(), ..context.clone() };
        let next = AtomicUsize::new(0);
        let done: Mutex<BTreeMap<usize, Component>> = Mutex::default();
        let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
        let span = tracing::Span::current();
        let work = || {
            let _entered = span.enter();
            while !context.given_up.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(at) else { return };
                match unwinding(|| self.capture(part, &context, &options)) {
                    Ok(component) => {
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, component);
                    }
                    Err(error) => {
                        // The first is the reason; what follows was ended because of it.
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        context.given_up.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(work);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()),
        }
    }

    /// Captures one component, and tells.
    fn capture(&self, part: &Part, context: &Context, options: &archive::Options) -> Result<Component> {
        let name = &part.name;
        let baseline = self.plan.baselines.get(name);
        let expected_bytes = baseline.map(|b| b.source_bytes);
        self.observer.event(&Event::ComponentStarted { component: name.clone(), expected_bytes });
        let component = self
            .capture_one(part, context, options)
            .and_then(|c| shrink::check(&c, baseline, self.plan, self.observer).map(|()| c))
            .map_err(|e| ComponentError { component: name.clone(), source: e })?;
        self.observer.event(&Event::ComponentEnded {
            component: name.clone(),
            source_bytes: component.source_bytes,
            stored_bytes: component.stored_bytes,
            warnings: component.warning_counts.total(),
        });
        Ok(component)
    }

    fn capture_one(&self, part: &Part, context: &Context, options: &archive::Options) -> Result<Component> {
        let codec = match options.codec {
            archive::Codec::Zstd(_) => Codec::Zstd,
            archive::Codec::Gzip(_) => Codec::Gzip,
        };
        let file = format!("{}.{}{}", part.file_name, codec.extension(), suffix(options));
        match self.source.open(part, context)? {
            Capture::Tree(mut spec) => {
                spec.skip.extend(self.plan.skip.iter().cloned());
                let (component, files) =
                    capture_files(part, &spec, file, self.stage, options, self.plan.now)?;
                if files == 0 && !self.source.allow_empty() {
                    bail!("{}", empty(&spec, &component));
                }
                Ok(component)
            }
            Capture::Stream(mut stream) => {
                let mut out = create(self.stage, &file)?;
                let read = match capture_stream(stream.reader(), options, &mut out) {
                    Ok(read) => {
                        stream.finish()?;
                        read
                    }
                    Err(e) if is_interruption(&e) => return Err(e),
                    // A dump that died explains itself better than the pipe it left behind; a full disk does
                    // not become clearer by the complaint of the program whose output nobody took.
                    Err(e) if is_write_error(&e) => return Err(e),
                    Err(e) => return Err(stream.finish().err().unwrap_or(e)),
                };
                out.finish(read.stored_bytes)?;
                Ok(component(part, file, read, None, None))
            }
        }
    }
}

/// What is appended to the names of encrypted files.
fn suffix(options: &archive::Options) -> &'static str {
    if options.seal.is_some() { SUFFIX } else { "" }
}

fn create(stage: &SharedStage<'_>, file: &str) -> Result<Box<dyn StagedFile>> {
    stage.lock().map_err(|_| anyhow!("a thread panicked"))?.create(file)
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
    part: &Part,
    spec: &TreeSpec,
    file: String,
    stage: &SharedStage<'_>,
    options: &archive::Options,
    now: i64,
) -> Result<(Component, u64)> {
    let index_file = format!("{}.index.zst{}", part.name, suffix(options));
    let warnings_file = format!("{}.warnings.zst{}", part.name, suffix(options));
    let mut archive = create(stage, &file)?;
    let mut index = create(stage, &index_file)?;
    // Most runs have no long list of warnings, so its file is made when it is needed.
    let list: Arc<Mutex<Option<Box<dyn StagedFile>>>> = Arc::default();
    let mut open_list = || -> Result<Box<dyn Write + Send>> {
        let made = create(stage, &warnings_file)?;
        *list.lock().map_err(|_| anyhow!("a thread panicked"))? = Some(made);
        Ok(Box::new(Shared(Arc::clone(&list))))
    };
    let outputs = Outputs { archive: &mut archive, index: &mut index, warnings: &mut open_list };
    let read = capture_tree(spec, options, now, outputs)?;
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
    Ok((component(part, file, read, index, list.map(|l| stored(warnings_file.clone(), l))), files))
}

fn component(
    part: &Part,
    file: String,
    read: archive::Captured,
    index: Option<StoredFile>,
    warnings_file: Option<StoredFile>,
) -> Component {
    Component {
        name: part.name.clone(),
        kind: part.kind,
        content: part.content,
        databases: part.databases.clone(),
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
