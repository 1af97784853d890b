//! What was told, and what waits.

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params, params_from_iter};

use super::{Message, MessageKind};
use crate::model::{ChannelName, JobName};
use crate::state::sql::{int, ms};
use crate::state::{State, StateError};

impl State {
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
    /// pass their ids as [`crate::state::EndedRun::supersedes`], and queue one "failed at X, good again at Y"
    /// instead of failure and recovery.
    pub fn undelivered_failures(&self, job: &JobName) -> Result<Vec<Message>, StateError> {
        let condition = "job = ?1 AND status = 'pending'
             AND kind IN ('failure', 'partial', 'interrupted', 'reminder') ORDER BY id";
        self.read("read the outbox", |tx| select(tx, condition, vec![job.as_str().to_owned().into()]))
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
}

pub(super) fn select(
    tx: &Transaction<'_>,
    condition: &str,
    values: Vec<Value>,
) -> rusqlite::Result<Vec<Message>> {
    tx.prepare_cached(&format!("SELECT * FROM outbox WHERE {condition}"))?
        .query_map(params_from_iter(values), Message::from_row)?
        .collect()
}
