//! How a line of the log looks.

use std::fmt::{self, Write as _};

use chrono::Local;
use serde_json::{Map, Value};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::event::Record;
use super::runs::InRun;

/// Time in lines for people: the zone of the host, as everything else on it logs.
pub(super) const TEXT_TIME: &str = "%Y-%m-%d %H:%M:%S%:z";
const JSON_TIME: &str = "%Y-%m-%dT%H:%M:%S%.3f%:z";

/// The forms of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `2026-11-24 19:00:00+01:00  WARN [web 20261124T180000Z-k3f9qa] message key=value`
    Text,
    /// A JSON object.
    Json,
    /// `<4>[web 20261124T180000Z-k3f9qa] message key=value`: the journal takes the priority, and has the time.
    JournalText,
    /// A JSON object after a priority.
    JournalJson,
}

/// Formats events in one of the styles.
pub(super) struct Lines(pub(super) Style);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut record = Record::of(event);
        // The innermost span counts: a late copy of one run may be made while another goes on.
        let within = context.event_scope().and_then(|mut scope| {
            scope.find_map(|span| {
                span.extensions().get::<InRun>().map(|run| (run.job.clone(), run.run.clone()))
            })
        });
        if let Some((job, run)) = within {
            record.job.get_or_insert(job);
            record.run.get_or_insert(run);
        }
        let colour = writer.has_ansi_escapes();
        let metadata = event.metadata();
        writer.write_str(&line(self.0, *metadata.level(), metadata.target(), record, colour))
    }
}

/// A line of the program about its own log.
pub(super) fn without_event(style: Style, level: Level, text: &str) -> String {
    line(style, level, module_path!(), Record::text_only(text), false)
}

fn line(style: Style, level: Level, target: &str, record: Record, colour: bool) -> String {
    let mut line = String::with_capacity(160);
    if matches!(style, Style::JournalText | Style::JournalJson) {
        // Writing to a String cannot fail, here and below.
        let _ = write!(line, "<{}>", priority(level));
    }
    match style {
        Style::Text => {
            let time = Local::now().format(TEXT_TIME);
            let _ = match colour {
                true => write!(line, "\x1b[2m{time}\x1b[0m \x1b[{}m{level:>5}\x1b[0m ", paint(level)),
                false => write!(line, "{time} {level:>5} "),
            };
            line.push_str(&subject(&record));
            line.push_str(&record.line());
        }
        Style::JournalText => {
            line.push_str(&subject(&record));
            line.push_str(&record.line());
        }
        Style::Json | Style::JournalJson => line.push_str(&json(level, target, record)),
    }
    line.push('\n');
    line
}

/// `[web 20261124T180000Z-k3f9qa] `, or nothing.
fn subject(record: &Record) -> String {
    match (&record.job, &record.run) {
        (Some(job), Some(run)) => format!("[{job} {run}] "),
        (Some(only), None) | (None, Some(only)) => format!("[{only}] "),
        (None, None) => String::new(),
    }
}

fn json(level: Level, target: &str, mut record: Record) -> String {
    let mut object: Map<String, Value> = Map::new();
    object.insert("timestamp".to_owned(), Local::now().format(JSON_TIME).to_string().into());
    object.insert("level".to_owned(), level.as_str().into());
    object.insert("target".to_owned(), target.into());
    for (name, value) in [("job", record.job.take()), ("run", record.run.take())] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.into());
        }
    }
    record.put_into(&mut object);
    Value::Object(object).to_string()
}

/// The priority of syslog(3) for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The colour of a level, as terminals number them.
fn paint(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        _ => 35,
    }
}
