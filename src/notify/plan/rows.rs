//! Rendered messages as rows of the outbox, one a receiver.

use chrono::{DateTime, Utc};

use super::{Payload, Plan};
use crate::model::{JobName, RunId};
use crate::notify::Channel;
use crate::notify::facts::RunFacts;
use crate::notify::message::{Kind, Rendered};
use crate::notify::transitions::Trouble;
use crate::state::{MessageKind, NewMessage};

pub(super) fn add(
    plan: &mut Plan,
    channel: &Channel,
    message: Rendered,
    facts: Option<&RunFacts>,
    about: Vec<Trouble>,
    now: DateTime<Utc>,
) {
    let kind = if channel.is_ping() { MessageKind::Ping } else { stored_kind(message.kind) };
    push(plan, channel, Payload { message, about }, kind, facts.map(|f| (&f.job, &f.run_id)), now);
}

/// What a row is filed under.
pub(super) struct About<'a> {
    pub kind: MessageKind,
    pub job: &'a JobName,
    pub run: &'a RunId,
}

pub(super) fn add_about(
    plan: &mut Plan,
    channel: &Channel,
    message: Rendered,
    about: About<'_>,
    now: DateTime<Utc>,
) {
    let payload = Payload { message, about: Vec::new() };
    push(plan, channel, payload, about.kind, Some((about.job, about.run)), now);
}

fn push(
    plan: &mut Plan,
    channel: &Channel,
    payload: Payload,
    kind: MessageKind,
    about: Option<(&JobName, &RunId)>,
    now: DateTime<Utc>,
) {
    let text = serde_json::to_string(&payload).expect("strings and enums serialise");
    for recipient in channel.recipients() {
        plan.messages.push(NewMessage {
            channel: channel.name.clone(),
            job: about.map(|(job, _)| job.clone()),
            run_id: about.map(|(_, run)| run.clone()),
            kind,
            message_id: channel.message_id(&payload.message, &recipient),
            recipient,
            subject: payload.message.subject.clone(),
            payload: text.clone(),
            not_before: now,
        });
    }
}

fn stored_kind(kind: Kind) -> MessageKind {
    match kind {
        Kind::Failure => MessageKind::Failure,
        Kind::Partial => MessageKind::Partial,
        Kind::Degraded => MessageKind::Degraded,
        Kind::Interrupted => MessageKind::Interrupted,
        Kind::Recovery => MessageKind::Recovery,
        Kind::Success => MessageKind::Success,
        Kind::Digest => MessageKind::Digest,
        Kind::Reminder => MessageKind::Reminder,
        Kind::Test => MessageKind::Test,
        Kind::Check => MessageKind::Check,
        Kind::Agent => MessageKind::Agent,
        Kind::Verify => MessageKind::Verify,
    }
}
