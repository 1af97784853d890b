//! Logging: what goes to the terminal or the journal, and the log kept of each run.
//!
//! [`init`] sets up both. A run makes a [`RunLog`] and enters its span; whatever is logged inside the span,
//! on any thread that entered it, also lands in that run's buffer, whatever level the terminal shows.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use chrono::{DateTime, Local};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::model::RunId;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
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

/// Sets up logging to standard error. `level` is a level for this program (others then log warnings) or
/// tracing directives; `info` when absent. Colour only on a terminal, and without `NO_COLOR`.
pub fn init(format: Format, level: Option<&str>) -> Result<(), LogError> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    init_with_writer(format, level, io::stderr().is_terminal() && !no_color, io::stderr)
}

/// As [`init`], but to any writer; for a terminal on which progress bars are drawn, whose lines must go
/// above the bars.
pub fn init_with_writer<W>(
    format: Format,
    level: Option<&str>,
    colour: bool,
    writer: W,
) -> Result<(), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    subscriber(format, level, colour, writer)?.try_init().map_err(|_| LogError::Twice)
}

fn subscriber<W>(
    format: Format,
    level: Option<&str>,
    colour: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = filter(level.unwrap_or("info"))?;
    // A standard error that was closed must not end a backup: the layer would report its own trouble with
    // eprintln!, which panics.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let layer: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => Box::new(layer.with_ansi(colour).with_target(false).with_timer(LocalTime(TEXT_TIME))),
        Format::Json => {
            Box::new(layer.with_ansi(false).json().flatten_event(true).with_timer(LocalTime(JSON_TIME)))
        }
    };
    Ok(tracing_subscriber::registry().with(layer.with_filter(filter)).with(RunLayer.with_filter(RUN_LEVEL)))
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let level = level.trim();
    let refused = |detail: String| LogError::Level { level: level.to_owned(), detail };
    if level.is_empty() {
        return Err(refused("it is empty".into()));
    }
    let directives = match level.parse::<LevelFilter>() {
        Ok(LevelFilter::OFF) => "off".to_owned(),
        Ok(LevelFilter::ERROR) => "error".to_owned(),
        Ok(own) => format!("warn,backup_agent={own},agent={own}"),
        Err(_) => level.to_owned(),
    };
    EnvFilter::builder().parse(&directives).map_err(|e| refused(e.to_string()))
}

const TEXT_TIME: &str = "%Y-%m-%d %H:%M:%S%:z";
const JSON_TIME: &str = "%Y-%m-%dT%H:%M:%S%.3f%:z";

/// The zone of the host, as everything else on it logs.
struct LocalTime(&'static str);

impl FormatTime for LocalTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", Local::now().format(self.0))
    }
}

/// What runs keep, whatever the terminal shows.
const RUN_LEVEL: LevelFilter = LevelFilter::INFO;
/// Lines kept from the beginning of a run: how it was started is as telling as how it ended.
const HEAD: Limit = Limit { lines: 500, bytes: 64 << 10 };
/// Lines kept from its end.
const TAIL: Limit = Limit { lines: 1500, bytes: 192 << 10 };
/// Longer lines are cut.
const LINE: usize = 4 << 10;

struct Limit {
    lines: usize,
    bytes: usize,
}

/// The log of one run, bounded: the first 500 and the last 1,500 lines, 256 KiB in all, and between them a
/// line that says how many were left out. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct RunLog {
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
    /// An empty log for a run. It is alive until the last clone and span of it are dropped.
    pub fn new(run: &RunId) -> Self {
        let lines = Arc::new(Mutex::new(Lines::default()));
        let mut runs = lock(&RUNS);
        runs.retain(|_, lines| lines.strong_count() > 0);
        runs.insert(run.clone(), Arc::downgrade(&lines));
        Self { run: run.clone(), lines }
    }

    /// A span that carries the run's id; what is logged inside it goes to this log too. Enter it on each
    /// thread that works for the run (`let _entered = log.span().entered();`), and attach it to futures
    /// with `Instrument`.
    pub fn span(&self) -> Span {
        tracing::info_span!(target: "backup_agent", RUN_SPAN, run = self.run.as_str())
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

/// Escapes control characters, which would let a file name repaint a terminal, and cuts long lines.
fn clean(line: &str) -> String {
    let mut out = String::with_capacity(line.len().min(LINE + 8));
    for c in line.trim_end_matches('\r').chars() {
        if out.len() >= LINE {
            out.push('…');
            break;
        }
        if c.is_control() && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Name of the span that [`RunLog::span`] makes.
const RUN_SPAN: &str = "run";

/// Routes events inside a run's span to its log.
struct RunLayer;

/// What a run's span carries.
struct Target(Arc<Mutex<Lines>>);

impl<S> Layer<S> for RunLayer
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != RUN_SPAN {
            return;
        }
        let mut found = RunField(None);
        attributes.record(&mut found);
        let log = found.0.and_then(|run| lock(&RUNS).get(&run).and_then(Weak::upgrade));
        if let (Some(log), Some(span)) = (log, context.span(id)) {
            span.extensions_mut().insert(Target(log));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut scope) = context.event_scope(event) else { return };
        let log = scope.find_map(|span| span.extensions().get::<Target>().map(|target| target.0.clone()));
        let Some(log) = log else { return };
        let mut text = EventText::default();
        event.record(&mut text);
        lock(&log).push(Local::now(), *event.metadata().level(), &text.finish());
    }
}

struct RunField(Option<RunId>);

impl Visit for RunField {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "run" {
            self.0 = value.parse().ok();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// The message, then `key=value` for each other field.
#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl EventText {
    fn finish(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(chain, ": {error}");
            source = error.source();
        }
        self.record_debug(field, &format_args!("{chain}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> RunLog {
        RunLog::new(&RunId::generate("2026-11-24T18:00:00Z".parse().unwrap()))
    }

    /// Lines without their time.
    fn bare(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
        let time = "2026-11-24 19:00:00+01:00 ".len();
        lines.into_iter().map(|line| line.as_ref()[time..].trim_start().to_owned()).collect()
    }

    fn subscribe() -> tracing::subscriber::DefaultGuard {
        tracing_subscriber::registry().with(RunLayer.with_filter(RUN_LEVEL)).set_default()
    }

    #[test]
    fn events_inside_the_span_of_a_run_go_to_its_log_and_no_other() {
        let _guard = subscribe();
        let (one, two) = (log(), log());
        tracing::info!("before");
        one.span().in_scope(|| {
            tracing::info!(files = 3, name = "a", "walked");
            tracing::debug!("too fine");
            tracing::info_span!("inner").in_scope(|| tracing::warn!("deep"));
        });
        two.span().in_scope(|| tracing::error!("other"));
        assert_eq!(bare(one.tail(10)), ["INFO walked files=3 name=\"a\"", "WARN deep"]);
        assert_eq!(bare(two.tail(10)), ["ERROR other"]);
        assert!(one.text().contains(" WARN deep\n"), "{}", one.text());
    }

    #[test]
    fn a_span_entered_on_another_thread_reaches_the_log() {
        let _guard = subscribe();
        let log = log();
        let span = log.span();
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        std::thread::spawn(move || {
            tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| tracing::info!("from afar")));
        })
        .join()
        .unwrap();
        assert_eq!(bare(log.tail(1)), ["INFO from afar"]);
    }

    #[test]
    fn a_long_log_keeps_its_beginning_and_its_end_and_says_what_is_missing() {
        let log = log();
        (0..5000).for_each(|n| log.push(Level::INFO, &format!("line {n}")));
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 500 + 1 + 1500);
        assert!(lines[0].ends_with(" line 0") && lines[499].ends_with(" line 499"));
        assert_eq!(lines[500], "… 3000 lines left out");
        assert!(lines[501].ends_with(" line 3500") && lines[2000].ends_with(" line 4999"));
        assert_eq!(bare(log.tail(2)), ["INFO line 4998", "INFO line 4999"]);
    }

    #[test]
    fn a_log_of_huge_lines_stays_within_its_bytes() {
        let log = log();
        (0..2000).for_each(|_| log.push(Level::INFO, &"ä".repeat(100_000)));
        assert!(log.text().len() <= (256 << 10) + 4096, "{}", log.text().len());
        assert!(log.tail(1)[0].ends_with('…'));
    }

    #[test]
    fn line_breaks_and_control_characters_cannot_forge_an_entry() {
        let log = log();
        log.push(Level::ERROR, "stderr:\n2026-11-24 19:00:00 INFO all good\x1b[2J\r\n");
        let lines = log.tail(10);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("ERROR 2026-11-24 19:00:00 INFO all good\\u{1b}[2J"), "{lines:?}");
    }

    /// What is written when `f` logs.
    fn written(format: Format, level: &str, colour: bool, f: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = file.reopen().unwrap();
        let subscriber = subscriber(format, Some(level), colour, writer).unwrap();
        tracing::subscriber::with_default(subscriber, f);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn lines_for_people_and_for_programs_carry_the_run() {
        let log = log();
        let text =
            written(Format::Text, "info", false, || log.span().in_scope(|| tracing::warn!(n = 1, "slow")));
        assert!(text.contains(" WARN run{run=\"20261124T180000Z-") && text.ends_with("slow n=1\n"), "{text}");
        let json =
            written(Format::Json, "info", true, || log.span().in_scope(|| tracing::info!(n = 1, "fine")));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&json["message"], &json["n"], &json["level"]),
            (&"fine".into(), &1.into(), &"INFO".into())
        );
        assert!(DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).is_ok(), "{json}");
        assert!(json["span"]["run"].as_str().unwrap().starts_with("20261124T180000Z-"), "{json}");
        assert_eq!(log.tail(9).len(), 2);
    }

    #[test]
    fn colour_is_only_where_it_was_asked_for_and_a_quiet_terminal_keeps_the_log_of_the_run() {
        let shout = || tracing::error!("red");
        assert!(written(Format::Text, "info", true, shout).contains('\x1b'));
        assert!(!written(Format::Text, "info", false, shout).contains('\x1b'));
        let log = log();
        assert_eq!(written(Format::Text, "off", false, || log.span().in_scope(shout)), "");
        assert_eq!(bare(log.tail(1)), ["ERROR red"]);
    }

    #[test]
    fn a_level_sets_this_program_and_leaves_others_at_warnings() {
        assert_eq!(filter("debug").unwrap().to_string(), "backup_agent=debug,agent=debug,warn");
        assert_eq!(filter("off").unwrap().to_string(), "off");
        assert_eq!(filter("backup_agent=trace").unwrap().to_string(), "backup_agent=trace");
        for bad in ["loud=very", "", "a=b=c"] {
            let error = filter(bad).unwrap_err().to_string();
            assert!(error.contains("give error, warn, info"), "{bad:?}: {error}");
        }
    }
}
