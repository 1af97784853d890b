//! Texts of messages from files, in the language of Jinja.
//!
//! A template is compiled and tried on a sample of every kind of message when the channel is made, so that a
//! mistake shows at the start, with file and line, and not on the day of the first failure. One that fails
//! all the same gives way to the built-in text, which then says so: never silence.
//!
//! Undefined names are errors, the work a template may do is bounded, and so is what it writes. HTML is
//! escaped by itself. No template can read files or include another.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::{Serde, Value as Jinja};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use super::message::{Content, Rendered, SUBJECT_LIMIT};
use super::{html, samples, text};
use crate::model::ByteSize;

/// Steps one rendering may take.
const FUEL: u64 = 200_000;
/// Bytes one rendering may write.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// The largest template file.
const FILE_LIMIT: u64 = 256 * 1024;

/// The files of a channel's templates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateFiles {
    /// Replaces the subject.
    pub subject: Option<PathBuf>,
    /// Replaces the plain text.
    pub body: Option<PathBuf>,
    /// Replaces the HTML of a mail.
    pub html: Option<PathBuf>,
    /// Replaces the document of a webhook.
    pub payload: Option<PathBuf>,
}

/// A text that a template makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Subject,
    Body,
    Html,
    Payload,
}

impl Slot {
    const ALL: [Slot; 4] = [Slot::Subject, Slot::Body, Slot::Html, Slot::Payload];

    /// Its name in the environment of templates; the end decides about escaping.
    fn name(self) -> &'static str {
        match self {
            Slot::Subject => "subject.txt",
            Slot::Body => "body.txt",
            Slot::Html => "body.html",
            Slot::Payload => "payload.json",
        }
    }

    fn file(self, files: &TemplateFiles) -> Option<&PathBuf> {
        match self {
            Slot::Subject => files.subject.as_ref(),
            Slot::Body => files.body.as_ref(),
            Slot::Html => files.html.as_ref(),
            Slot::Payload => files.payload.as_ref(),
        }
    }
}

/// The templates of a channel. Without files everything is built in.
#[derive(Default)]
pub struct Templates {
    environment: Option<Environment<'static>>,
    files: TemplateFiles,
    problems: Vec<(Slot, String)>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").field("files", &self.files).field("problems", &self.problems).finish()
    }
}

impl Templates {
    /// Reads and compiles the files, and tries each on a sample of every kind of message. What is wrong is
    /// in [`Templates::problems`]; those templates are not used.
    pub fn load(files: TemplateFiles) -> Self {
        if files == TemplateFiles::default() {
            return Self::default();
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|name| {
            if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
        });
        environment.add_filter("tojson", to_json);
        environment.add_filter("bytes", |count: u64| ByteSize(count).to_string());
        environment.add_filter("span", |seconds: u64| text::span(std::time::Duration::from_secs(seconds)));
        let mut templates = Self { environment: None, files, problems: Vec::new() };
        for slot in Slot::ALL {
            let Some(file) = slot.file(&templates.files).cloned() else { continue };
            let compiled = read(&file).and_then(|source| {
                environment.add_template_owned(slot.name(), source).map_err(|error| explain(&file, &error))
            });
            if let Err(problem) = compiled {
                templates.problems.push((slot, problem));
            }
        }
        templates.environment = Some(environment);
        for slot in Slot::ALL.into_iter().filter(|slot| slot.file(&templates.files).is_some()) {
            if templates.problems.iter().any(|(known, _)| *known == slot) {
                continue;
            }
            let tried = samples::each(&mut |content, view| {
                templates.render(slot, view).map(drop).map_err(|problem| (content.kind(), problem))
            });
            if let Err((kind, problem)) = tried {
                templates.problems.push((slot, format!("{problem} (tried with a {kind} message)")));
            }
        }
        templates
    }

    /// What is wrong with the files, a sentence each, with file and line.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|(_, problem)| problem.as_str())
    }

    /// Puts the templates' texts into a message. `view` is the message as data.
    pub fn apply(&self, mut message: Rendered, view: &Value) -> Rendered {
        let mut notes = Vec::new();
        let mut made = |slot| match self.usable(slot, view)? {
            Ok(text) => Some(text),
            Err(problem) => {
                tracing::error!("{problem}; the built-in text is used");
                notes.push(format!("{problem}; this is the built-in text."));
                None
            }
        };
        let (subject, body, html_body) = (made(Slot::Subject), made(Slot::Body), made(Slot::Html));
        if let Some(subject) = subject {
            message.subject = text::line(&subject, SUBJECT_LIMIT);
        }
        if let Some(body) = body {
            message.text = text::harmless(&body);
            // The two halves of a mail must not say different things.
            if !message.html.is_empty() && self.files.html.is_none() {
                message.html = html::of_text(&message.text);
            }
        }
        if let Some(html_body) = html_body.filter(|_| !message.html.is_empty()) {
            message.html = text::harmless(&html_body);
        }
        for note in notes {
            (message.text, message.html) = super::message::with_notice(&message.text, &message.html, &note);
        }
        message
    }

    /// The document a webhook gets; absent without a template for it.
    pub fn payload(&self, view: &Value) -> Option<Result<String, String>> {
        self.usable(Slot::Payload, view)
    }

    fn usable(&self, slot: Slot, view: &Value) -> Option<Result<String, String>> {
        slot.file(&self.files)?;
        Some(match self.problems.iter().find(|(known, _)| *known == slot) {
            Some((_, problem)) => Err(problem.clone()),
            None => self.render(slot, view),
        })
    }

    fn render(&self, slot: Slot, view: &Value) -> Result<String, String> {
        let file = slot.file(&self.files).map_or(Path::new(""), PathBuf::as_path);
        let Some(environment) = &self.environment else { return Err("there is no template".to_owned()) };
        let template = environment.get_template(slot.name()).map_err(|error| explain(file, &error))?;
        let mut out = Bounded(Vec::new());
        template
            .render_captured_to(Jinja::from(Serde(view)), &mut out)
            .map_err(|error| explain(file, &error))?;
        let text = String::from_utf8_lossy(&out.0).into_owned();
        if text.trim().is_empty() {
            return Err(format!("template {}: it gives nothing", file.display()));
        }
        if slot == Slot::Payload
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text)
        {
            return Err(format!(
                "template {}: it gives no JSON: {error}; write texts as {{{{ subject|tojson }}}}",
                file.display()
            ));
        }
        Ok(text)
    }
}

fn read(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let wrong = |error: &dyn fmt::Display| format!("template {shown}: it cannot be read: {error}");
    let meta = std::fs::metadata(file).map_err(|error| wrong(&error))?;
    if !meta.is_file() {
        return Err(wrong(&"it is not a file"));
    }
    if meta.len() > FILE_LIMIT {
        return Err(wrong(&format!("it has more than {FILE_LIMIT} bytes")));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(&error))
}

/// An error of the template language with the file's own name and line.
fn explain(file: &Path, error: &Error) -> String {
    let place = match error.line() {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    };
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "it does too much work".to_owned(),
        ErrorKind::WriteFailure => format!("it writes more than {OUTPUT_LIMIT} bytes"),
        ErrorKind::UndefinedError => {
            let name = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            format!(
                "it uses a value there is not{name}; see the list of facts in docs/notifications.md, and ask with \
                 `{{% if run %}}` before using what not every message has"
            )
        }
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    format!("template {place}: {}", text::line(&what, 400))
}

fn to_json(value: Jinja) -> Result<Jinja, Error> {
    serde_json::to_string(&value)
        .map(Jinja::from_safe_string)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Takes so many bytes and no more.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_LIMIT {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message as data, for templates: its facts with the built-in texts.
pub(super) fn view(
    content: &Content<'_>,
    message: &Rendered,
    label: &str,
    status_url: Option<&str>,
    now: chrono::DateTime<chrono::Utc>,
) -> Value {
    let frame = super::view::Frame { label, subject: &message.subject, text: &message.text, status_url };
    super::view::of(content, frame, now)
}
