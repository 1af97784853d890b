//! The outbox: messages from the transaction that made them until a server accepted them.
//!
//! One row a recipient, all rows of a message under one Message-ID. A sender claims rows for a lease; if it
//! dies, the lease runs out and another sends the same message under the same id: at least once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, Transaction, params, params_from_iter};
use serde::{Deserialize, Serialize};

use super::counters::{bump, names};
use super::sql::{get_word, int, ms, opt_time, opt_word, time, uint, words};
use super::{State, StateError};
use crate::model::{ChannelName, JobName, RunId};

/// How long delivered, failed and superseded messages are kept.
const KEPT_DAYS: i64 = 30;

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

pub(super) fn insert_messages(
    tx: &Transaction<'_>,
    messages: &[NewMessage],
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT OR IGNORE INTO outbox
             (channel, job, run_id, kind, recipient, message_id, subject, payload, created_at, not_before, status)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'pending')",
    )?;
    for m in messages {
        statement.execute(params![
            m.channel.as_str(),
            m.job.as_ref().map(JobName::as_str),
            m.run_id.as_ref().map(RunId::as_str),
            m.kind.as_str(),
            m.recipient,
            m.message_id,
            m.subject,
            m.payload,
            ms(now),
            ms(m.not_before),
        ])?;
    }
    Ok(())
}

pub(super) fn mark_superseded(
    tx: &Transaction<'_>,
    ids: &[i64],
    now: DateTime<Utc>,
) -> rusqlite::Result<usize> {
    let mut statement = tx.prepare_cached(
        "UPDATE outbox SET status = 'superseded', closed_at = ?2, claimed_until = NULL
         WHERE id = ?1 AND status = 'pending'",
    )?;
    ids.iter().map(|id| statement.execute(params![id, ms(now)])).sum()
}

fn select(tx: &Transaction<'_>, condition: &str, values: Vec<Value>) -> rusqlite::Result<Vec<Message>> {
    tx.prepare_cached(&format!("SELECT * FROM outbox WHERE {condition}"))?
        .query_map(params_from_iter(values), Message::from_row)?
        .collect()
}

impl State {
    /// Queues messages that no end of a run carries. One already queued (same Message-ID, channel and
    /// recipient) is left as it is.
    pub fn enqueue(&self, messages: &[NewMessage], now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("queue messages", |tx| insert_messages(tx, messages, now))
    }

    /// Takes up to `limit` due messages for `lease`, oldest first. They come again when neither
    /// [`State::message_delivered`] nor [`State::message_failed`] was called before the lease ran out.
    pub fn claim_messages(
        &self,
        now: DateTime<Utc>,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<Message>, StateError> {
        let until = now + chrono::Duration::from_std(lease).unwrap_or(chrono::Duration::hours(1));
        let due =
            "status = 'pending' AND not_before <= ?1 AND (claimed_until IS NULL OR claimed_until <= ?1)";
        // Looking costs no fsync; most looks find nothing.
        let any = self.read("look for due messages", |tx| {
            tx.prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM outbox WHERE {due})"))?
                .query_row([ms(now)], |row| row.get::<_, bool>(0))
        })?;
        if !any {
            return Ok(Vec::new());
        }
        let mut claimed = self.write("claim messages", |tx| {
            tx.prepare_cached(&format!(
                "UPDATE outbox SET claimed_until = ?2, attempts = attempts + 1
                 WHERE id IN (SELECT id FROM outbox WHERE {due} ORDER BY id LIMIT ?3) RETURNING *"
            ))?
            .query_map(params![ms(now), ms(until), int(limit as u64)], Message::from_row)?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        // RETURNING promises no order.
        claimed.sort_by_key(|m| m.id);
        Ok(claimed)
    }

    /// Records that a server accepted a message, and counts it. A message that tells of a failure also
    /// sets the job's `last_failure_mail`, unless the job has since been good and failed anew: of that
    /// streak nobody was told.
    pub fn message_delivered(&self, id: i64, now: DateTime<Utc>, detail: &str) -> Result<(), StateError> {
        self.write("record the delivery of a message", |tx| {
            let Some(m) = select(tx, "id = ?1", vec![id.into()])?.pop() else { return Ok(()) };
            if m.status == MessageStatus::Delivered {
                return Ok(());
            }
            tx.execute(
                "UPDATE outbox SET status = 'delivered', closed_at = ?2, detail = ?3, claimed_until = NULL WHERE id = ?1",
                params![id, ms(now), detail],
            )?;
            bump(tx, names::NOTIFICATIONS, "", m.channel.as_str(), 1)?;
            if let (true, Some(job)) = (m.kind.tells_failure(), &m.job) {
                tx.execute(
                    "UPDATE jobs SET last_failure_mail = ?2
                     WHERE job = ?1 AND (failing_since IS NULL OR failing_since <= ?3)",
                    params![job.as_str(), ms(now), ms(m.created_at)],
                )?;
            }
            Ok(())
        })
    }

    /// Records a failed attempt, and counts it.
    pub fn message_failed(
        &self,
        id: i64,
        now: DateTime<Utc>,
        error: &str,
        next: NextTry,
    ) -> Result<(), StateError> {
        self.write("record that a message was not delivered", |tx| {
            let Some(m) = select(tx, "id = ?1", vec![id.into()])?.pop() else { return Ok(()) };
            bump(tx, names::NOTIFICATION_FAILURES, "", m.channel.as_str(), 1)?;
            let (status, not_before, closed) = match next {
                NextTry::At(at) => (MessageStatus::Pending, at, None),
                NextTry::Never => (MessageStatus::Failed, m.not_before, Some(ms(now))),
                NextTry::Refused => {
                    bump(tx, names::NOTIFICATIONS_REFUSED, "", m.channel.as_str(), 1)?;
                    (MessageStatus::Refused, m.not_before, Some(ms(now)))
                }
            };
            tx.execute(
                "UPDATE outbox SET status = ?2, not_before = ?3, closed_at = ?4, last_error = ?5, claimed_until = NULL
                 WHERE id = ?1 AND status = 'pending'",
                params![id, status.as_str(), ms(not_before), closed, error],
            )?;
            Ok(())
        })
    }

    /// Makes every waiting message due now. How many there are.
    pub fn retry_messages(&self, now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("make the waiting messages due", |tx| {
            tx.execute(
                "UPDATE outbox SET not_before = ?1 WHERE status = 'pending' AND not_before > ?1",
                [ms(now)],
            )
        })
    }

    /// Makes one message due now, also one that was refused, given up or dropped. False when there is no
    /// such message, or it was delivered or replaced.
    pub fn retry_message(&self, id: i64, now: DateTime<Utc>) -> Result<bool, StateError> {
        self.write("make a message due", |tx| {
            let changed = tx.execute(
                "UPDATE outbox SET status = 'pending', not_before = ?2, closed_at = NULL
                 WHERE id = ?1 AND status IN ('pending', 'failed', 'refused', 'dropped')",
                params![id, ms(now)],
            )?;
            Ok(changed > 0)
        })
    }

    /// Takes a message out of the queue for good. False when it does not wait.
    pub fn drop_message(&self, id: i64, now: DateTime<Utc>) -> Result<bool, StateError> {
        self.write("drop a message", |tx| {
            let changed = tx.execute(
                "UPDATE outbox SET status = 'dropped', closed_at = ?2, claimed_until = NULL
                 WHERE id = ?1 AND status = 'pending'",
                params![id, ms(now)],
            )?;
            Ok(changed > 0)
        })
    }

    /// One message.
    pub fn message(&self, id: i64) -> Result<Option<Message>, StateError> {
        self.read("read the outbox", |tx| Ok(select(tx, "id = ?1", vec![id.into()])?.pop()))
    }

    /// Messages that wait or are being sent, oldest first.
    pub fn pending_messages(&self) -> Result<Vec<Message>, StateError> {
        self.read("read the outbox", |tx| select(tx, "status = 'pending' ORDER BY id", vec![]))
    }

    /// The latest `limit` messages of any status, newest first.
    pub fn messages(&self, limit: usize) -> Result<Vec<Message>, StateError> {
        self.read("read the outbox", |tx| {
            select(tx, "1 ORDER BY id DESC LIMIT ?1", vec![int(limit as u64).into()])
        })
    }

    /// Messages that tell of a failure of a job and were not accepted yet. When the job is good again,
    /// pass their ids as [`super::EndedRun::supersedes`], and queue one "failed at X, good again at Y"
    /// instead of failure and recovery.
    pub fn undelivered_failures(&self, job: &JobName) -> Result<Vec<Message>, StateError> {
        let condition = "job = ?1 AND status = 'pending'
             AND kind IN ('failure', 'partial', 'interrupted', 'reminder') ORDER BY id";
        self.read("read the outbox", |tx| select(tx, condition, vec![job.as_str().to_owned().into()]))
    }

    /// Replaces messages not delivered yet by others, in one transaction; for replacements that no end of
    /// a run carries. Returns how many were still there to be replaced.
    pub fn supersede(&self, ids: &[i64], by: &[NewMessage], now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("replace messages", |tx| {
            let replaced = mark_superseded(tx, ids, now)?;
            insert_messages(tx, by, now)?;
            Ok(replaced)
        })
    }

    /// When a server last accepted a failure mail or reminder about a job.
    pub fn last_failure_mail(&self, job: &JobName) -> Result<Option<DateTime<Utc>>, StateError> {
        Ok(self.job(job)?.and_then(|row| row.last_failure_mail))
    }

    /// True when a failure mail or reminder about a job was accepted at `since` (its `failing_since`) or
    /// later.
    pub fn was_failure_told(&self, job: &JobName, since: DateTime<Utc>) -> Result<bool, StateError> {
        Ok(self.last_failure_mail(job)?.is_some_and(|at| at.timestamp_millis() >= since.timestamp_millis()))
    }

    /// The latest message of one of `kinds` through a channel, about a job or (with none) about no job,
    /// whether delivered or not; superseded ones left out. For reminders and digests.
    pub fn last_message(
        &self,
        channel: &ChannelName,
        job: Option<&JobName>,
        kinds: &[MessageKind],
    ) -> Result<Option<Message>, StateError> {
        let words: Vec<String> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
        let sql = format!(
            "SELECT * FROM outbox WHERE job IS ?1 AND channel = ?2 AND kind IN ({}) AND status <> 'superseded'
             ORDER BY id DESC LIMIT 1",
            words.join(", ")
        );
        self.read("read the outbox", |tx| {
            tx.prepare_cached(&sql)?
                .query_row(params![job.map(JobName::as_str), channel.as_str()], Message::from_row)
                .optional()
        })
    }

    /// The messages through a channel about a job that were queued at `since` or later, newest first;
    /// superseded ones left out.
    pub fn messages_about(
        &self,
        channel: &ChannelName,
        job: &JobName,
        since: DateTime<Utc>,
    ) -> Result<Vec<Message>, StateError> {
        let condition = "job = ?1 AND channel = ?2 AND created_at >= ?3 AND status <> 'superseded' ORDER BY id DESC LIMIT 1000";
        self.read("read the outbox", |tx| {
            select(
                tx,
                condition,
                vec![job.as_str().to_owned().into(), channel.as_str().to_owned().into(), ms(since).into()],
            )
        })
    }

    /// Removes messages that were delivered, given up or superseded more than 30 days ago; returns how
    /// many.
    pub fn expire_messages(&self, now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("remove old messages", |tx| {
            tx.execute(
                "DELETE FROM outbox WHERE closed_at < ?1",
                [ms(now - chrono::Duration::days(KEPT_DAYS))],
            )
        })
    }
}
