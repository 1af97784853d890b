//! The log of one run: kept in memory while the run lasts, whatever the terminal shows.
//!
//! A run makes a [`RunLog`] and enters its span; whatever is logged inside the span, on any thread that
//! entered it, also lands in that run's buffer.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use chrono::{DateTime, Local};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::event::{Record, clean};
use super::lines::TEXT_TIME;
use crate::model::{JobName, RunId};

/// What runs keep, whatever the terminal shows.
pub(super) const RUN_LEVEL: LevelFilter = LevelFilter::INFO;
/// Lines kept from the beginning of a run: how it was started is as telling as how it ended.
const HEAD: Limit = Limit { lines: 500, bytes: 64 << 10 };
/// Lines kept from its end.
const TAIL: Limit = Limit { lines: 1500, bytes: 192 << 10 };

struct Limit {
    lines: usize,
    bytes: usize,
}

/// The log of one run, bounded: the first 500 and the last 1,500 lines, 256 KiB in all, and between them a
/// line that says how many were left out. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct RunLog {
    job: JobName,
    run: RunId,
    lines: Arc<Mutex<Lines>>,
}

/// Logs of the runs of this process, for the layer to find them by the id in their span.
static RUNS: LazyLock<Mutex<HashMap<RunId, Weak<Mutex<Lines>>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change below leaves the data whole, so that a panic elsewhere is no reason to lose a log.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl RunLog {
    /// An empty log for a run of a job. It is alive until the last clone and span of it are dropped.
    pub fn new(job: &JobName, run: &RunId) -> Self {
        let lines = Arc::new(Mutex::new(Lines::default()));
        let mut runs = lock(&RUNS);
        runs.retain(|_, lines| lines.strong_count() > 0);
        runs.insert(run.clone(), Arc::downgrade(&lines));
        Self { job: job.clone(), run: run.clone(), lines }
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The [`span`] of the run; what is logged inside it goes to this log too. Enter it on each thread that
    /// works for the run (`let _entered = log.span().entered();`), and attach it to futures with `Instrument`.
    pub fn span(&self) -> Span {
        span(&self.job, &self.run)
    }

    /// Adds to the log alone, past the terminal: the standard error of a child, say.
    pub fn push(&self, level: Level, text: &str) {
        self.push_at(Local::now(), level, text);
    }

    fn push_at(&self, now: DateTime<Local>, level: Level, text: &str) {
        lock(&self.lines).push(now, level, text);
    }

    /// All that was kept, a line break after each line.
    pub fn text(&self) -> String {
        lock(&self.lines).text()
    }

    /// The last `n` lines, oldest first.
    pub fn tail(&self, n: usize) -> Vec<String> {
        let lines = lock(&self.lines);
        let all = lines.head.iter().chain(&lines.tail);
        let skip = (lines.head.len() + lines.tail.len()).saturating_sub(n);
        all.skip(skip).cloned().collect()
    }
}

impl fmt::Debug for RunLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLog").field("run", &self.run).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Lines {
    head: Vec<String>,
    head_bytes: usize,
    head_full: bool,
    tail: VecDeque<String>,
    tail_bytes: usize,
    left_out: u64,
}

impl Lines {
    /// Each line of `text` becomes a line of the log with time and level before it, so that nothing that
    /// was logged can pass for another entry.
    fn push(&mut self, now: DateTime<Local>, level: Level, text: &str) {
        let prefix = format!("{} {level:>5} ", now.format(TEXT_TIME));
        for line in text.trim_end_matches('\n').split('\n') {
            self.add(format!("{prefix}{}", clean(line)));
        }
    }

    fn add(&mut self, line: String) {
        let fits = self.head.len() < HEAD.lines && self.head_bytes + line.len() <= HEAD.bytes;
        if fits && !self.head_full {
            self.head_bytes += line.len();
            self.head.push(line);
            return;
        }
        // Once a line went to the tail, later ones must too, or they would change places.
        self.head_full = true;
        self.tail_bytes += line.len();
        self.tail.push_back(line);
        while self.tail.len() > TAIL.lines || self.tail_bytes > TAIL.bytes {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.len();
            self.left_out += 1;
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.head_bytes + self.tail_bytes + 4096);
        for line in &self.head {
            text.push_str(line);
            text.push('\n');
        }
        if self.left_out > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "… {} lines left out", self.left_out);
        }
        for line in &self.tail {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// A span that says which run the lines inside it are about; they go to its [`RunLog`] too, if it is still
/// kept in this process.
pub fn span(job: &JobName, run: &RunId) -> Span {
    // Not an error: the highest level, so that no filter for lines hides from them what they are about.
    tracing::error_span!(target: SPAN_TARGET, "run", job = job.as_str(), run = run.as_str())
}

/// Target of the spans of runs, for filters to let them through.
pub(super) const SPAN_TARGET: &str = "backup_agent_span";

/// Routes events inside a run's span to its log.
pub(super) struct RunLayer;

/// What a run's span carries.
#[derive(Default)]
pub(super) struct InRun {
    /// The job.
    pub(super) job: String,
    /// The run.
    pub(super) run: String,
    log: Option<Arc<Mutex<Lines>>>,
}

impl Visit for InRun {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "job" => value.clone_into(&mut self.job),
            "run" => value.clone_into(&mut self.run),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl<S> Layer<S> for RunLayer
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != SPAN_TARGET {
            return;
        }
        let mut run = InRun::default();
        attributes.record(&mut run);
        run.log = run.run.parse::<RunId>().ok().and_then(|id| lock(&RUNS).get(&id).and_then(Weak::upgrade));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(run);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut scope) = context.event_scope(event) else { return };
        let log = scope.find_map(|span| span.extensions().get::<InRun>().map(|run| run.log.clone()));
        if let Some(log) = log.flatten() {
            lock(&log).push(Local::now(), *event.metadata().level(), &Record::of(event).line());
        }
    }
}
