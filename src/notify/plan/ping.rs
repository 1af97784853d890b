//! What dead man's switches hear of runs: that one began, and how it ended.

use chrono::{DateTime, Utc};

use super::Plan;
use super::past::payload_of;
use super::rows::{About, add, add_about};
use crate::model::{JobName, RunId};
use crate::notify::facts::RunFacts;
use crate::notify::message::{Kind, Rendered};
use crate::notify::ping::{self, Event, Ping};
use crate::notify::{Channel, text};
use crate::state::{Message, MessageKind, MessageStatus, State, StateError};

/// What is due at the beginning of a run: a ping for each switch that wants to hear of it. What still waits
/// for that switch is withdrawn.
pub fn run_began(
    state: &State,
    channels: &[impl AsRef<Channel>],
    job: &JobName,
    run: &RunId,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        if !channel.dialect().is_some_and(|dialect| dialect.start) {
            continue;
        }
        let text = text::line(&format!("{job}: started, run {run}"), 300);
        let ping = Ping { event: Event::Start, exit_status: 0, run: Some(run.clone()) };
        let message = ping_message(Kind::Success, format!("{run}.start"), text, &ping);
        add_about(&mut plan, channel, message, About { kind: MessageKind::Ping, job, run }, now);
        plan.supersedes.extend(waiting_pings(state, channel, job)?);
    }
    Ok(plan)
}

fn waiting_pings(state: &State, channel: &Channel, job: &JobName) -> Result<Vec<i64>, StateError> {
    let waiting = state.pending_messages()?;
    let ours = waiting.into_iter().filter(|m| m.channel == channel.name && m.job.as_ref() == Some(job));
    Ok(ours.map(|m| m.id).collect())
}

pub(super) fn plan_ping(
    plan: &mut Plan,
    channel: &Channel,
    facts: &RunFacts,
    rows: &[Message],
    now: DateTime<Utc>,
) {
    let Some(dialect) = channel.dialect() else { return };
    let ping = Ping::ended(facts);
    let heard = if ping.event == Event::Success { dialect.success } else { dialect.failure };
    let key = format!("{}.ping", facts.run_id);
    if heard {
        let kind = Kind::of_bad(facts.outcome).unwrap_or(Kind::Success);
        let message = ping_message(kind, key.clone(), ping::body(facts, dialect.rich), &ping);
        add(plan, channel, message, Some(facts), Vec::new(), now);
    }
    // A dead man's switch wants to know how it is now, not how it was: neither an earlier run, nor that
    // this one has begun.
    let is_this = |r: &Message| payload_of(r).is_some_and(|p| p.message.key == key);
    plan.supersedes
        .extend(rows.iter().filter(|r| r.status == MessageStatus::Pending && !is_this(r)).map(|r| r.id));
}

fn ping_message(kind: Kind, key: String, text: String, ping: &Ping) -> Rendered {
    Rendered {
        kind,
        subject: text::line(text.lines().next().unwrap_or_default(), 300),
        text,
        html: String::new(),
        headers: Vec::new(),
        key,
        data: serde_json::to_value(ping).unwrap_or_default(),
    }
}
