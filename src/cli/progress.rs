//! Progress on a terminal: one bar, drawn from counters the engine keeps anyway.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::event::{Event, Observer, Progress};

/// All bars; log lines are written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A writer for log lines that leaves bars whole.
#[derive(Debug, Clone, Copy)]
pub struct AboveBars;

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

#[derive(Default)]
struct Shown {
    /// What is being done, `application` or `read-back`.
    what: String,
    /// Source bytes before it began.
    base: u64,
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
                        let shown = shown.lock().unwrap_or_else(|e| e.into_inner());
                        bar.set_position(progress.source_bytes().saturating_sub(shown.base));
                        bar.set_message(format!("{} ({} entries)", shown.what, progress.entries()));
                    }
                    thread::park_timeout(Duration::from_millis(100));
                }
            })
        });
        Self { bar, shown, stop, drawer }
    }

    /// Begins something of `expected` bytes, if that is known.
    pub fn begin(&self, what: &str, expected: Option<u64>, progress: &Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        shown.what = what.to_owned();
        shown.base = progress.source_bytes();
        self.bar.reset();
        match expected.filter(|bytes| *bytes > 0) {
            Some(bytes) => {
                self.bar.set_length(bytes);
                self.bar.set_style(bar());
            }
            None => self.bar.set_style(spinner()),
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
        "{wide_bar} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {bytes}  {bytes_per_sec}  {elapsed}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Draws a run of a backup.
pub struct BackupBar {
    bar: Bar,
    progress: Arc<Progress>,
}

impl BackupBar {
    /// Begins to draw.
    pub fn start(progress: &Arc<Progress>) -> Self {
        Self { bar: Bar::start(progress), progress: Arc::clone(progress) }
    }

    /// Stops drawing.
    pub fn finish(self) {
        self.bar.finish();
    }
}

impl Observer for BackupBar {
    fn event(&self, event: &Event) {
        match event {
            Event::StepStarted(step) => self.bar.begin(step.as_str(), None, &self.progress),
            Event::ComponentStarted { component, expected_bytes } => {
                self.bar.begin(component.as_str(), *expected_bytes, &self.progress);
            }
            Event::CopyStarted(target) => self.bar.begin(&format!("copy to {target}"), None, &self.progress),
            _ => {}
        }
    }
}
