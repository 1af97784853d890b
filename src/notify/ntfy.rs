//! A message to an ntfy topic, for telephones.
//!
//! Published as JSON to the root of the server, as <https://docs.ntfy.sh/publish/#publish-as-json>
//! describes: title and text are values of a document there, so that nothing in them can become a header,
//! and no header has to be encoded. Who knows a topic can read and write it, so the address is a secret.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Serialize;

use super::http::{Http, HttpSettings};
use super::message::{Kind, SUBJECT_LIMIT};
use super::{Letter, SendError, phone, text};
use crate::model::Secret;

/// How a topic is reached, and how its messages look.
#[derive(Debug, Clone)]
pub struct NtfySettings {
    /// The address of the topic, `https://ntfy.sh/TOPIC`.
    pub http: HttpSettings,
    /// An access token.
    pub token: Option<Secret>,
    /// Priorities from 1 to 5 that differ from the usual ones.
    pub priorities: BTreeMap<Kind, u8>,
    /// Tags put on each message.
    pub tags: Vec<String>,
}

/// Publishes to one topic.
pub struct Ntfy {
    http: Http,
    server: Url,
    topic: String,
    authorization: Option<HeaderValue>,
    priorities: BTreeMap<Kind, u8>,
    tags: Vec<String>,
}

impl fmt::Debug for Ntfy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ntfy").field("tags", &self.tags).finish_non_exhaustive()
    }
}

/// The document, with the names of the public API.
#[derive(Serialize)]
struct Document<'a> {
    topic: &'a str,
    title: &'a str,
    message: &'a str,
    priority: u8,
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click: Option<&'a str>,
}

/// The usual priority and the tag of each kind; a tag with the name of an emoji is shown as one.
fn usual(kind: Kind) -> (u8, &'static str) {
    match kind {
        Kind::Failure => (4, "rotating_light"),
        Kind::Partial => (4, "warning"),
        Kind::Interrupted => (4, "rotating_light"),
        Kind::Reminder => (4, "alarm_clock"),
        Kind::Verify => (4, "rotating_light"),
        Kind::Check => (4, "stethoscope"),
        Kind::Agent => (4, "wrench"),
        Kind::Degraded => (3, "warning"),
        Kind::Recovery => (3, "white_check_mark"),
        Kind::Test => (3, "test_tube"),
        Kind::Success => (2, "white_check_mark"),
        Kind::Digest => (2, "clipboard"),
    }
}

impl Ntfy {
    /// Checks the settings; nothing is sent.
    pub fn new(settings: &NtfySettings) -> Result<Self> {
        let mut http = Http::new("ntfy server", &settings.http, false)?;
        let mut server = http.url().clone();
        server.set_query(None);
        server.set_fragment(None);
        let topic = server.path_segments().and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
        let Some(topic) = topic.map(str::to_owned) else {
            bail!("the address of the ntfy topic must end with the topic, such as https://ntfy.sh/TOPIC");
        };
        if topic.len() > 64 || topic.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_') {
            bail!(
                "the address of the ntfy topic must end with the topic: letters, digits, - and _, at most 64"
            );
        }
        if let Ok(mut parts) = server.path_segments_mut() {
            parts.pop_if_empty().pop();
            parts.push("");
        }
        let authorization = match &settings.token {
            None => None,
            Some(token) => {
                http.hide(token.expose().to_owned());
                let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) else {
                    bail!("the ntfy token is no line of visible ASCII characters");
                };
                value.set_sensitive(true);
                Some(value)
            }
        };
        let (priorities, tags) = (settings.priorities.clone(), settings.tags.clone());
        Ok(Self { http, server, topic, authorization, priorities, tags })
    }

    /// Where the address leads, without what is secret in it.
    pub fn origin(&self) -> Option<super::reach::Origin> {
        self.http.origin()
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> std::time::Duration {
        self.http.timeout()
    }

    /// Publishes one message. A message that comes again under the same Message-ID is shown twice: the
    /// server has no memory for that.
    pub async fn send(&self, letter: &Letter<'_>) -> Result<(), SendError> {
        let (priority, tag) = usual(letter.kind);
        let title = text::line(letter.subject, SUBJECT_LIMIT);
        let message = phone::fit(&text::harmless(letter.text.trim_end()));
        let document = Document {
            topic: &self.topic,
            title: &title,
            message: &message,
            priority: self.priorities.get(&letter.kind).copied().unwrap_or(priority),
            tags: std::iter::once(tag).chain(self.tags.iter().map(String::as_str)).collect(),
            click: letter.data.get("link").and_then(|link| link.as_str()),
        };
        let mut request = self.http.post(self.server.clone()).json(&document);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        self.http.send(request, letter.now).await
    }
}
