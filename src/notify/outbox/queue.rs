//! What the state keeps goes out: claimed for a lease, sent, and marked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::attempts::{Verdict, judge};
use super::send::{find, send};
use super::{Delivery, blocking, problem};
use crate::clock::Clock;
use crate::failpoint;
use crate::model::ChannelName;
use crate::notify::{Channel, Failure, SendError};
use crate::state::{Message, NextTry, State};

/// Messages claimed at once.
const BATCH: usize = 8;
/// What a lease adds to the time all sends of a batch may take.
const LEASE_SLACK: Duration = Duration::from_secs(60);

pub(super) async fn deliver_outbox(
    state: &State,
    channels: &[Arc<Channel>],
    clock: &Arc<dyn Clock>,
    done: &mut Delivery,
) {
    let longest = channels.iter().map(|c| c.timeout()).max().unwrap_or_default();
    let lease = longest * BATCH as u32 + LEASE_SLACK;
    // Channels whose server did not answer in this round: the rest of their messages need not find out
    // again, one timeout each.
    let mut unreachable: BTreeMap<ChannelName, SendError> = BTreeMap::new();
    loop {
        let now = clock.now();
        let claimed = match blocking(state, move |s| s.claim_messages(now, lease, BATCH)).await {
            Ok(claimed) if claimed.is_empty() => return,
            Ok(claimed) => claimed,
            Err(e) => return problem(done, format!("{:#}", anyhow::Error::from(e))),
        };
        let mut by_channel: BTreeMap<ChannelName, Vec<Message>> = BTreeMap::new();
        for message in claimed {
            by_channel.entry(message.channel.clone()).or_default().push(message);
        }
        let mut tasks = JoinSet::new();
        for (name, messages) in by_channel {
            let channel = find(channels, &name).cloned();
            let down = unreachable.get(&name).cloned();
            tasks.spawn(deliver_channel(state.clone(), channel, name, messages, down, clock.clone()));
        }
        while let Some(finished) = tasks.join_next().await {
            match finished {
                Ok((name, part, down)) => {
                    done.sent += part.sent;
                    done.failed += part.failed;
                    done.given_up += part.given_up;
                    for text in part.problems {
                        if !done.problems.contains(&text) {
                            done.problems.push(text);
                        }
                    }
                    if let Some(down) = down {
                        unreachable.insert(name, down);
                    }
                }
                Err(e) => problem(done, format!("a delivery ended unexpectedly: {e}")),
            }
        }
    }
}

/// Sends the claimed messages of one channel, and records each as soon as it is decided.
async fn deliver_channel(
    state: State,
    channel: Result<Arc<Channel>, SendError>,
    name: ChannelName,
    messages: Vec<Message>,
    mut down: Option<SendError>,
    clock: Arc<dyn Clock>,
) -> (ChannelName, Delivery, Option<SendError>) {
    let mut done = Delivery::default();
    for message in messages {
        let result = match (&channel, &down) {
            (Err(error), _) => Err(error.clone()),
            (Ok(_), Some(reason)) => Err(reason.clone()),
            (Ok(channel), None) => {
                send(
                    channel,
                    &message.recipient,
                    &message.message_id,
                    &message.payload,
                    message.created_at,
                    message.last_error.as_deref(),
                    clock.now(),
                )
                .await
            }
        };
        if let Err(error @ SendError { failure: Failure::Unreachable, .. }) = &result {
            down = Some(error.clone());
        }
        if failpoint::hit("told").is_err() {
            continue; // as if the process had ended here
        }
        let now = clock.now();
        let verdict = judge(result, message.attempts, message.created_at, now);
        let id = message.id;
        let refused = matches!(verdict, Verdict::Refused(_));
        let recorded = match verdict {
            Verdict::Sent => {
                done.sent += 1;
                tracing::info!("told {}: {}", message.recipient, message.subject);
                blocking(&state, move |s| s.message_delivered(id, now, "accepted")).await
            }
            Verdict::Again(at, text) => {
                done.failed += 1;
                tracing::warn!(
                    "not told yet, next attempt at {}: {}: {text}",
                    at.format("%H:%M:%S UTC"),
                    message.subject
                );
                done.problems.push(text.clone());
                blocking(&state, move |s| s.message_failed(id, now, &text, NextTry::At(at))).await
            }
            Verdict::GivenUp(text) | Verdict::Refused(text) => {
                done.given_up += 1;
                problem(
                    &mut done,
                    format!(
                        "{} was not told, and this message is not tried again: {}: {text}",
                        message.recipient, message.subject
                    ),
                );
                let next = if refused { NextTry::Refused } else { NextTry::Never };
                blocking(&state, move |s| s.message_failed(id, now, &text, next)).await
            }
        };
        if let Err(e) = recorded {
            // The lease runs out and the message is sent again, under the same Message-ID.
            problem(&mut done, format!("{:#}", anyhow::Error::from(e)));
        }
    }
    (name, done, down)
}
