//! `agent notify`: channels tried, and their queue looked at.

use std::collections::BTreeSet;

use anyhow::Result;

use super::args::{Global, Notify, NotifyVerb};
use super::code;
use super::common::{self, UsageError};
use super::output::{self, Table};
use crate::clock::{Clock, SystemClock};
use crate::model::ChannelName;
use crate::notify::facts::TestFacts;
use crate::notify::outbox::send_test;
use crate::ops::tell;
use crate::state::MessageStatus;

pub fn notify(global: &Global, args: &Notify) -> Result<u8> {
    match &args.verb {
        NotifyVerb::Test { channel } => test(global, channel.as_ref()),
        NotifyVerb::Queue { limit, json } => queue(global, *limit, *json),
    }
}

fn test(global: &Global, only: Option<&ChannelName>) -> Result<u8> {
    let config = common::load(global, true)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let channels = tell::channels(&config)?;
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
            tells: channel.policy.on.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(", "),
        };
        for (recipient, result) in tell::block_on(send_test(channel, &facts))? {
            match result {
                Ok(()) => output::print(&format!("{}: accepted for {recipient}\n", channel.name)),
                Err(e) => {
                    output::print(&format!("{}: not accepted for {recipient}: {e}\n", channel.name));
                    failed = true;
                }
            }
        }
    }
    Ok(if failed { code::FAILURE } else { code::OK })
}

fn queue(global: &Global, limit: usize, json: bool) -> Result<u8> {
    let config = common::load(global, false)?;
    let zone = config.timezone;
    let agent = common::open_reading(global, config)?;
    let messages = agent.state.messages(limit)?;
    if json {
        // Without the payload: it is the whole mail, and says what the run said.
        let rows: Vec<_> = messages
            .iter()
            .map(|m| {
                serde_json::json!({
                    "id": m.id, "channel": m.channel, "recipient": m.recipient, "kind": m.kind, "job": m.job,
                    "run_id": m.run_id, "subject": m.subject, "status": m.status, "created": m.created_at,
                    "attempts": m.attempts, "next_attempt": m.not_before, "last_error": m.last_error,
                })
            })
            .collect();
        output::json(&rows)?;
        return Ok(code::OK);
    }
    let mut table = Table::new(&["queued", "status", "channel", "to", "subject"]);
    for m in &messages {
        table.row(vec![
            m.created_at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string(),
            m.status.to_string(),
            m.channel.to_string(),
            m.recipient.clone(),
            m.subject.clone(),
        ]);
    }
    output::print(&if table.is_empty() { "no messages\n".to_owned() } else { table.render(Some(1)) });
    // One reason stands for all messages it keeps waiting.
    let reasons: BTreeSet<String> = messages
        .iter()
        .filter(|m| matches!(m.status, MessageStatus::Pending | MessageStatus::Failed))
        .filter_map(|m| Some(format!("{} to {}: {}\n", m.channel, m.recipient, m.last_error.as_ref()?)))
        .collect();
    reasons.iter().for_each(|reason| output::print(reason));
    Ok(code::OK)
}
