//! The outbox: messages from the transaction that made them until a server accepted them.
//!
//! One row a recipient, all rows of a message under one Message-ID. A sender claims rows for a lease; if it
//! dies, the lease runs out and another sends the same message under the same id: at least once.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what a message is |
//! | `queue` | messages on their way: queued, claimed, delivered, tried again, given up |
//! | `look` | what was told, and what waits |

mod look;
mod queue;

pub(super) use self::queue::{insert_messages, mark_superseded};

use chrono::{DateTime, Utc};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::sql::{get_word, opt_time, opt_word, time, uint, words};
use crate::model::{ChannelName, JobName, RunId};

words! {
    /// What a message is about.
    MessageKind {
        /// No new backup.
        Failure = "failure",
        /// Something could not be read.
        Partial = "partial",
        /// A good backup, but something beside it failed.
        Degraded = "degraded",
        /// A run that died or was ended.
        Interrupted = "interrupted",
        /// Good again after a failure that was told.
        Recovery = "recovery",
        /// A good run.
        Success = "success",
        /// Good runs of a day.
        Digest = "digest",
        /// A failure that lasts.
        Reminder = "reminder",
        /// A finding of `agent check --mail`.
        Check = "check",
        /// Something about the agent itself: configuration, clock, state.
        Agent = "agent",
        /// Asked for by `agent notify test`.
        Test = "test",
        /// What reading a stored copy back found: damage, or that it is whole again. A kind of its own,
        /// since it is about a copy and not about how a run ended.
        Verify = "verify",
        /// A ping to a dead man's switch: no person reads it, so it never counts as a failure told.
        Ping = "ping",
    }
}

impl MessageKind {
    /// True for messages after whose acceptance a person knows of a failed job.
    pub fn tells_failure(self) -> bool {
        matches!(
            self,
            MessageKind::Failure | MessageKind::Partial | MessageKind::Interrupted | MessageKind::Reminder
        )
    }
}

words! {
    /// How a message stands.
    MessageStatus {
        /// Waiting, or being sent.
        Pending = "pending",
        /// Accepted by a server.
        Delivered = "delivered",
        /// Given up after many attempts.
        Failed = "failed",
        /// Refused by its receiver for good, at the first attempt or a later one.
        Refused = "refused",
        /// Taken out of the queue by a person.
        Dropped = "dropped",
        /// Replaced by another message before it was delivered.
        Superseded = "superseded",
    }
}

/// A message to be queued, for one recipient. Also the form in which it is spooled to a file while the
/// database cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// The channel.
    pub channel: ChannelName,
    /// The job it is about.
    pub job: Option<JobName>,
    /// The run it is about.
    pub run_id: Option<RunId>,
    /// What it is about.
    pub kind: MessageKind,
    /// One address; for channels without addresses the channel's name, never a URL that is a secret.
    pub recipient: String,
    /// The same for all recipients of one message; with channel and recipient it is unique, so that
    /// queueing twice sends once.
    pub message_id: String,
    /// The subject.
    pub subject: String,
    /// The rendered message, in the channel's own JSON. No secrets.
    pub payload: String,
    /// Not to be sent before this.
    pub not_before: DateTime<Utc>,
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Number of the row.
    pub id: i64,
    /// The channel.
    pub channel: ChannelName,
    /// The job it is about.
    pub job: Option<JobName>,
    /// The run it is about.
    pub run_id: Option<RunId>,
    /// What it is about.
    pub kind: MessageKind,
    /// The recipient.
    pub recipient: String,
    /// The Message-ID.
    pub message_id: String,
    /// The subject.
    pub subject: String,
    /// The rendered message.
    pub payload: String,
    /// When it was queued; a sender that is much later says so in the message.
    pub created_at: DateTime<Utc>,
    /// When it is due (again).
    pub not_before: DateTime<Utc>,
    /// How it stands.
    pub status: MessageStatus,
    /// Claims so far, the present one included.
    pub attempts: u64,
    /// Until when somebody is sending it.
    pub claimed_until: Option<DateTime<Utc>>,
    /// The last failure.
    pub last_error: Option<String>,
    /// When it was delivered, given up or superseded.
    pub closed_at: Option<DateTime<Utc>>,
    /// The server's answer at delivery.
    pub detail: Option<String>,
}

impl Message {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            channel: get_word(row, "channel")?,
            job: opt_word(row, "job")?,
            run_id: opt_word(row, "run_id")?,
            kind: get_word(row, "kind")?,
            recipient: row.get("recipient")?,
            message_id: row.get("message_id")?,
            subject: row.get("subject")?,
            payload: row.get("payload")?,
            created_at: time(row, "created_at")?,
            not_before: time(row, "not_before")?,
            status: get_word(row, "status")?,
            attempts: uint(row, "attempts")?,
            claimed_until: opt_time(row, "claimed_until")?,
            last_error: row.get("last_error")?,
            closed_at: opt_time(row, "closed_at")?,
            detail: row.get("detail")?,
        })
    }
}

/// What follows a failed attempt to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTry {
    /// Another attempt, not before this.
    At(DateTime<Utc>),
    /// None: the server refused for good.
    Never,
    /// Not at all: it was refused, and trying again cannot help.
    Refused,
}
