//! A message as a JSON document, posted to any address, and signed.
//!
//! The document is described in `docs/notifications.md`; its `version` changes only when something in it
//! changes its meaning or goes. The signature is HMAC-SHA256 with a secret both sides know, in hexadecimal,
//! over the timestamp's text, a dot, and the bytes of the body: the timestamp is of the attempt, so that a
//! receiver can refuse what was recorded and comes again.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use sha2::Sha256;

use super::http::{Http, HttpSettings};
use super::templates::Templates;
use super::{Failure, Letter, SendError, view};
use crate::model::Secret;

/// The version of the document.
pub const VERSION: u32 = 1;
/// Seconds since 1970 at which the attempt was made, in decimal.
pub const TIMESTAMP: &str = "x-backup-agent-timestamp";
/// `v1=` and the signature in hexadecimal.
pub const SIGNATURE: &str = "x-backup-agent-signature";
/// The Message-ID, without angle brackets: the same in each attempt.
pub const MESSAGE_ID: &str = "x-backup-agent-message-id";
/// The same, under the name that gateways know.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How a webhook is reached.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Its address.
    pub http: HttpSettings,
    /// The secret that signs requests.
    pub secret: Option<Secret>,
    /// Further headers; their values may be secrets.
    pub headers: Vec<(String, Secret)>,
}

/// Posts to one address.
pub struct Webhook {
    http: Http,
    secret: Option<Secret>,
    headers: HeaderMap,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("signed", &self.secret.is_some()).finish_non_exhaustive()
    }
}

/// The document; what the message is about follows the first keys.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    id: &'a str,
    late: Option<&'a str>,
    #[serde(flatten)]
    message: &'a serde_json::Map<String, Value>,
}

impl Webhook {
    /// Checks the settings; nothing is sent.
    pub fn new(settings: &WebhookSettings) -> Result<Self> {
        let mut http = Http::new("webhook", &settings.http, false)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let key = HeaderName::from_bytes(name.as_bytes())
                .with_context(|| format!("{name:?} is no name of a header"))?;
            let Ok(mut header) = HeaderValue::from_str(value.expose()) else {
                bail!("the value of the header {name} is no line of visible ASCII characters");
            };
            header.set_sensitive(true);
            headers.insert(key, header);
            http.hide(value.expose().to_owned());
            // A scheme before the secret itself.
            value.expose().split(' ').for_each(|part| http.hide(part.to_owned()));
        }
        if let Some(secret) = &settings.secret {
            http.hide(secret.expose().to_owned());
        }
        Ok(Self { http, secret: settings.secret.clone(), headers })
    }

    /// Where the address leads, without what is secret in it.
    pub fn origin(&self) -> Option<super::reach::Origin> {
        self.http.origin()
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> std::time::Duration {
        self.http.timeout()
    }

    /// Posts one message.
    pub async fn send(&self, letter: &Letter<'_>, templates: &Templates) -> Result<(), SendError> {
        let body = payload(letter, templates)?;
        let id = bare(letter.message_id);
        let mut request = self
            .http
            .post(self.http.url().clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(MESSAGE_ID, id)
            .header(IDEMPOTENCY_KEY, id)
            .header("x-backup-agent-kind", letter.kind.as_str());
        if let Some(secret) = &self.secret {
            let timestamp = letter.now.timestamp().to_string();
            let signature = sign(secret, &timestamp, &body)?;
            request = request.header(TIMESTAMP, timestamp).header(SIGNATURE, format!("v1={signature}"));
        }
        self.http.send(request.body(body), letter.now).await
    }
}

/// The Message-ID without the brackets of mail.
fn bare(message_id: &str) -> &str {
    message_id.trim_start_matches('<').trim_end_matches('>')
}

fn sign(secret: &Secret, timestamp: &str, body: &str) -> Result<String, SendError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .map_err(|e| SendError::new(Failure::Permanent, format!("the message cannot be signed: {e}")))?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Ok(hex::encode(mac.finalize().into_bytes()))
}

/// The body of the request: the document, or what a template makes of it. A template that fails after all
/// gives way to the document, with a note in it.
fn payload(letter: &Letter<'_>, templates: &Templates) -> Result<String, SendError> {
    let kept = letter.data.as_object().cloned();
    let mut message = kept.unwrap_or_else(|| without_data(letter));
    if let Some(late) = letter.late {
        message.insert("late".to_owned(), late.into());
    }
    match templates.payload(&Value::Object(message.clone())) {
        None => {}
        Some(Ok(text)) => return Ok(text),
        Some(Err(problem)) => {
            tracing::error!("{problem}; the built-in document is sent");
            let note = format!("NOTE: {problem}; this is the built-in document.");
            message.insert("note".to_owned(), note.into());
        }
    }
    message.remove("late");
    let document =
        Document { version: VERSION, id: bare(letter.message_id), late: letter.late, message: &message };
    serde_json::to_string(&document).map_err(|e| {
        SendError::new(Failure::Permanent, format!("the message cannot be written as JSON: {e}"))
    })
}

/// What can be said of a message that was kept by an earlier version.
fn without_data(letter: &Letter<'_>) -> serde_json::Map<String, Value> {
    let created: DateTime<Utc> = letter.created;
    let mut message = serde_json::Map::new();
    for (key, value) in [
        ("kind", letter.kind.as_str()),
        ("severity", view::severity(letter.kind)),
        ("created", &created.to_rfc3339_opts(SecondsFormat::Secs, true)),
        ("subject", letter.subject),
        ("text", letter.text),
    ] {
        message.insert(key.to_owned(), value.into());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // Made with: printf '1764007212.{"a":1}' | openssl dgst -sha256 -hmac 's3cret of both'
        let expected = "8e7697128ee2fb05b3d94860aae1fc5c47457187c9b14e3c06b42681ddea1732";
        let found = sign(&Secret::new("s3cret of both"), "1764007212", r#"{"a":1}"#).unwrap();
        assert_eq!(found, expected);
    }
}
