//! What a run tells those who watch it: the terminal, the log, the daemon's status.
//!
//! Steps emit events and know nothing of who listens. Progress is not an event: it is a set of counters
//! that watchers read when they like, so that the engine never waits for a screen.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::{ComponentName, JobName, Outcome, RunId, TargetName};

/// The steps of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Taking the locks.
    Lock,
    /// Looking at sources and targets before anything is read.
    Preflight,
    /// Reading the sources into the staging folder.
    Capture,
    /// Writing sums and manifest, making the backup visible.
    Publish,
    /// Reading the published backup back and comparing it.
    ReadBack,
    /// Removing what the policy lets expire at the primary target.
    Retention,
    /// Writing the end of the run into the state.
    Record,
    /// Copying to the further targets.
    Copies,
}

impl Step {
    /// The word stored and shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Lock => "lock",
            Step::Preflight => "preflight",
            Step::Capture => "capture",
            Step::Publish => "publish",
            Step::ReadBack => "read-back",
            Step::Retention => "retention",
            Step::Record => "record",
            Step::Copies => "copies",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that happened in a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A run has its locks and begins.
    RunStarted {
        /// The run.
        run: RunId,
        /// Its job.
        job: JobName,
    },
    /// A step begins.
    StepStarted(Step),
    /// A step ended well.
    StepEnded(Step, Duration),
    /// A source is being read.
    ComponentStarted {
        /// The component.
        component: ComponentName,
        /// Source bytes expected, from the last good run; for a time left.
        expected_bytes: Option<u64>,
    },
    /// A source was read to its end.
    ComponentEnded {
        /// The component.
        component: ComponentName,
        /// Bytes read.
        source_bytes: u64,
        /// Bytes stored.
        stored_bytes: u64,
        /// Warnings met.
        warnings: u64,
    },
    /// The outcome is recorded and the locks are free: another run of the job may begin. What follows is for
    /// further targets and for those who are told.
    Recorded,
    /// A copy to a further target begins.
    CopyStarted {
        /// The target.
        target: TargetName,
        /// Whether it is read back once it is written.
        read_back: bool,
    },
    /// A copy to a further target ended: it is there, or why it is not.
    CopyEnded(TargetName, Result<Looked, String>),
    /// Something a person should know, in a sentence.
    Note(Level, String),
    /// The run ended.
    RunEnded {
        /// How.
        outcome: Outcome,
        /// What failed beside it.
        degraded: Vec<String>,
        /// How long it took.
        duration: Duration,
    },
}

/// How closely a copy was looked at before it counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Every byte was read back and compared.
    AtAll,
    /// Pieces of it were.
    AtSamples,
    /// It was not read back, and why.
    NotAt(&'static str),
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Looked::AtAll => f.write_str("read back"),
            Looked::AtSamples => f.write_str("read back in samples"),
            Looked::NotAt(why) => write!(f, "not read back: {why}"),
        }
    }
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// Somebody may want to look.
    Warning,
    /// Something failed.
    Error,
}

/// Somebody who watches runs.
pub trait Observer: Send + Sync {
    /// Called for each event, on the thread that runs the step; must return soon.
    fn event(&self, event: &Event);
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}

/// How far a run is, and whether it should stop. Shared between the engine's threads and those who watch.
#[derive(Debug, Default)]
pub struct Progress {
    source_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    entries: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Adds content bytes read from a source.
    pub fn add_source(&self, bytes: u64) {
        self.source_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes written to the target.
    pub fn add_stored(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds archive entries.
    pub fn add_entries(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Content bytes read so far.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Asks the run to stop at the next safe point.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True once the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The error of a step that stopped because it was asked to.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether an error comes from having been asked to stop, whatever was put around it.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>()
        || error.chain().any(|cause| {
            let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            cause.is::<Interrupted>() || inner.is_some_and(|inner| inner.is::<Interrupted>())
        })
}
