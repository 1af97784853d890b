//! Messages on their way: queued, claimed, delivered, tried again, given up.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Transaction, params};

use super::look::select;
use super::{Message, MessageStatus, NewMessage, NextTry};
use crate::model::{JobName, RunId};
use crate::state::counters::{bump, names};
use crate::state::sql::{int, ms, waits};
use crate::state::{LONGEST_PAUSE, State, StateError};

/// How long delivered, failed and superseded messages are kept.
const KEPT_DAYS: i64 = 30;

impl State {
    /// Queues messages that no end of a run carries. One already queued (same Message-ID, channel and
    /// recipient) is left as it is.
    pub fn enqueue(&self, messages: &[NewMessage], now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("queue messages", |tx| insert_messages(tx, messages, now))
    }

    /// Takes up to `limit` due messages for `lease`, oldest first. They come again when neither
    /// [`State::message_delivered`] nor [`State::message_failed`] was called before the lease ran out. No lease is
    /// longer than [`LONGEST_PAUSE`].
    pub fn claim_messages(
        &self,
        now: DateTime<Utc>,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<Message>, StateError> {
        let lease = chrono::Duration::from_std(lease).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
        let until = now + lease;
        let due = format!(
            "status = 'pending' AND NOT {} AND (claimed_until IS NULL OR NOT {})",
            waits("not_before", "?1", LONGEST_PAUSE),
            waits("claimed_until", "?1", LONGEST_PAUSE)
        );
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

    /// Replaces messages not delivered yet by others, in one transaction; for replacements that no end of
    /// a run carries. Returns how many were still there to be replaced.
    pub fn supersede(&self, ids: &[i64], by: &[NewMessage], now: DateTime<Utc>) -> Result<usize, StateError> {
        self.write("replace messages", |tx| {
            let replaced = mark_superseded(tx, ids, now)?;
            insert_messages(tx, by, now)?;
            Ok(replaced)
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

pub(in crate::state) fn insert_messages(
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

pub(in crate::state) fn mark_superseded(
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
