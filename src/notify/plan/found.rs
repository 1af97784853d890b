//! What was found beside the runs: by the checks, of the agent itself, in copies that were read back.

use chrono::{DateTime, Utc};

use super::Plan;
use super::past::payload_of;
use super::rows::{About, add, add_about};
use crate::notify::facts::{AgentFacts, CheckFacts, VerifyFacts};
use crate::notify::message::{Content, Kind};
use crate::notify::{Channel, verified};
use crate::state::{MessageKind, MessageStatus, State, StateError};

/// A message to every channel with readers, whatever it subscribed to: what the health checks found.
pub fn check(channels: &[impl AsRef<Channel>], facts: &CheckFacts, now: DateTime<Utc>) -> Plan {
    to_all(channels, Content::Check(facts), now)
}

/// A message to every channel with readers, whatever it subscribed to: the agent itself is in trouble.
pub fn agent(channels: &[impl AsRef<Channel>], facts: &AgentFacts, now: DateTime<Utc>) -> Plan {
    to_all(channels, Content::Agent(facts), now)
}

fn to_all(channels: &[impl AsRef<Channel>], content: Content<'_>, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let message = channel.render(content, now);
        add(&mut plan, channel, message, None, Vec::new(), now);
    }
    plan
}

/// What reading a copy back found, for the channels that tell about its job: damage once for those that hear
/// of degradations, and that the copy is whole again for those that heard of the damage.
///
/// To be queued before the result is recorded: a process that dies in between finds the same again, and
/// plans the same message.
pub fn verified(
    state: &State,
    channels: &[impl AsRef<Channel>],
    facts: &VerifyFacts,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let about = verified::prefix(facts);
        let mut rows = state.messages_about(&channel.name, &facts.job, DateTime::UNIX_EPOCH)?;
        rows.retain(|row| {
            row.kind == MessageKind::Verify
                && payload_of(row).is_some_and(|p| p.message.key.starts_with(&about))
        });
        // Newest first: what the channel was told last about this copy, and whether it has it or will.
        let told =
            rows.iter().find(|row| matches!(row.status, MessageStatus::Delivered | MessageStatus::Pending));
        let told = told.and_then(|row| Some(payload_of(row)?.message.kind));
        let due = match facts.ok {
            false => channel.policy.on.contains(&Kind::Degraded),
            true => channel.policy.on.contains(&Kind::Recovery) && told == Some(Kind::Verify),
        };
        if !due {
            continue;
        }
        let message = channel.render(Content::Verify(facts), now);
        add_about(
            &mut plan,
            channel,
            message,
            About { kind: MessageKind::Verify, job: &facts.job, run: &facts.run_id },
            now,
        );
    }
    Ok(plan)
}
