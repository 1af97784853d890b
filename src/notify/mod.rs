//! Who is told what, and how it gets there.
//!
//! Two halves. Pure: [`transitions`] decides which messages are due, [`message`] renders them from
//! [`facts`], [`templates`] put other texts in their place. At the edges: [`email`], [`webhook`], [`ntfy`]
//! and [`ping`] send, [`outbox`] delivers what the state keeps until it is accepted, and [`spool`] keeps
//! messages while the state cannot be written.

pub mod body;
pub mod channel;
pub mod email;
pub mod facts;
pub mod gather;
pub mod hints;
pub mod html;
mod http;
pub mod message;
pub mod notices;
pub mod ntfy;
pub mod outbox;
mod phone;
pub mod ping;
pub mod plan;
pub mod reach;
mod samples;
pub mod spool;
pub mod templates;
pub mod text;
pub mod transitions;
pub mod verified;
pub mod view;
pub mod webhook;

pub use self::channel::{Channel, Extras, Letter, Unsent};
pub use self::http::HttpSettings;

use std::time::Duration;

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
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl SendError {
    fn new(failure: Failure, text: impl Into<String>) -> Self {
        Self { failure, text: text.into(), retry_after: None }
    }
}

#[cfg(test)]
mod tests;
