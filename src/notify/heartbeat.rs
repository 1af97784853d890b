//! Pings to a dead man's switch: the address after a good run, the address + `/fail` after a bad one.
//!
//! Whoever knows the address can silence the switch, so it is a secret: errors and `Debug` name only the
//! host.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, StatusCode, Url};

use super::message::Kind;
use super::{Failure, SendError, text};
use crate::model::Secret;

/// Longest body sent, in bytes.
const BODY_LIMIT: usize = 4000;

/// A dead man's switch.
#[derive(Debug, Clone)]
pub struct HeartbeatSettings {
    /// The address, `http` or `https`.
    pub url: Secret,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// Pings one address.
pub struct Pinger {
    client: reqwest::Client,
    good: Url,
    bad: Url,
    host: String,
    timeout: Duration,
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Pinger {
    /// Checks the address. The process must have installed a TLS provider before.
    pub fn new(settings: &HeartbeatSettings) -> Result<Self> {
        let Ok(good) = Url::parse(settings.url.expose().trim()) else {
            bail!("the heartbeat's address is none; it looks like https://hc.example.org/ping/SECRET");
        };
        if !matches!(good.scheme(), "http" | "https") {
            bail!("the heartbeat's address must begin with https:// or http://");
        }
        let host = good.host_str().unwrap_or_default().to_owned();
        let mut bad = good.clone();
        match bad.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().push("fail");
            }
            Err(()) => bail!("the heartbeat's address has no path"),
        }
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            // HTTP/2 logs the path at its lowest level, and a redirect would be logged as well.
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("backup-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up HTTP for the heartbeat")?;
        Ok(Self { client, good, bad, host, timeout: settings.timeout })
    }

    /// Where the address leads, without what is secret in it.
    pub fn origin(&self) -> Option<super::reach::Origin> {
        super::reach::Origin::of(&self.good)
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Pings, with `body` (outcome and run id) for people who look at the switch. A test pings the good
    /// address.
    pub async fn send(&self, kind: Kind, body: &str) -> Result<(), SendError> {
        let url = if matches!(kind, Kind::Failure | Kind::Partial | Kind::Interrupted | Kind::Reminder) {
            &self.bad
        } else {
            &self.good
        };
        // A deadline around everything: name look-up and connection count as well.
        let attempt = async {
            match self.request(Method::POST, url, Some(body)).await {
                // Some switches only know GET.
                Ok(StatusCode::METHOD_NOT_ALLOWED) => self.request(Method::GET, url, None).await,
                other => other,
            }
        };
        let status = tokio::time::timeout(self.timeout, attempt).await.map_err(|_| {
            SendError::new(
                Failure::Unreachable,
                format!("the heartbeat at {} did not answer within {}", self.host, text::span(self.timeout)),
            )
        })??;
        match status {
            s if s.is_success() => Ok(()),
            // Limits pass; so may an address that is wrong today, once somebody corrects it.
            s => Err(SendError::new(
                Failure::Unreachable,
                format!(
                    "the heartbeat at {} answered {s}{}",
                    self.host,
                    match s.as_u16() {
                        301..=308 | 401 | 403 | 404 | 410 => "; check the address in `url_file`",
                        _ => "",
                    }
                ),
            )),
        }
    }

    async fn request(&self, method: Method, url: &Url, body: Option<&str>) -> Result<StatusCode, SendError> {
        let mut request = self.client.request(method, url.clone());
        if let Some(body) = body {
            let mut end = body.len().min(BODY_LIMIT);
            while !body.is_char_boundary(end) {
                end -= 1;
            }
            request =
                request.header("content-type", "text/plain; charset=utf-8").body(body[..end].to_owned());
        }
        match request.send().await {
            Ok(response) => Ok(response.status()),
            Err(error) => {
                let error = error.without_url();
                let mut reason = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    reason.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                Err(SendError::new(
                    Failure::Unreachable,
                    format!("cannot reach the heartbeat at {}: {}", self.host, text::line(&reason, 300)),
                ))
            }
        }
    }
}

/// The short body of a ping.
pub fn body(job: &str, outcome: &str, run: &str) -> String {
    text::line(&format!("{job}: {outcome}, run {run}"), 300)
}
