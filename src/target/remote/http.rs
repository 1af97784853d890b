//! HTTP for stores: one client with its limits of time, blocking calls, and what an error means.
//!
//! The stores are used by plain threads; the client is asynchronous. Each store owns a small runtime, and its
//! calls wait for what runs there. Nothing waits for ever: a server may be silent for [`HttpSettings::silence`],
//! and for [`SLOW_ANSWER`] times that where it has much to do before it can answer.
//!
//! Redirects are not followed: they would take the credentials along, and a body that was sent is gone. Proxies
//! are those of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use rustls::CertificateError;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::proxy;
use crate::target::{Permanent, Unreached};

/// The longest time for a connection, with the look-up of the name and the TLS handshake.
const LONGEST_CONNECT: Duration = Duration::from_secs(30);
/// How long a connection is kept for the next request. Short, since servers close theirs without a word.
const KEEP_OPEN: Duration = Duration::from_secs(20);
/// How many times longer an answer may take that comes after work: a large object stored, a folder moved.
pub(super) const SLOW_ANSWER: u32 = 4;

/// How a server is reached.
#[derive(Debug, Clone)]
pub(super) struct HttpSettings {
    /// A PEM file with certificate authorities that are trusted besides the system's.
    pub(super) ca_file: Option<PathBuf>,
    /// The longest time without a byte from or to the server.
    pub(super) silence: Duration,
    /// Threads that send and receive.
    pub(super) threads: usize,
}

/// Makes the client alone. The process must have installed a TLS provider before.
///
/// # Errors
/// The file with certificates cannot be read, or holds none; a proxy of the environment cannot be used.
pub(super) fn client(settings: &HttpSettings) -> Result<Client> {
    let mut builder = Client::builder()
        // One large body at a time: HTTP/2 gains nothing, and its library logs paths.
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(settings.silence.min(LONGEST_CONNECT))
        .pool_idle_timeout(KEEP_OPEN)
        .tcp_keepalive(settings.silence)
        .user_agent(concat!("backup-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &settings.ca_file {
        let pem = std::fs::read(path)
            .map_err(|e| Permanent(format!("cannot read `ca_file` {}: {e}", path.display())))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or_else(|| Permanent(format!("`ca_file` {} holds no PEM certificate", path.display())))?;
        builder = builder.tls_certs_merge(certificates);
    }
    proxy::check(|name| std::env::var(name).ok())?;
    builder.build().context("cannot set up HTTP")
}

/// A client, and the runtime it works on.
#[derive(Debug)]
pub(super) struct Http {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    client: Client,
    silence: Duration,
}

impl Http {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// As [`client`]; no thread can be started.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.threads)
            .thread_name("http")
            .enable_all()
            .build()
            .context("cannot start a thread for HTTP")?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, client: client(settings)?, silence: settings.silence })
    }

    /// The client, to begin requests with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The longest time without a byte.
    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// Its runtime, for what has limits of time of its own. Not to be waited on by a thread of a runtime.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for something asynchronous, at most `limit`. Not to be called by a thread of a runtime.
    pub(super) fn wait<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.handle.block_on(async {
            match tokio::time::timeout(limit, work).await {
                Ok(done) => done,
                Err(_) => Err(Failure::silent(limit)),
            }
        })
    }

    /// Begins something that goes on while nobody waits.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(work)
    }

    /// Sends a request whose body is small, and gives the answer's head, whatever it says; the body is still to
    /// come. `limit` is for all of it.
    pub(super) fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Response, Failure> {
        self.wait(limit, async { request.send().await.map_err(|e| Failure::unreached(&e)) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, which a look-up of a name may hold for long.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why a request failed, as the rest of a sentence that begins with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What went wrong, and what to do.
    pub(super) reason: String,
    /// Trying again changes nothing.
    pub(super) permanent: bool,
}

impl Failure {
    /// One that may pass.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), permanent: false }
    }

    /// One that stays until somebody changes something.
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), permanent: true }
    }

    /// The server said nothing, or took nothing, for so long.
    pub(super) fn silent(limit: Duration) -> Self {
        let limit = humantime::format_duration(Duration::from_millis(limit.as_millis() as u64));
        Self::passing(format!("nothing came from the server for {limit}"))
    }

    /// There was no answer.
    pub(super) fn unreached(error: &reqwest::Error) -> Self {
        if let Some(failure) = certificate(error) {
            return failure;
        }
        let reason = causes(error);
        let proxy = error.url().and_then(proxy::of);
        if reason.contains("proxy authorization required") {
            return Self::permanent(proxy::wants_login(proxy.as_ref()));
        }
        let through = proxy.map_or_else(String::new, |proxy| {
            format!(
                "; the connection goes through the proxy {}, which the environment names; NO_PROXY leaves hosts out",
                proxy.at
            )
        });
        let what = match error {
            e if e.is_timeout() => "the server did not answer in time",
            e if e.is_connect() => "cannot reach the server",
            _ => "the connection broke",
        };
        Self::passing(format!("{what}: {reason}{through}"))
    }

    /// The answer was a refusal, and nothing more is known of what it means for a store.
    pub(super) fn refused(status: StatusCode, location: Option<&str>) -> Self {
        let passing = |hint: &str| Self::passing(format!("the server answered {status}{hint}"));
        let permanent = |hint: &str| Self::permanent(format!("the server answered {status}{hint}"));
        match status.as_u16() {
            401 => permanent("; check the login and the password"),
            403 => permanent("; this login may not do that"),
            407 => permanent(&format!("; {}", proxy::wants_login(None))),
            411 => permanent(
                "; it takes no object whose length is not known beforehand, so it can be a further target only",
            ),
            413 => permanent("; the object is larger than it takes, which its configuration limits"),
            423 => passing("; an upload that broke off is still open there, or somebody else has it open"),
            507 => permanent("; it is full, or the quota is used up: make room"),
            300..=399 => {
                let to = location.map_or_else(String::new, |to| format!(" to {to}"));
                permanent(&format!(
                    "{to}; a redirect is not followed, since it would take the password along: correct the address"
                ))
            }
            _ => passing(""),
        }
    }

    /// The whole sentence.
    pub(super) fn at(self, address: &str) -> anyhow::Error {
        let text = format!("{address}: {}", self.reason);
        if self.permanent { Permanent(text).into() } else { Unreached(text).into() }
    }

    /// The same for `Read` and `Write`.
    pub(super) fn into_io(self, address: &str) -> io::Error {
        let text = format!("{address}: {}", self.reason);
        if self.permanent { io::Error::other(Permanent(text)) } else { io::Error::other(Unreached(text)) }
    }
}

/// Where a redirect leads, without what may be secret in it.
pub(super) fn location(response: &Response) -> Option<String> {
    let to = response.headers().get(reqwest::header::LOCATION)?.to_str().ok()?;
    let mut to = response.url().join(to).ok()?;
    to.set_query(None);
    let _ = (to.set_username(""), to.set_password(None));
    Some(to.into())
}

/// The causes of an error in one line, each once. The address is left out: it stands before it.
fn causes(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    // The outermost only says that it was about a request.
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Names of the layers of the library, which say nothing to anybody.
        let layer = text.starts_with("client error (") || text == "tcp connect error";
        if !layer && !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        source = cause.source();
    }
    if causes.is_empty() { "without a reason".to_owned() } else { causes.join(": ") }
}

/// What a certificate that is not accepted means; none when that is not the reason.
fn certificate(error: &reqwest::Error) -> Option<Failure> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => cause.downcast_ref::<rustls::Error>(),
        };
        if let Some(rustls::Error::InvalidCertificate(why)) = found {
            return Some(Failure::permanent(judge(why)));
        }
        source = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

fn judge(why: &CertificateError) -> String {
    let what = match why {
        CertificateError::UnknownIssuer => {
            "the server's certificate comes from an authority this machine does not know; name a file with the \
             authority's certificate in `ca_file`, if it is the right server"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is made for another host name; write the name it is made for into the \
             address, or have it made for this one"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it, or set this machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; check this machine's clock"
        }
        CertificateError::Revoked => "the server's certificate was revoked",
        other => return format!("the server's certificate is not accepted: {other:?}"),
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_somebody_must_mend_are_told_apart_from_what_passes() {
        let judge = |code| Failure::refused(StatusCode::from_u16(code).unwrap(), None).permanent;
        for code in [301, 302, 307, 308, 401, 403, 407, 411, 413, 507] {
            assert!(judge(code), "{code}");
        }
        for code in [404, 408, 409, 423, 429, 500, 502, 503, 504] {
            assert!(!judge(code), "{code}");
        }
        let moved = Failure::refused(StatusCode::MOVED_PERMANENTLY, Some("https://new.example.org/"));
        assert!(moved.reason.contains("https://new.example.org/"), "{}", moved.reason);
    }

    #[test]
    fn a_ca_file_that_is_none_is_named_and_is_no_passing_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let settings =
            HttpSettings { ca_file: Some(path.clone()), silence: Duration::from_secs(1), threads: 1 };
        for content in [None, Some("no certificate")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = client(&settings).unwrap_err();
            assert!(crate::target::is_permanent(&error), "{error:#}");
            assert!(error.to_string().contains("ca.pem"), "{error:#}");
        }
    }
}
