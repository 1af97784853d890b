//! `agent notify`: channels tried, and their queue looked at and worked on.

use std::collections::BTreeSet;

use anyhow::Result;

use super::args::{Global, Notify, NotifyVerb, Which};
use super::code;
use super::common::{self, UsageError};
use super::output::{self, Table};
use crate::clock::{Clock, SystemClock};
use crate::model::ChannelName;
use crate::notify::Channel;
use crate::notify::facts::TestFacts;
use crate::notify::outbox::{GIVE_UP_AFTER, send_test};
use crate::notify::transitions::SuccessMode;
use crate::ops::{Agent, channels, tell};
use crate::state::{Message, MessageStatus, write_status};

pub fn notify(global: &Global, args: &Notify) -> Result<u8> {
    match &args.verb {
        NotifyVerb::Test { channel } => test(global, channel.as_ref()),
        NotifyVerb::Queue { open, limit, json } => queue(global, *open, *limit, *json),
        NotifyVerb::Retry { which } => retry(global, *which),
        NotifyVerb::Drop { which } => drop_waiting(global, *which),
    }
}

fn test(global: &Global, only: Option<&ChannelName>) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let channels = channels::channels(&config);
    let chosen: Vec<_> = channels.iter().filter(|c| only.is_none_or(|name| c.name == *name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = channels.iter().map(|c| c.name.as_str()).collect();
        return Err(UsageError(match only {
            Some(name) => format!("there is no channel {name}; there are: {}", names.join(", ")),
            None => "the configuration has no [notify.…]: nobody would be told of a failure".to_owned(),
        })
        .into());
    }
    let mut failed = false;
    for channel in chosen {
        let facts = TestFacts {
            host: config.host_name(),
            timezone: config.timezone,
            at: SystemClock.now(),
            channel: channel.name.clone(),
            tells: tells(channel),
        };
        for (recipient, result) in tell::block_on(send_test(channel, &facts))? {
            // Only mail has receivers with names of their own.
            let to =
                if recipient == channel.name.as_str() { String::new() } else { format!(" for {recipient}") };
            match result {
                Ok(()) => output::print(&format!("{}: accepted{to}\n", channel.name)),
                Err(e) => {
                    output::print(&format!("{}: not accepted{to}: {e}\n", channel.name));
                    failed = true;
                }
            }
        }
        for problem in channel.problems().iter().filter(|_| !channel.is_broken()) {
            output::print(&format!("{}: {problem}\n", channel.name));
            failed = true;
        }
    }
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// What a channel tells about, in words.
fn tells(channel: &Channel) -> String {
    if let Some(dialect) = channel.dialect() {
        let all = [("start", dialect.start), ("success", dialect.success), ("failure", dialect.failure)];
        return all.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    }
    let mut words: Vec<String> = channel.policy.on.iter().map(|kind| kind.to_string()).collect();
    match channel.policy.success {
        SuccessMode::Always => words.push("each good run".to_owned()),
        SuccessMode::Daily => words.push("the good runs of a day".to_owned()),
        SuccessMode::Never => {}
    }
    words.join(", ")
}

/// Messages that nobody has and somebody may want to do something about.
fn is_open(message: &Message) -> bool {
    matches!(message.status, MessageStatus::Pending | MessageStatus::Failed | MessageStatus::Refused)
}

fn queue(global: &Global, open: bool, limit: usize, json: bool) -> Result<u8> {
    let config = common::load(global)?;
    let zone = config.timezone;
    let agent = common::open_reading(global, config)?;
    let mut messages = agent.state.messages(if open { usize::MAX } else { limit })?;
    if open {
        messages.retain(is_open);
        messages.truncate(limit);
    }
    if json {
        // Without the payload: it is the whole message, and says what the run said.
        let rows: Vec<_> = messages
            .iter()
            .map(|m| {
                serde_json::json!({
                    "id": m.id, "channel": m.channel, "recipient": m.recipient, "kind": m.kind, "job": m.job,
                    "run_id": m.run_id, "subject": m.subject, "status": m.status, "created": m.created_at,
                    "attempts": m.attempts, "next_attempt": m.not_before, "last_error": m.last_error,
                    "message_id": m.message_id,
                })
            })
            .collect();
        output::json(&rows)?;
        return Ok(code::OK);
    }
    let mut table =
        Table::new(&["id", "status", "queued", "tried", "next attempt", "channel", "to", "subject"]);
    let time =
        |at: chrono::DateTime<chrono::Utc>, form: &str| at.with_timezone(&zone).format(form).to_string();
    for m in &messages {
        let next = match m.status {
            MessageStatus::Pending => time(m.not_before, "%m-%d %H:%M:%S"),
            _ => "-".to_owned(),
        };
        let to = if m.recipient == m.channel.as_str() { "-".to_owned() } else { m.recipient.clone() };
        table.row(vec![
            m.id.to_string(),
            m.status.to_string(),
            time(m.created_at, "%Y-%m-%d %H:%M"),
            m.attempts.to_string(),
            next,
            m.channel.to_string(),
            to,
            m.subject.clone(),
        ]);
    }
    output::print(&if table.is_empty() { "no messages\n".to_owned() } else { table.render(Some(1)) });
    // One reason stands for all messages it keeps waiting.
    let reasons: BTreeSet<String> = messages
        .iter()
        .filter(|m| is_open(m))
        .filter_map(|m| Some(format!("{}: {}\n", m.channel, m.last_error.as_ref()?)))
        .collect();
    if !reasons.is_empty() {
        output::print("\n");
    }
    reasons.iter().for_each(|reason| output::print(reason));
    Ok(code::OK)
}

fn retry(global: &Global, which: Which) -> Result<u8> {
    let agent = begin(global)?;
    let now = agent.now();
    let tried: Vec<i64> = match which {
        Which::One(id) => {
            if !agent.state.retry_message(id, now)? {
                return Err(not_there(&agent, id, "was delivered or replaced, so it is not sent again")?);
            }
            vec![id]
        }
        // What was given up long ago is no news to anybody.
        Which::All => {
            let mut ids = Vec::new();
            for m in agent.state.messages(usize::MAX)?.iter().filter(|m| is_open(m)) {
                if now - m.created_at <= GIVE_UP_AFTER && agent.state.retry_message(m.id, now)? {
                    ids.push(m.id);
                }
            }
            ids
        }
    };
    if tried.is_empty() {
        output::print("nothing waits, was refused or given up in the last three days\n");
        return Ok(code::OK);
    }
    tell::deliver(&agent);
    write_status(&agent.state, agent.now())?;
    let mut failed = false;
    for id in tried {
        let Some(m) = agent.state.message(id)? else { continue };
        let status = output::tinted(m.status.as_str(), 0);
        let reason = m.last_error.filter(|_| m.status != MessageStatus::Delivered);
        failed |= m.status != MessageStatus::Delivered;
        let reason = reason.map(|text| format!(": {text}")).unwrap_or_default();
        output::print(&format!("{id} {}: {status}{reason}\n", m.channel));
    }
    Ok(if failed { code::FAILURE } else { code::OK })
}

fn drop_waiting(global: &Global, which: Which) -> Result<u8> {
    let agent = begin(global)?;
    let now = agent.now();
    let ids: Vec<i64> = match which {
        Which::One(id) => vec![id],
        Which::All => agent.state.pending_messages()?.iter().map(|m| m.id).collect(),
    };
    let mut dropped = 0;
    for id in ids {
        match agent.state.drop_message(id, now)? {
            true => dropped += 1,
            false if which == Which::All => {}
            false => return Err(not_there(&agent, id, "does not wait")?),
        }
    }
    write_status(&agent.state, agent.now())?;
    let what = if dropped == 1 { "1 message was" } else { &format!("{dropped} messages were") };
    output::print(&format!("{what} taken out of the queue\n"));
    Ok(code::OK)
}

fn begin(global: &Global) -> Result<Agent> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::open_existing(global, config)
}

fn not_there(agent: &Agent, id: i64, why: &str) -> Result<anyhow::Error> {
    Ok(match agent.state.message(id)? {
        Some(m) => UsageError(format!("message {id} ({}) {why}: {}", m.status, m.subject)).into(),
        None => UsageError(format!("there is no message {id}; `agent notify queue` lists them")).into(),
    })
}
