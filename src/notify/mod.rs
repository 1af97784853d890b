//! Who is told what, and how it gets there.
//!
//! Two halves. Pure: [`transitions`] decides which messages are due, [`message`] renders them from
//! [`facts`]. At the edges: [`email`] and [`heartbeat`] send, [`outbox`] delivers what the state keeps
//! until it is accepted, and [`spool`] keeps messages while the state cannot be written.

pub mod body;
pub mod email;
pub mod facts;
pub mod gather;
pub mod heartbeat;
pub mod hints;
pub mod html;
pub mod message;
pub mod notices;
pub mod outbox;
pub mod plan;
pub mod reach;
pub mod spool;

pub mod text;
pub mod transitions;

use std::fmt;

use chrono::{DateTime, Utc};

use self::email::{EmailSettings, Mailer};
use self::heartbeat::{HeartbeatSettings, Pinger};
use self::message::{Kind, Labels, Rendered};
use self::transitions::Policy;
use crate::model::ChannelName;

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server was not reached, not trusted, or refused the login: other messages would fare no better
    /// now.
    Unreachable,
    /// This message was not taken now.
    Transient,
    /// This message or receiver was refused for good: trying again cannot help.
    Permanent,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SendError {
    /// What follows from it.
    pub failure: Failure,
    /// What was tried, with host and receiver, and what the answer was. Holds no secret.
    pub text: String,
}

impl SendError {
    fn new(failure: Failure, text: impl Into<String>) -> Self {
        Self { failure, text: text.into() }
    }
}

/// A way to tell somebody: its name, what it wants to hear, and how it sends.
pub struct Channel {
    /// Its name in the configuration.
    pub name: ChannelName,
    /// What it is told.
    pub policy: Policy,
    /// What stands in brackets in subjects.
    pub labels: Labels,
    sender: Sender,
}

enum Sender {
    Email(Mailer),
    Heartbeat(Pinger),
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
    /// A channel that mails. Fails on settings that cannot work: an address or server that is none, an
    /// unreadable `ca_file`, a server without TLS that is not this machine.
    pub fn email(
        name: ChannelName,
        policy: Policy,
        labels: Labels,
        settings: &EmailSettings,
    ) -> anyhow::Result<Self> {
        Ok(Self { name, policy, labels, sender: Sender::Email(Mailer::new(settings)?) })
    }

    /// A channel that pings a dead man's switch after each run.
    pub fn heartbeat(name: ChannelName, settings: &HeartbeatSettings) -> anyhow::Result<Self> {
        let policy = Policy {
            on: [Kind::Failure, Kind::Partial, Kind::Interrupted].into(),
            success: transitions::SuccessMode::Always,
            remind: std::time::Duration::ZERO,
        };
        Ok(Self {
            name,
            policy,
            labels: Labels::default(),
            sender: Sender::Heartbeat(Pinger::new(settings)?),
        })
    }

    /// True for a channel that is told of every run and keeps no record of troubles.
    pub fn is_heartbeat(&self) -> bool {
        matches!(self.sender, Sender::Heartbeat(_))
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> std::time::Duration {
        match &self.sender {
            Sender::Email(mailer) => mailer.timeout(),
            Sender::Heartbeat(pinger) => pinger.timeout(),
        }
    }

    /// The receivers: one row of the outbox each. A heartbeat has one, named like the channel, since its
    /// address is a secret.
    pub fn recipients(&self) -> Vec<String> {
        match &self.sender {
            Sender::Email(mailer) => mailer.recipients(),
            Sender::Heartbeat(_) => vec![self.name.to_string()],
        }
    }

    /// The Message-ID of a message to one of the receivers.
    pub fn message_id(&self, rendered: &Rendered, recipient: &str) -> String {
        let sender = match &self.sender {
            Sender::Email(mailer) => mailer.sender(),
            Sender::Heartbeat(_) => "heartbeat.invalid".to_owned(),
        };
        message::message_id(rendered, self.name.as_str(), recipient, &sender)
    }

    /// Looks whether the other end can be reached, and sends nothing: a sentence either way.
    pub async fn reach(&self, timeout: std::time::Duration) -> Result<String, String> {
        match &self.sender {
            Sender::Email(mailer) => mailer.reach(timeout).await,
            Sender::Heartbeat(pinger) => reach::connect(pinger.origin(), timeout.min(pinger.timeout())),
        }
    }

    /// Sends one message to one receiver, within the channel's timeout.
    pub async fn send(&self, letter: &Letter<'_>) -> Result<(), SendError> {
        match &self.sender {
            Sender::Email(mailer) => mailer.send(letter).await,
            Sender::Heartbeat(pinger) => pinger.send(letter.kind, letter.text).await,
        }
    }
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
}

#[cfg(test)]
mod tests;
