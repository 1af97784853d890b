//! A channel: its name, what it wants to hear, how its messages look, and how it sends.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::email::{EmailSettings, Mailer};
use super::http::HttpSettings;
use super::message::{self, Content, Kind, Labels, Layout, Rendered, render_as};
use super::ntfy::{Ntfy, NtfySettings};
use super::ping::{Dialect, Ping, Pinger};
use super::templates::{self, TemplateFiles, Templates};
use super::transitions::{Policy, SuccessMode};
use super::webhook::{Webhook, WebhookSettings};
use super::{Failure, SendError, reach};
use crate::model::{ChannelName, JobName};

/// A way to tell somebody.
pub struct Channel {
    /// Its name in the configuration.
    pub name: ChannelName,
    /// What it is told.
    pub policy: Policy,
    /// What stands in brackets in subjects.
    pub labels: Labels,
    extras: Extras,
    templates: Templates,
    layout: Layout,
    /// The switch's dialect, for a channel that pings one.
    dialect: Option<Dialect>,
    recipients: Vec<String>,
    /// What stands after the `@` in Message-IDs, or an address that ends so.
    id_domain: String,
    timeout: Duration,
    /// How it sends, or why it cannot.
    sender: Result<Sender, String>,
}

enum Sender {
    Email(Box<Mailer>),
    Webhook(Box<Webhook>),
    Ntfy(Box<Ntfy>),
    Ping(Box<Pinger>),
}

/// What every kind of channel can have beside its own settings.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// The jobs it tells about; all when absent.
    pub jobs: Option<Vec<JobName>>,
    /// Files whose texts replace the built-in ones.
    pub templates: TemplateFiles,
    /// Where people reach the status page.
    pub status_url: Option<String>,
}

impl AsRef<Channel> for Channel {
    fn as_ref(&self) -> &Channel {
        self
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Channel {
    fn made(name: ChannelName, policy: Policy, labels: Labels, layout: Layout, id_domain: &str) -> Self {
        Self {
            recipients: vec![name.to_string()],
            name,
            policy,
            labels,
            extras: Extras::default(),
            templates: Templates::default(),
            layout,
            dialect: None,
            id_domain: id_domain.to_owned(),
            timeout: Duration::from_secs(30),
            sender: Err("it has no sender".to_owned()),
        }
    }

    /// A channel that mails. One whose settings cannot work (an address or server that is none, an
    /// unreadable `ca_file`, a server without TLS that is not this machine) is an error.
    pub fn email(
        name: ChannelName,
        policy: Policy,
        labels: Labels,
        settings: &EmailSettings,
    ) -> anyhow::Result<Self> {
        let mailer = Mailer::new(settings)?;
        Ok(Self {
            timeout: mailer.timeout(),
            sender: Ok(Sender::Email(Box::new(mailer))),
            ..Self::unsent_email(name, policy, labels, &settings.from, &settings.to)
        })
    }

    /// A channel that would mail to these receivers.
    fn unsent_email(name: ChannelName, policy: Policy, labels: Labels, from: &str, to: &[String]) -> Self {
        let bare = |address: &str| {
            address.parse::<lettre::message::Mailbox>().map_or(address.to_owned(), |a| a.email.to_string())
        };
        let shown = |address: &String| {
            address.parse::<lettre::message::Mailbox>().map_or(address.clone(), |a| a.to_string())
        };
        Self {
            recipients: to.iter().map(shown).collect(),
            ..Self::made(name, policy, labels, Layout::Mail, &bare(from))
        }
    }

    /// A channel that posts JSON.
    pub fn webhook(name: ChannelName, policy: Policy, settings: &WebhookSettings) -> anyhow::Result<Self> {
        let webhook = Webhook::new(settings)?;
        let timeout = webhook.timeout();
        let sender = Ok(Sender::Webhook(Box::new(webhook)));
        let labels = Labels::default();
        Ok(Self { timeout, sender, ..Self::made(name, policy, labels, Layout::Plain, "webhook.invalid") })
    }

    /// A channel that publishes to a topic.
    pub fn ntfy(name: ChannelName, policy: Policy, settings: &NtfySettings) -> anyhow::Result<Self> {
        let ntfy = Ntfy::new(settings)?;
        let timeout = ntfy.timeout();
        let sender = Ok(Sender::Ntfy(Box::new(ntfy)));
        let labels = Labels::default();
        Ok(Self { timeout, sender, ..Self::made(name, policy, labels, Layout::Phone, "ntfy.invalid") })
    }

    /// A channel that pings a dead man's switch at the ends of runs, and at their beginnings where the
    /// dialect says so.
    pub fn ping(name: ChannelName, settings: &HttpSettings, dialect: Dialect) -> anyhow::Result<Self> {
        let pinger = Pinger::new(settings, dialect)?;
        let timeout = pinger.timeout();
        let sender = Ok(Sender::Ping(Box::new(pinger)));
        Ok(Self { timeout, sender, ..Self::unsent_ping(name, dialect) })
    }

    fn unsent_ping(name: ChannelName, dialect: Dialect) -> Self {
        let policy = Policy {
            on: [Kind::Failure, Kind::Partial, Kind::Interrupted].into(),
            success: SuccessMode::Always,
            remind: Duration::ZERO,
        };
        let domain = if dialect.rich { "ping.invalid" } else { "heartbeat.invalid" };
        let made = Self::made(name, policy, Labels::default(), Layout::Plain, domain);
        Self { dialect: Some(dialect), ..made }
    }

    /// A channel whose settings cannot work now. Messages are made and kept for it, and go out once
    /// somebody has put it right.
    pub fn broken(
        name: ChannelName,
        policy: Policy,
        labels: Labels,
        as_kind: Unsent<'_>,
        why: String,
    ) -> Self {
        let made = match as_kind {
            Unsent::Email { from, to } => Self::unsent_email(name, policy, labels, from, to),
            Unsent::Webhook => Self::made(name, policy, labels, Layout::Plain, "webhook.invalid"),
            Unsent::Ntfy => Self::made(name, policy, labels, Layout::Phone, "ntfy.invalid"),
            Unsent::Ping(dialect) => Self::unsent_ping(name, dialect),
        };
        Self { sender: Err(why), ..made }
    }

    /// The channel with what every kind can have.
    pub fn with(mut self, extras: Extras) -> Self {
        self.templates = Templates::load(extras.templates.clone());
        self.extras = extras;
        self
    }

    /// What is wrong with its settings, a sentence each: that it cannot be used at all, or that templates
    /// cannot.
    pub fn problems(&self) -> Vec<String> {
        let broken = self.sender.as_ref().err().map(|why| format!("it cannot be used: {why}"));
        let templates =
            self.templates.problems().map(|problem| format!("{problem}; built-in texts are used"));
        broken.into_iter().chain(templates).collect()
    }

    /// True when it cannot send.
    pub fn is_broken(&self) -> bool {
        self.sender.is_err()
    }

    /// True for a channel that pings a switch: it is told of every run and keeps no record of troubles.
    pub fn is_ping(&self) -> bool {
        self.dialect.is_some()
    }

    /// What a switch wants to hear; absent for channels with readers.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// True when it tells about a job, so far as the channel itself decides.
    pub fn tells(&self, job: &JobName) -> bool {
        self.extras.jobs.as_ref().is_none_or(|jobs| jobs.contains(job))
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The receivers: one row of the outbox each. All but mail have one, named like the channel, since
    /// their addresses are secrets.
    pub fn recipients(&self) -> Vec<String> {
        self.recipients.clone()
    }

    /// A message as this channel shows it.
    pub fn render(&self, content: Content<'_>, now: DateTime<Utc>) -> Rendered {
        let label = self.labels.get(content.kind());
        let built_in = render_as(self.layout, content, &self.labels, now);
        let view = templates::view(&content, &built_in, &label, self.extras.status_url.as_deref(), now);
        let mut message = self.templates.apply(built_in, &view);
        message.data = match &self.layout {
            // A mail says everything in its texts.
            Layout::Mail => Value::Null,
            Layout::Phone => serde_json::json!({ "link": view["link"] }),
            Layout::Plain => {
                let mut data = view;
                data["subject"] = message.subject.clone().into();
                data["text"] = message.text.clone().into();
                data
            }
        };
        message
    }

    /// The Message-ID of a message to one of the receivers.
    pub fn message_id(&self, rendered: &Rendered, recipient: &str) -> String {
        message::message_id(rendered, self.name.as_str(), recipient, &self.id_domain)
    }

    /// Looks whether the other end can be reached, and sends nothing: a sentence either way.
    pub async fn reach(&self, timeout: Duration) -> Result<String, String> {
        let timeout = timeout.min(self.timeout);
        match &self.sender {
            Ok(Sender::Email(mailer)) => mailer.reach(timeout).await,
            Ok(Sender::Webhook(webhook)) => reach::connect(webhook.origin(), timeout),
            Ok(Sender::Ntfy(ntfy)) => reach::connect(ntfy.origin(), timeout),
            Ok(Sender::Ping(pinger)) => reach::connect(pinger.origin(), timeout),
            Err(why) => Err(format!("it cannot be used: {why}")),
        }
    }

    /// Sends one message to one receiver, within the channel's timeout.
    pub async fn send(&self, letter: &Letter<'_>) -> Result<(), SendError> {
        match &self.sender {
            Ok(Sender::Email(mailer)) => mailer.send(letter).await,
            Ok(Sender::Webhook(webhook)) => webhook.send(letter, &self.templates).await,
            Ok(Sender::Ntfy(ntfy)) => ntfy.send(letter).await,
            Ok(Sender::Ping(pinger)) => {
                let kept = serde_json::from_value(letter.data.clone());
                let ping = kept.unwrap_or_else(|_| Ping::of_kind(letter.kind));
                pinger.send(&ping, letter.text, letter.now).await
            }
            Err(why) => Err(SendError::new(
                Failure::Unreachable,
                format!("the channel {} cannot be used: {why}", self.name),
            )),
        }
    }
}

/// What a channel that cannot send would be.
#[derive(Debug, Clone, Copy)]
pub enum Unsent<'a> {
    /// Mail.
    Email {
        /// The sender.
        from: &'a str,
        /// The receivers.
        to: &'a [String],
    },
    /// JSON.
    Webhook,
    /// A topic.
    Ntfy,
    /// A switch.
    Ping(Dialect),
}

/// One message on its way to one receiver.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// The receiver.
    pub recipient: &'a str,
    /// The same in each attempt.
    pub message_id: &'a str,
    /// When the message was made: its date.
    pub created: DateTime<Utc>,
    /// When this attempt is made.
    pub now: DateTime<Utc>,
    /// What it is about.
    pub kind: Kind,
    /// The subject.
    pub subject: &'a str,
    /// Plain body.
    pub text: &'a str,
    /// HTML body.
    pub html: &'a str,
    /// Further headers.
    pub headers: &'a [(String, String)],
    /// What the channel needs beside the texts; see [`Rendered::data`].
    pub data: &'a Value,
    /// The notice that it comes late, which the texts of mail hold already.
    pub late: Option<&'a str>,
}
