//! Logging: what goes to the journal or the terminal, the log files, and the log kept of each run.
//!
//! One event is one line, whatever stands in it. A line that belongs to a run carries job and run id, once.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what is asked for, and the set-up |
//! | `event` | one event taken apart: message, fields, job and run; and made harmless |
//! | `lines` | how a line looks: for people, for programs, for the journal |
//! | `files` | the log files: appended to, opened anew, and what goes wrong with them |
//! | `runs` | the log of one run, and the span that routes events to it |

mod event;
mod files;
mod lines;
mod runs;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use files::{IntoFiles, LogFiles};
use lines::{Lines, Style};
use runs::{RUN_LEVEL, RunLayer, SPAN_TARGET};
pub use runs::{RunLog, span};

/// Target of events about the health checks: they go to their own file.
pub const HEALTH: &str = "backup_agent::health";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How lines look, on standard error and in files.
    pub format: Format,
    /// What standard error shows: a level for this program (others then log warnings), or tracing directives;
    /// `info` when absent.
    pub level: Option<String>,
    /// What the files hold, in the same form.
    pub file_level: Option<String>,
    /// The file of what the agent does.
    pub run_file: Option<PathBuf>,
    /// The file of what its health checks find.
    pub health_file: Option<PathBuf>,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error(
        "log level {level:?} is not understood ({detail}): give error, warn, info, debug, trace or off, or directives like backup_agent=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It was set up before.
    #[error("logging is set up already")]
    Twice,
}

/// Takes over the levels of other settings.
type SetLevels = dyn Fn(&Settings) -> Result<(), LogError> + Send + Sync;

/// What can be changed while the program runs.
struct Control {
    files: Arc<LogFiles>,
    set_levels: Box<SetLevels>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Sets up logging, once in a process. `terminal` takes what goes to standard error; on a terminal with
/// progress bars its lines go above the bars. `colour` only counts where the journal does not listen.
///
/// Panics are logged from then on, like everything else. A log file that cannot be opened is no error: it is
/// told on `terminal`, tried again, and [`trouble`] says so.
///
/// # Errors
/// A level is not understood, or logging was set up before.
pub fn init<W>(settings: &Settings, colour: bool, terminal: W) -> Result<(), LogError>
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), &io::stderr());
    let (subscriber, control) = subscriber(settings, colour, journal, terminal)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    let files = Arc::clone(&control.files);
    CONTROL.set(control).map_err(|_| LogError::Twice)?;
    log_panics();
    files.reopen();
    Ok(())
}

/// Takes over other levels and files, for a configuration that was loaded anew. The format stays.
///
/// # Errors
/// A level is not understood; then nothing changes.
pub fn change(settings: &Settings) -> Result<(), LogError> {
    let Some(control) = CONTROL.get() else { return Ok(()) };
    (control.set_levels)(settings)?;
    control.files.set_paths(settings);
    Ok(())
}

/// Opens the log files anew, after they were rotated away. A file that cannot be opened leaves the old one in
/// use, so that no line is lost.
pub fn reopen() {
    if let Some(control) = CONTROL.get() {
        control.files.reopen();
    }
}

/// What is wrong with the log files of this process, if something is. What failed is tried again by asking.
pub fn trouble() -> Option<String> {
    CONTROL.get().and_then(|control| control.files.trouble())
}

/// True when standard error leads to the systemd journal: then lines carry their priority, and the journal
/// keeps the time. `stream` is the value of `JOURNAL_STREAM`, device and inode; a program that was given both
/// this and another standard error must not be misled.
fn is_journal(stream: Option<&str>, stderr: &io::Stderr) -> bool {
    use std::os::fd::AsFd;
    let named = stream.and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    let Some(named) = named else { return false };
    let is = stderr
        .as_fd()
        .try_clone_to_owned()
        .map(std::fs::File::from)
        .and_then(|file| file.metadata())
        .map(|found| (found.dev(), found.ino()));
    is.is_ok_and(|is| is == named)
}

fn subscriber<W>(
    settings: &Settings,
    colour: bool,
    journal: bool,
    terminal: W,
) -> Result<(impl Subscriber + Send + Sync, Control), LogError>
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let style = match (journal, settings.format) {
        (true, Format::Text) => Style::JournalText,
        (true, Format::Json) => Style::JournalJson,
        (false, Format::Text) => Style::Text,
        (false, Format::Json) => Style::Json,
    };
    let files = Arc::new(LogFiles::new(settings, {
        let terminal = terminal.clone();
        move |text| {
            let line = lines::without_event(style, tracing::Level::ERROR, text);
            // Nobody is left to be told of this.
            let _ = terminal.make_writer().write_all(line.as_bytes());
        }
    }));
    let (level, set_level) = reload::Layer::new(filter(settings.level.as_deref())?);
    let (file_level, set_file_level) = reload::Layer::new(filter(settings.file_level.as_deref())?);
    // A standard error that was closed must not end a backup: the layer would report its own trouble with
    // eprintln!, which panics.
    let shown = tracing_subscriber::fmt::layer()
        .event_format(Lines(style))
        .with_writer(terminal)
        .with_ansi(colour && style == Style::Text)
        .log_internal_errors(false);
    let kept = tracing_subscriber::fmt::layer()
        .event_format(Lines(match settings.format {
            Format::Text => Style::Text,
            Format::Json => Style::Json,
        }))
        .with_writer(IntoFiles(Arc::clone(&files)))
        .with_ansi(false)
        .log_internal_errors(false);
    let set_levels = move |settings: &Settings| {
        let (level, file_level) =
            (filter(settings.level.as_deref())?, filter(settings.file_level.as_deref())?);
        // These fail only when the subscriber is gone, and with it everything that could be shown.
        let _ = set_level.reload(level);
        let _ = set_file_level.reload(file_level);
        Ok(())
    };
    let subscriber = tracing_subscriber::registry()
        .with(shown.with_filter(level))
        .with(kept.with_filter(file_level))
        .with(RunLayer.with_filter(RUN_LEVEL));
    Ok((subscriber, Control { files, set_levels: Box::new(set_levels) }))
}

fn filter(level: Option<&str>) -> Result<EnvFilter, LogError> {
    let level = level.unwrap_or("info").trim();
    let refused = |detail: String| LogError::Level { level: level.to_owned(), detail };
    if level.is_empty() {
        return Err(refused("it is empty".into()));
    }
    let directives = match level.parse::<LevelFilter>() {
        Ok(LevelFilter::OFF) => "off".to_owned(),
        Ok(LevelFilter::ERROR) => "error".to_owned(),
        Ok(own) => format!("warn,backup_agent={own},agent={own}"),
        // Spans tell a layer which job and run a line belongs to, so that it has to see them.
        Err(_) => format!("{level},{SPAN_TARGET}=error"),
    };
    EnvFilter::builder().parse(&directives).map_err(|e| refused(e.to_string()))
}

/// Makes a panic a line of the log, with its place. What catches it says what it means.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!("panicked at {place}: {text}");
    }));
}
