//! What stands around every page, and the pages that have nothing else: not found, not readable.

use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::View;
use super::style::CSS;
use super::text::{Marked, clip, marked};

/// Head and foot of a page; the template `layout.html` reads its fields.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// What the tab says before the host.
    pub title: String,
    /// The worst state on the page, for the tab's icon.
    pub class: &'static str,
    /// The host.
    pub host: String,
    /// When the page was made, where it shows facts.
    pub as_of: Option<String>,
    /// Where the page stands, for the link that turns reloading on or off.
    pub path: String,
    /// Whether the reader asked for reloading; the server then says so in a header.
    pub watched: bool,
    /// How this program is called on this host.
    pub command: String,
}

impl Frame {
    /// The frame of a page of facts.
    pub(super) fn new(view: &View, title: impl Into<String>, class: &'static str, path: String) -> Self {
        Self {
            title: title.into(),
            class,
            host: view.config.host_name(),
            as_of: Some(as_of(view.now, view.config.timezone)),
            path,
            watched: view.watched,
            command: view.command.clone(),
        }
    }

    /// The frame of a page that has nothing but its text.
    fn bare(host: &str, title: &str, class: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            class,
            host: host.to_owned(),
            as_of: None,
            path: String::new(),
            watched: false,
            command: String::new(),
        }
    }

    /// The style sheet, byte for byte as the policy has its digest.
    pub(super) fn css(&self) -> &'static str {
        CSS
    }

    /// The version of this program.
    pub(super) fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

fn as_of(now: DateTime<Utc>, tz: Tz) -> String {
    now.with_timezone(&tz).format("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A page that says one thing.
#[derive(Template)]
#[template(path = "message.html")]
struct Message {
    frame: Frame,
    heading: &'static str,
    text: String,
    advice: Marked,
}

/// The page when the state cannot be read.
pub(super) fn unreadable(host: &str, reason: &str) -> askama::Result<String> {
    Message {
        frame: Frame::bare(host, "State unreadable", "critical"),
        heading: "The state cannot be read",
        text: clip(reason, 2_000).into_owned(),
        advice: marked("Backups may still run: `agent status` and the journal say more.", "agent", 200),
    }
    .render()
}

/// The page where there is nothing. The path is not repeated: it is whoever linked here that chose it.
pub(super) fn not_found(host: &str, what: &'static str) -> askama::Result<String> {
    Message {
        frame: Frame::bare(host, "Not found", "unknown"),
        heading: "Not found",
        text: what.to_owned(),
        advice: marked("The start page has every job, and each job its runs.", "agent", 200),
    }
    .render()
}
