//! Mail over SMTP: one message to one receiver, within a deadline, and a clear sentence when it was not
//! accepted.
//!
//! The connection is encrypted, except to this machine. The mail library's own timeout does not fire
//! against a server that accepts a connection and then is silent: a deadline stands around every send.
//! The library is built without two of its features: `tracing` logs the login, and `pool` panics when a
//! transport is made or dropped outside an async runtime. Each message has a connection of its own.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use super::{Failure, Letter, SendError, text};
use crate::model::Secret;

/// How a mail server is reached.
#[derive(Debug, Clone)]
pub struct EmailSettings {
    /// `smtps://host:465` (TLS from the start), `smtp://host:587?tls=required` (STARTTLS, or nothing is
    /// sent), or `smtp://127.0.0.1:25` (no TLS, this machine only).
    pub url: String,
    /// Login name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Sender, `backup@example.org` or `Backups <backup@example.org>`.
    pub from: String,
    /// Receivers.
    pub to: Vec<String>,
    /// How long one attempt may take, from the connection to the server's last answer.
    pub timeout: Duration,
    /// A PEM file with a certificate authority that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Tls,
    StartTls,
    None,
}

/// In the place of a receiver where none was tried.
const NOBODY: &str = "nobody.invalid";

struct Server {
    host: String,
    port: u16,
    encryption: Encryption,
}

/// Sends mail by one server.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    server: String,
    from: Mailbox,
    to: Vec<Mailbox>,
    timeout: Duration,
    password: Option<Secret>,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("server", &self.server).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Mailer {
    /// Checks the settings; nothing is sent and no connection made.
    pub fn new(settings: &EmailSettings) -> Result<Self> {
        let server = parse_url(&settings.url)?;
        let from: Mailbox = settings
            .from
            .parse()
            .with_context(|| format!("`from`: {:?} is no mail address", settings.from))?;
        if settings.to.is_empty() {
            bail!("`to` names no receiver");
        }
        let to = settings
            .to
            .iter()
            .map(|to| to.parse().with_context(|| format!("`to`: {to:?} is no mail address")))
            .collect::<Result<Vec<Mailbox>>>()?;

        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
            .port(server.port)
            .timeout(Some(settings.timeout));
        if server.encryption != Encryption::None {
            let mut tls = TlsParameters::builder(server.host.clone());
            if let Some(path) = &settings.ca_file {
                let pem = std::fs::read(path)
                    .with_context(|| format!("cannot read `ca_file` {}", path.display()))?;
                let certificate = Certificate::from_pem(&pem)
                    .with_context(|| format!("`ca_file` {} holds no PEM certificate", path.display()))?;
                tls = tls.add_root_certificate(certificate);
            }
            let tls = tls.build().context("cannot set up TLS for mail")?;
            builder = builder.tls(match server.encryption {
                Encryption::Tls => Tls::Wrapper(tls),
                _ => Tls::Required(tls),
            });
        }
        match (&settings.user, &settings.password) {
            (Some(user), Some(password)) => {
                builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
            }
            (None, None) => {}
            (Some(_), None) => bail!("`user` is given, but no password: set `password_file`"),
            (None, Some(_)) => bail!("a password is given, but no `user`"),
        }
        Ok(Self {
            transport: builder.build(),
            server: format!("{}:{}", server.host, server.port),
            from,
            to,
            timeout: settings.timeout,
            password: settings.password.clone(),
        })
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends one message to one receiver. `Ok` means that the server took responsibility for it.
    pub async fn send(&self, letter: &Letter<'_>) -> Result<(), SendError> {
        let message = self.compose(letter)?;
        match tokio::time::timeout(self.timeout, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.explain(&error, letter.recipient)),
            Err(_) => Err(SendError::new(
                Failure::Unreachable,
                format!(
                    "the mail server {} did not finish taking the message for {} within {}",
                    self.server,
                    letter.recipient,
                    text::span(self.timeout)
                ),
            )),
        }
    }

    /// Connects, encrypts, logs in and says goodbye: everything but a message.
    pub async fn reach(&self, timeout: Duration) -> Result<String, String> {
        let timeout = timeout.min(self.timeout);
        match tokio::time::timeout(timeout, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(format!("the mail server {} takes messages from here", self.server)),
            Ok(Ok(false)) => Err(format!("the mail server {} broke the connection off", self.server)),
            Ok(Err(error)) => {
                // No message was tried, and so no receiver either.
                let text = self.explain(&error, NOBODY).text;
                Err(text
                    .replace(&format!(" to {NOBODY}"), "")
                    .replace(&format!("the message for {NOBODY}"), "messages"))
            }
            Err(_) => {
                Err(format!("the mail server {} did not answer within {}", self.server, text::span(timeout)))
            }
        }
    }

    fn compose(&self, letter: &Letter<'_>) -> Result<Message, SendError> {
        let no_address = |e: &dyn fmt::Display| {
            SendError::new(Failure::Permanent, format!("{:?} is no mail address: {e}", letter.recipient))
        };
        let to: Mailbox = letter.recipient.parse().map_err(|e| no_address(&e))?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.email.clone()])
            .map_err(|e| no_address(&e))?;
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .envelope(envelope)
            .date(letter.created.into())
            .message_id(Some(letter.message_id.to_owned()))
            // Rendered subjects are clean already; a spooled file could have been edited.
            .subject(text::line(letter.subject, super::message::SUBJECT_LIMIT));
        for (name, value) in letter.headers {
            let name = HeaderName::new_from_ascii(name.clone()).map_err(|_| {
                SendError::new(Failure::Permanent, format!("{name:?} is no name of a mail header"))
            })?;
            message = message.raw_header(HeaderValue::new(name, text::line(value, 500)));
        }
        message
            .multipart(MultiPart::alternative_plain_html(letter.text.to_owned(), letter.html.to_owned()))
            .map_err(|e| SendError::new(Failure::Permanent, format!("the message cannot be composed: {e}")))
    }

    fn explain(&self, error: &lettre::transport::smtp::Error, recipient: &str) -> SendError {
        let server = &self.server;
        let answer = self.redact(&text::line(&answer_of(error), 300));
        // A refused login is the configuration's fault, not the message's: it is tried again, so that
        // nothing is lost once somebody corrects the password.
        const LOGIN_CODES: [u16; 5] = [454, 530, 534, 535, 538];
        let code = error.status().map(u16::from);
        match code {
            Some(code) if LOGIN_CODES.contains(&code) => SendError::new(
                Failure::Unreachable,
                format!(
                    "the mail server {server} refused the login ({code} {answer}); check `user` and `password_file`"
                ),
            ),
            Some(code) if error.is_permanent() => SendError::new(
                Failure::Permanent,
                format!(
                    "the mail server {server} refused the message for {recipient} for good ({code} {answer})"
                ),
            ),
            Some(code) => SendError::new(
                Failure::Transient,
                format!(
                    "the mail server {server} does not take the message for {recipient} now ({code} {answer})"
                ),
            ),
            None if error.is_tls() => SendError::new(
                Failure::Unreachable,
                format!(
                    "no encrypted connection to the mail server {server}: {answer}; check the certificate, \
                 `ca_file` and this machine's clock"
                ),
            ),
            None if error.is_client() => SendError::new(
                Failure::Unreachable,
                format!(
                    "the mail server {server} does not offer what is asked for: {answer}; check `smtp` and `user`"
                ),
            ),
            None => SendError::new(
                Failure::Unreachable,
                format!("cannot send by the mail server {server} to {recipient}: {answer}"),
            ),
        }
    }

    /// No server has a reason to echo a password; if one does, it goes no further.
    fn redact(&self, text: &str) -> String {
        use base64::Engine as _;
        let mut text = text.to_owned();
        if let Some(password) = self.password.as_ref().map(Secret::expose).filter(|p| !p.is_empty()) {
            let encoded = base64::engine::general_purpose::STANDARD.encode(password);
            text = text.replace(password, "[secret]").replace(&encoded, "[secret]");
        }
        text
    }
}

/// What the error is about, without the library's classification in front: the server's answer, or the
/// chain of causes.
fn answer_of(error: &lettre::transport::smtp::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        source = cause.source();
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

fn parse_url(url: &str) -> Result<Server> {
    const FORMS: &str =
        "`smtps://HOST:465`, `smtp://HOST:587?tls=required`, or `smtp://127.0.0.1:25` for this machine";
    // The address is not repeated in errors: somebody may have put a password into it.
    let url =
        reqwest::Url::parse(url).with_context(|| format!("`smtp` is no address; it looks like {FORMS}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        bail!("`smtp` must not hold a login: use `user` and `password_file`");
    }
    let host = match url.host_str() {
        Some(host) if !host.is_empty() => host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        _ => bail!("`smtp` names no host; it looks like {FORMS}"),
    };
    if !matches!(url.path(), "" | "/") {
        bail!("`smtp` must end after the port; it looks like {FORMS}");
    }
    let mut tls = None;
    for (key, value) in url.query_pairs() {
        match (key.as_ref(), value.as_ref()) {
            ("tls", "required") => tls = Some(true),
            ("tls", "none") => tls = Some(false),
            _ => bail!("`smtp`: {key}={value} means nothing here; after `?` only tls=required or tls=none"),
        }
    }
    let encryption = match (url.scheme(), tls) {
        ("smtps", None | Some(true)) => Encryption::Tls,
        ("smtp", Some(true)) => Encryption::StartTls,
        ("smtp", _) if is_loopback(&host) => Encryption::None,
        ("smtp", _) => {
            bail!("`smtp`: mail to {host} must be encrypted: add `?tls=required`, or use smtps://")
        }
        ("smtps", Some(false)) => bail!("`smtp`: smtps:// and tls=none contradict one another"),
        (scheme, _) => bail!("`smtp`: {scheme}:// is no mail server; it looks like {FORMS}"),
    };
    let port = url.port().unwrap_or(match encryption {
        Encryption::Tls => 465,
        Encryption::StartTls => 587,
        Encryption::None => 25,
    });
    Ok(Server { host, port, encryption })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
