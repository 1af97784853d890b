//! The part of the configuration that says who is told, of what, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::schema::{AbsolutePath, DurationText, HttpUrl, MailAddress, SecretFile, SmtpUrl};
use crate::model::{JobName, Secret};

/// One channel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NotifyConfig {
    /// Mail over SMTP.
    Email(EmailConfig),
    /// A JSON document, posted to any address and signed.
    Webhook(WebhookConfig),
    /// A message to an ntfy topic, for telephones.
    Ntfy(NtfyConfig),
    /// Pings to a dead man's switch that knows start, success and failure (healthchecks style).
    Ping(PingConfig),
    /// The plainest ping: the address after a good run, address + `/fail` after a bad one.
    Heartbeat(HeartbeatConfig),
}

/// Mail over SMTP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// `smtps://host:465`, `smtp://host:587?tls=required`, or `smtp://127.0.0.1:25` without TLS on loopback.
    #[schemars(with = "SmtpUrl")]
    pub smtp: String,
    /// Login name.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// Sender.
    #[schemars(with = "MailAddress")]
    pub from: String,
    /// Receivers.
    #[schemars(with = "Vec<MailAddress>")]
    pub to: Vec<String>,
    /// What is told.
    #[serde(flatten)]
    pub telling: Telling,
    /// Labels put into the subject, by event (`failure = "backup-failure"`).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// A template file that replaces the built-in subject.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub subject_template: Option<PathBuf>,
    /// A template file that replaces the built-in plain text.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub body_template: Option<PathBuf>,
    /// A template file that replaces the built-in HTML.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub html_template: Option<PathBuf>,
    /// How its server is reached.
    #[serde(flatten)]
    pub reaching: Reaching,
}

/// A JSON document, posted to any address and signed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// File with the address; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub url_file: Option<PathBuf>,
    /// The address, where it is no secret.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub url: Option<SecretUrl>,
    /// File with the secret that signs each request; without one nothing is signed.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub secret_file: Option<PathBuf>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Further headers with secret values, each in a file.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretFile>")]
    pub header_files: BTreeMap<String, PathBuf>,
    /// What is told.
    #[serde(flatten)]
    pub telling: Telling,
    /// A template file that replaces the built-in subject.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub subject_template: Option<PathBuf>,
    /// A template file that replaces the built-in text.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub body_template: Option<PathBuf>,
    /// A template file that replaces the whole document; it must give JSON.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub payload_template: Option<PathBuf>,
    /// How its server is reached.
    #[serde(flatten)]
    pub reaching: Reaching,
}

/// A message to an ntfy topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NtfyConfig {
    /// File with the address of the topic, `https://ntfy.sh/TOPIC`; who knows a topic can read and write it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub url_file: Option<PathBuf>,
    /// The address of the topic, where it is no secret.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub url: Option<SecretUrl>,
    /// File with an access token.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub token_file: Option<PathBuf>,
    /// Priorities from 1 (least) to 5, by event (`failure = 5`).
    #[serde(default)]
    pub priorities: BTreeMap<String, u8>,
    /// Tags put on each message beside those of its event.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What is told.
    #[serde(flatten)]
    pub telling: Telling,
    /// A template file that replaces the built-in title.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub subject_template: Option<PathBuf>,
    /// A template file that replaces the built-in text.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub body_template: Option<PathBuf>,
    /// How its server is reached.
    #[serde(flatten)]
    pub reaching: Reaching,
}

/// Pings to a dead man's switch that knows start, success and failure.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PingConfig {
    /// What is asked for.
    #[serde(flatten)]
    pub address: PingAddress,
    /// What is pinged.
    #[serde(default = "super::defaults::ping_on")]
    pub on: Vec<PingOn>,
    /// Append the exit status (`/0`, `/1`, `/3`, `/130`) instead of nothing and `/fail`.
    #[serde(default)]
    pub exit_status: bool,
    /// The jobs it pings for; all when absent. A switch watches one job, so there is usually one.
    #[serde(default)]
    pub jobs: Option<Vec<JobName>>,
    /// How its server is reached.
    #[serde(flatten)]
    pub reaching: Reaching,
}

/// The plainest ping to a dead man's switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// What is asked for.
    #[serde(flatten)]
    pub address: PingAddress,
    /// The jobs it pings for; all when absent.
    #[serde(default)]
    pub jobs: Option<Vec<JobName>>,
    /// How its server is reached.
    #[serde(flatten)]
    pub reaching: Reaching,
}

/// What channels for people tell.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Telling {
    /// Which ends of a run are told.
    #[serde(default = "super::defaults::notify_on")]
    pub on: Vec<NotifyOn>,
    /// Whether good runs are told: each one, once a day, or not.
    #[serde(default)]
    pub success: SuccessMail,
    /// How often a failure that lasts is told again.
    #[serde(default = "super::defaults::remind", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub remind: Duration,
    /// The jobs it tells about; all when absent.
    #[serde(default)]
    pub jobs: Option<Vec<JobName>>,
}

/// How the server of a channel is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Reaching {
    /// How long one attempt may take.
    #[serde(default = "super::defaults::send_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// A PEM file with a further certificate authority.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub ca_file: Option<PathBuf>,
}

/// The address of a dead man's switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PingAddress {
    /// File with the address; it is a secret, so others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub url_file: Option<PathBuf>,
    /// The address, where it is no secret.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub url: Option<SecretUrl>,
}

/// An address that may be a credential by itself: shown nowhere.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The address itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::show::REDACTED)
    }
}

/// As it is shown, never as it is.
impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(super::show::REDACTED)
    }
}

/// Which ends of a run are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NotifyOn {
    /// No new backup.
    Failure,
    /// A backup with something unreadable.
    Partial,
    /// A good backup, but a copy, retention or verification failed.
    Degraded,
    /// A run that died or was ended.
    Interrupted,
    /// Good again after a failure that was told.
    Recovery,
}

/// What a dead man's switch is pinged at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PingOn {
    /// A run begins.
    Start,
    /// A run ended well.
    Success,
    /// A run ended otherwise.
    Failure,
}

/// Whether good runs are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SuccessMail {
    /// Each one.
    Always,
    /// A digest once a day.
    Daily,
    /// Not.
    #[default]
    Never,
}

impl NotifyConfig {
    /// The jobs it tells about; all when absent.
    pub fn jobs(&self) -> Option<&[JobName]> {
        match self {
            NotifyConfig::Ping(c) => c.jobs.as_deref(),
            NotifyConfig::Heartbeat(c) => c.jobs.as_deref(),
            _ => self.telling()?.jobs.as_deref(),
        }
    }

    /// True when it tells about a job, so far as the channel itself decides.
    pub fn tells(&self, job: &JobName) -> bool {
        self.jobs().is_none_or(|jobs| jobs.contains(job))
    }

    /// What it tells people; absent for pings.
    pub fn telling(&self) -> Option<&Telling> {
        match self {
            NotifyConfig::Email(c) => Some(&c.telling),
            NotifyConfig::Webhook(c) => Some(&c.telling),
            NotifyConfig::Ntfy(c) => Some(&c.telling),
            NotifyConfig::Ping(_) | NotifyConfig::Heartbeat(_) => None,
        }
    }

    /// How its server is reached.
    pub fn reaching(&self) -> &Reaching {
        match self {
            NotifyConfig::Email(c) => &c.reaching,
            NotifyConfig::Webhook(c) => &c.reaching,
            NotifyConfig::Ntfy(c) => &c.reaching,
            NotifyConfig::Ping(c) => &c.reaching,
            NotifyConfig::Heartbeat(c) => &c.reaching,
        }
    }

    /// How often it reminds a person of a failure that lasts; absent for pings.
    pub fn remind(&self) -> Option<Duration> {
        self.telling().map(|telling| telling.remind)
    }

    /// Every file with a secret it names, with the key that names it.
    pub fn secret_files(&self) -> Vec<(Vec<&str>, &PathBuf)> {
        let named: Vec<(&str, &Option<PathBuf>)> = match self {
            NotifyConfig::Email(c) => vec![("password_file", &c.password_file)],
            NotifyConfig::Webhook(c) => vec![("url_file", &c.url_file), ("secret_file", &c.secret_file)],
            NotifyConfig::Ntfy(c) => vec![("url_file", &c.url_file), ("token_file", &c.token_file)],
            NotifyConfig::Ping(c) => vec![("url_file", &c.address.url_file)],
            NotifyConfig::Heartbeat(c) => vec![("url_file", &c.address.url_file)],
        };
        let mut files: Vec<(Vec<&str>, &PathBuf)> =
            named.into_iter().filter_map(|(key, file)| Some((vec![key], file.as_ref()?))).collect();
        if let NotifyConfig::Webhook(c) = self {
            files.extend(
                c.header_files.iter().map(|(name, file)| (vec!["header_files", name.as_str()], file)),
            );
        }
        files
    }

    /// Every other file it names, with its key: templates and certificates.
    pub fn plain_files(&self) -> Vec<(&'static str, &PathBuf)> {
        let templates: Vec<(&'static str, &Option<PathBuf>)> = match self {
            NotifyConfig::Email(c) => vec![
                ("subject_template", &c.subject_template),
                ("body_template", &c.body_template),
                ("html_template", &c.html_template),
            ],
            NotifyConfig::Webhook(c) => vec![
                ("subject_template", &c.subject_template),
                ("body_template", &c.body_template),
                ("payload_template", &c.payload_template),
            ],
            NotifyConfig::Ntfy(c) => {
                vec![("subject_template", &c.subject_template), ("body_template", &c.body_template)]
            }
            NotifyConfig::Ping(_) | NotifyConfig::Heartbeat(_) => Vec::new(),
        };
        let files = std::iter::once(("ca_file", &self.reaching().ca_file)).chain(templates);
        files.filter_map(|(key, file)| Some((key, file.as_ref()?))).collect()
    }
}
