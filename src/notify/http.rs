//! One HTTP request to a service that takes messages: within a deadline, with a bounded answer, and a
//! sentence about what went wrong in which no secret stands.
//!
//! Addresses of webhooks, topics and dead man's switches are credentials, so nothing here shows more of
//! them than the host. A redirect is not followed: it would carry headers and body, which hold secrets, to
//! whoever it names. HTTP/2 is left out, since its library logs paths at its lowest level.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use reqwest::header::RETRY_AFTER;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};

use super::reach::Origin;
use super::{Failure, SendError, text};
use crate::model::Secret;
use crate::state::LONGEST_PAUSE;

/// How much of a refusal's text is read.
const ANSWER_BYTES: usize = 2048;
/// How long a refusal's text may take; its status is known by then.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The longest wait a server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
const _: () = assert!(LONGEST_RETRY_AFTER.as_secs() <= LONGEST_PAUSE.num_seconds() as u64);
/// Texts shorter than this are not looked for in answers: they would hide half of every sentence.
const SHORTEST_SECRET: usize = 6;

/// How a service is reached.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The address, `http` or `https`.
    pub url: Secret,
    /// How long one attempt may take, from the look-up of the name to the answer's status.
    pub timeout: Duration,
    /// A PEM file with a certificate authority that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// A service: its address, and what must not be shown of it.
pub(super) struct Http {
    client: Client,
    /// What it is called in sentences: `the webhook at hooks.example.org`.
    name: String,
    url: Url,
    timeout: Duration,
    secrets: Vec<String>,
}

impl Http {
    /// Checks the settings; no connection is made. `what` is what the service is called; `plain` allows
    /// `http:` to other machines. The process must have installed a TLS provider before.
    pub(super) fn new(what: &str, settings: &HttpSettings, plain: bool) -> Result<Self> {
        let Ok(url) = Url::parse(settings.url.expose().trim()) else {
            bail!("the {what}'s address is none; it looks like https://HOST/PATH");
        };
        if !matches!(url.scheme(), "http" | "https") {
            bail!("the {what}'s address must begin with https:// or http://");
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        // From the configuration this is refused already; an address in a file is seen here first.
        if url.scheme() == "http" && !plain && !is_loopback(&host) {
            bail!(
                "the {what}'s address would send secrets unencrypted; use https:// (http:// is for loopback only)"
            );
        }
        let mut builder = Client::builder()
            .timeout(settings.timeout)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // One message a connection: nothing is kept open between them.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("backup-agent/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.ca_file {
            let pem =
                std::fs::read(path).with_context(|| format!("cannot read `ca_file` {}", path.display()))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|found| !found.is_empty())
                .with_context(|| format!("`ca_file` {} holds no PEM certificate", path.display()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().with_context(|| format!("cannot set up HTTP for the {what}"))?;
        let mut http = Self {
            client,
            name: format!("the {what} at {host}"),
            timeout: settings.timeout,
            secrets: Vec::new(),
            url,
        };
        http.hide(http.url.as_str().to_owned());
        let parts: Vec<String> = [http.url.path(), http.url.query().unwrap_or_default()]
            .iter()
            .flat_map(|part| part.split(['/', '&', '=']))
            .chain([http.url.username(), http.url.password().unwrap_or_default()])
            .map(str::to_owned)
            .collect();
        parts.into_iter().for_each(|part| http.hide(part));
        Ok(http)
    }

    /// Adds a text that must not be shown, should an answer repeat it.
    pub(super) fn hide(&mut self, secret: String) {
        // Whole words of a path that everybody has, such as `services` or `webhook`, are no loss.
        if secret.len() >= SHORTEST_SECRET {
            self.secrets.push(secret);
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// The service's address.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Where the address leads, without what is secret in it.
    pub(super) fn origin(&self) -> Option<Origin> {
        Origin::of(&self.url)
    }

    /// How long one attempt may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins a POST to an address of this service.
    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// Begins a GET of an address of this service.
    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends a request. `Ok` means an answer of the class 2xx, whose text nobody reads. From `now` counts the
    /// date until which a server wants to be left alone.
    pub(super) async fn send(&self, request: RequestBuilder, now: DateTime<Utc>) -> Result<(), SendError> {
        self.send_any(vec![request], now).await
    }

    /// Sends the first of the requests; the next one only when the service does not know the method.
    pub(super) async fn send_any(
        &self,
        requests: Vec<RequestBuilder>,
        now: DateTime<Utc>,
    ) -> Result<(), SendError> {
        let attempt = async {
            let mut last = None;
            for request in requests {
                let response = request.send().await.map_err(|error| self.unreached(error))?;
                let again = response.status() == StatusCode::METHOD_NOT_ALLOWED;
                last = Some(response);
                if !again {
                    break;
                }
            }
            Ok(last)
        };
        // A deadline around everything: the look-up of the name and the connection count as well.
        let response = tokio::time::timeout(self.timeout, attempt).await.map_err(|_| {
            SendError::new(
                Failure::Unreachable,
                format!("{} did not answer within {}", self.name, text::span(self.timeout)),
            )
        })??;
        match response {
            Some(response) if response.status().is_success() => Ok(()),
            Some(response) => Err(self.refused(response, now).await),
            None => Err(SendError::new(Failure::Permanent, "there was nothing to send")),
        }
    }

    fn unreached(&self, error: reqwest::Error) -> SendError {
        let error = error.without_url();
        if error.is_timeout() {
            let waited = text::span(self.timeout);
            return SendError::new(
                Failure::Unreachable,
                format!("{} did not answer within {waited}", self.name),
            );
        }
        let mut causes: Vec<String> = Vec::new();
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !causes.iter().any(|known| known.contains(&text)) {
                causes.push(text);
            }
            source = cause.source();
        }
        let reason = self.redact(&text::line(&causes.join(": "), 300));
        let hint = if reason.contains("certificate") || reason.contains("UnknownIssuer") {
            "; check the certificate, `ca_file` and this machine's clock"
        } else {
            ""
        };
        SendError::new(Failure::Unreachable, format!("cannot reach {}: {reason}{hint}", self.name))
    }

    /// What an answer that is no success means.
    async fn refused(&self, response: Response, now: DateTime<Utc>) -> SendError {
        let status = response.status();
        let wait = retry_after(&response, now);
        let said = match answer(response).await {
            said if said.is_empty() => String::new(),
            said => format!(" ({})", self.redact(&said)),
        };
        let (failure, hint) = judge(status);
        let text = match failure {
            Failure::Permanent => format!("{} refused the message with {status}{said}{hint}", self.name),
            _ => format!("{} answered {status}{said}{hint}", self.name),
        };
        SendError {
            retry_after: wait.filter(|_| failure != Failure::Permanent),
            ..SendError::new(failure, text)
        }
    }

    fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[secret]"))
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What follows from a status that is no success, and what to do.
fn judge(status: StatusCode) -> (Failure, &'static str) {
    match status.as_u16() {
        // Limits pass, and concern every message; so does a service that is down for a while.
        408 | 425 | 429 | 500..=599 => (Failure::Unreachable, ""),
        401 | 403 | 407 => (Failure::Permanent, "; check the token or secret, then `agent notify retry`"),
        404 | 410 => (Failure::Permanent, "; check the address, then `agent notify retry`"),
        400..=499 => (Failure::Permanent, ""),
        301 | 308 => (
            Failure::Permanent,
            "; it has moved, and a redirect is not followed, since it would take secrets along: correct the address, then `agent notify retry`",
        ),
        300..=399 => {
            (Failure::Unreachable, "; a redirect is not followed, since it would take secrets along")
        }
        _ => (Failure::Unreachable, ""),
    }
}

/// The wait a server asks for, in seconds or until a date.
fn retry_after(response: &Response, now: DateTime<Utc>) -> Option<Duration> {
    parse_retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?, now)
}

fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The beginning of an answer, as one harmless line. One that never ends, or does not come, is cut off.
async fn answer(mut response: Response) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < ANSWER_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = ANSWER_BYTES - bytes.len();
                    bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_TIME, read).await;
    text::line(&String::from_utf8_lossy(&bytes), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_given_in_seconds_or_as_a_date_and_is_never_absurd() {
        let now: DateTime<Utc> = "2026-11-24T18:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Tue, 24 Nov 2026 18:05:00 GMT", Some(300)),
            ("Tue, 24 Nov 2026 17:00:00 GMT", Some(0)),
            ("99999999999", Some(24 * 3600)),
            ("-5", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now).map(|w| w.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn refusals_are_for_good_and_limits_pass() {
        let judge = |code| judge(StatusCode::from_u16(code).unwrap()).0;
        for code in [400, 401, 403, 404, 410, 413, 418, 422, 301, 308] {
            assert_eq!(judge(code), Failure::Permanent, "{code}");
        }
        for code in [408, 425, 429, 500, 502, 503, 504, 302, 303, 307] {
            assert_eq!(judge(code), Failure::Unreachable, "{code}");
        }
    }
}
