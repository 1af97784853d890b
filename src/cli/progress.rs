//! Progress on a terminal: one bar, drawn from counters the engine keeps anyway.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::event::{Event, Level, Observer, Progress, Step};
use crate::model::{TargetName, plural};

/// All bars; log lines are written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A writer for log lines that leaves bars whole.
#[derive(Debug, Clone, Copy)]
pub struct AboveBars;

/// Prints something where bars may be drawn, and leaves them whole.
pub fn above_bars(print: impl FnOnce()) {
    BARS.suspend(print);
}

/// One log line on its way.
pub struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A log that nobody takes must not end a backup.
        BARS.suspend(|| drop(io::stderr().write_all(&bytes)));
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// Shows the run on standard error, if that is a terminal.
pub struct Bar {
    bar: ProgressBar,
    shown: Arc<Mutex<Shown>>,
    stop: Arc<AtomicBool>,
    drawer: Option<thread::JoinHandle<()>>,
}

/// What a bar counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Counts {
    /// Bytes read from sources, and entries beside them.
    #[default]
    Sources,
    /// Bytes read from and written to targets, here or by a child process.
    Targets,
}

impl Counts {
    fn bytes(self, progress: &Progress) -> u64 {
        match self {
            Counts::Sources => progress.source_bytes(),
            Counts::Targets => progress.source_bytes() + progress.stored_bytes(),
        }
    }
}

/// Columns that the figures of [`bar`] take, and a short bar, which gives way to longer ones.
const BAR_FIGURES: usize = "  ████  100 %  123.45 MiB of 123.45 GiB  123.45 MiB/s  59m left".len() - 2 * 4;
/// Columns that those of [`spinner`] take.
const SPINNER_FIGURES: usize = "-   1023.99 GiB  1023.99 MiB/s  59m".len();

/// How wide the terminal is now; some do not say.
fn columns() -> usize {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

#[derive(Default)]
struct Shown {
    /// What is being done, `application` or `read-back`.
    what: String,
    counts: Counts,
    /// Bytes and entries counted before it began.
    base: (u64, u64),
    /// Bytes expected, as long as there are no more.
    expected: Option<u64>,
}

impl Shown {
    /// What is being done, as long as the terminal has room beside the figures: a line that is broken cannot
    /// be drawn anew in its place.
    fn message(&self, progress: &Progress, columns: usize) -> String {
        let figures = if self.expected.is_some() { BAR_FIGURES } else { SPINNER_FIGURES };
        let room = columns.saturating_sub(figures).max(8);
        let entries = progress.entries().saturating_sub(self.base.1);
        let long = format!("{}, {}", self.what, plural(entries, "entry", "entries"));
        if self.counts == Counts::Sources && entries > 0 && long.chars().count() <= room {
            long
        } else if self.what.chars().count() <= room {
            self.what.clone()
        } else {
            self.what.chars().take(room - 1).chain(['…']).collect()
        }
    }
}

impl Bar {
    /// Begins to draw.
    pub fn start(progress: &Arc<Progress>) -> Self {
        let bar =
            if io::stderr().is_terminal() { BARS.add(ProgressBar::new(0)) } else { ProgressBar::hidden() };
        bar.set_style(spinner());
        let shown = Arc::new(Mutex::new(Shown::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let drawer = (!bar.is_hidden()).then(|| {
            let (bar, shown, stop, progress) =
                (bar.clone(), Arc::clone(&shown), Arc::clone(&stop), Arc::clone(progress));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    {
                        let mut shown = shown.lock().unwrap_or_else(|e| e.into_inner());
                        let position = shown.counts.bytes(&progress).saturating_sub(shown.base.0);
                        // More than was expected: from here on nobody knows how much is left.
                        if shown.expected.is_some_and(|expected| position > expected) {
                            shown.expected = None;
                            bar.set_style(spinner());
                        }
                        bar.set_message(shown.message(&progress, columns()));
                        bar.set_position(position);
                    }
                    thread::park_timeout(Duration::from_millis(100));
                }
            })
        });
        Self { bar, shown, stop, drawer }
    }

    /// Begins something of `expected` bytes, if that is known.
    pub fn begin(&self, what: &str, counts: Counts, expected: Option<u64>, progress: &Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        let base = (counts.bytes(progress), progress.entries());
        let expected = expected.filter(|bytes| *bytes > 0);
        *shown = Shown { what: what.to_owned(), counts, base, expected };
        // Now, not at the next drawing: the name of what is over must not stand beside counts of what begins.
        self.bar.set_message(shown.message(progress, columns()));
        self.bar.reset();
        match expected {
            Some(bytes) => {
                self.bar.set_length(bytes);
                self.bar.set_style(bar());
            }
            None => self.bar.set_style(spinner()),
        }
    }

    /// Goes on under another name, with `more` bytes to come.
    pub fn rename(&self, what: &str, more: u64) {
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        what.clone_into(&mut shown.what);
        if let Some(expected) = &mut shown.expected {
            *expected += more;
            self.bar.set_length(*expected);
        }
    }

    /// Stops drawing and clears the line.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(drawer) = self.drawer.take() {
            drawer.thread().unpark();
            let _ = drawer.join();
        }
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

fn bar() -> ProgressStyle {
    ProgressStyle::with_template(
        "{msg}  {wide_bar:.cyan}  {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner:.cyan} {msg}  {bytes}  {bytes_per_sec}  {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// `copy to nas, vault`.
fn copies(targets: &[TargetName]) -> String {
    let names: Vec<&str> = targets.iter().map(TargetName::as_str).collect();
    format!("copy to {}", names.join(", "))
}

/// Draws a run of a backup, and keeps what a person should know of it.
pub struct BackupBar {
    bar: Bar,
    progress: Arc<Progress>,
    /// Bytes stored so far: what is read back and copied.
    stored: AtomicU64,
    /// The targets that are copied to now: one bar shows them all.
    copying: Mutex<Vec<TargetName>>,
    notes: Mutex<Vec<String>>,
}

impl BackupBar {
    /// Begins to draw.
    pub fn start(progress: &Arc<Progress>) -> Self {
        let bar = Bar::start(progress);
        bar.begin("starting", Counts::Sources, None, progress);
        Self {
            bar,
            progress: Arc::clone(progress),
            stored: AtomicU64::new(0),
            copying: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Stops drawing; gives back the warnings of the run, those of single files aside.
    pub fn finish(self) -> Vec<String> {
        self.bar.finish();
        self.notes.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    fn begin(&self, what: &str, counts: Counts, expected: Option<u64>) {
        self.bar.begin(what, counts, expected, &self.progress);
    }
}

impl Observer for BackupBar {
    fn event(&self, event: &Event) {
        let stored = || Some(self.stored.load(Ordering::Relaxed));
        match event {
            Event::StepStarted(Step::ReadBack) => self.begin("read-back", Counts::Targets, stored()),
            Event::StepStarted(step) => self.begin(step.as_str(), Counts::Sources, None),
            Event::ComponentStarted { component, expected_bytes } => {
                self.begin(component.as_str(), Counts::Sources, *expected_bytes);
            }
            Event::ComponentEnded { stored_bytes, .. } => {
                self.stored.fetch_add(*stored_bytes, Ordering::Relaxed);
            }
            // A copy is written, then read back where its target says so.
            Event::CopyStarted { target, read_back } => {
                let mut copying = self.copying.lock().unwrap_or_else(|e| e.into_inner());
                copying.push(target.clone());
                let bytes = if *read_back { 2 } else { 1 } * stored().unwrap_or(0);
                match copying.len() {
                    1 => self.begin(&copies(&copying), Counts::Targets, Some(bytes)),
                    _ => self.bar.rename(&copies(&copying), bytes),
                }
            }
            Event::CopyEnded(target, _) => {
                let mut copying = self.copying.lock().unwrap_or_else(|e| e.into_inner());
                copying.retain(|other| other != target);
                if !copying.is_empty() {
                    self.bar.rename(&copies(&copying), 0);
                }
            }
            Event::Note(Level::Warning | Level::Error, text) => {
                self.notes.lock().unwrap_or_else(|e| e.into_inner()).push(text.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_not_read_back_is_counted_once() {
        let progress = Arc::new(Progress::default());
        let bar = BackupBar::start(&progress);
        let component = "application".parse().unwrap();
        bar.event(&Event::ComponentEnded { component, source_bytes: 500, stored_bytes: 100, warnings: 0 });
        let target: TargetName = "nas".parse().unwrap();
        for (read_back, expected) in [(true, 200), (false, 100)] {
            bar.event(&Event::CopyStarted { target: target.clone(), read_back });
            assert_eq!(bar.bar.shown.lock().unwrap().expected, Some(expected));
            bar.event(&Event::CopyEnded(target.clone(), Err("gone".to_owned())));
        }
        bar.finish();
    }

    #[test]
    fn what_is_done_is_cut_to_the_room_beside_the_figures() {
        let progress = Progress::default();
        (0..1420).for_each(|_| progress.add_entries(1));
        let mut shown = Shown { what: "system-state".to_owned(), expected: Some(1), ..Shown::default() };
        assert_eq!(shown.message(&progress, 120), "system-state, 1420 entries");
        assert_eq!(shown.message(&progress, 80), "system-state");
        shown.expected = None;
        assert_eq!(shown.message(&progress, 80), "system-state, 1420 entries");
        shown.counts = Counts::Targets;
        assert_eq!(shown.message(&progress, 120), "system-state");
        shown.what = "ü".repeat(64);
        assert_eq!(shown.message(&progress, 60).chars().count(), 60 - SPINNER_FIGURES);
    }
}
