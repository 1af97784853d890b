//! Delivery: what the outbox and the spool hold goes out, again and again until it is accepted.
//!
//! At least once, always under the same Message-ID: a message is claimed for a lease, sent, and marked. A
//! process that dies in between leaves a lease that runs out, and the message is sent again. Daemon and
//! `agent tend` may deliver at the same time.
//!
//! Nothing here fails a backup, and nothing is silent: every failed attempt is counted by the state,
//! logged, and kept with the message; `agent check` and the metrics show what waits and what was given up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;

use super::facts::TestFacts;
use super::message::{self, Content, Kind};
use super::plan::Payload;
use super::spool::{self, Spooled};
use super::{Channel, Failure, Letter, SendError};
use crate::clock::Clock;
use crate::failpoint;
use crate::model::ChannelName;
use crate::state::{Message, NewMessage, NextTry, State, StateError};

/// The wait after the first failed attempt; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// After this long a message that was never accepted is given up. It stays in the outbox as failed, and a
/// trouble that lasts is told anew.
pub const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);
/// Messages claimed at once.
const BATCH: usize = 8;
/// What a lease adds to the time all sends of a batch may take.
const LEASE_SLACK: Duration = Duration::from_secs(60);

/// What one round of delivery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Messages accepted.
    pub sent: u64,
    /// Attempts that failed; those messages are tried again.
    pub failed: u64,
    /// Messages that were refused for good or given up.
    pub given_up: u64,
    /// Messages that still wait, in outbox and spool.
    pub pending: u64,
    /// What a person should know, a sentence each: why messages were not accepted or could not be kept.
    pub problems: Vec<String>,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Sent,
    Again(DateTime<Utc>, String),
    GivenUp(String),
    Refused(String),
}

/// How long to wait after `attempts` failed ones; `jitter` is between 0 and 1 and spreads hosts that fail
/// together over 40 % of the wait.
fn wait(attempts: u64, jitter: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16) as u32;
    let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(LONGEST_WAIT)
}

fn judge(
    result: Result<(), SendError>,
    attempts: u64,
    created: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Verdict {
    match result {
        Ok(()) => Verdict::Sent,
        Err(error) if error.failure == Failure::Permanent => Verdict::Refused(error.text),
        Err(error) if now - created >= GIVE_UP_AFTER => {
            Verdict::GivenUp(format!("given up after {} days: {}", GIVE_UP_AFTER.num_days(), error.text))
        }
        Err(error) => {
            // A server that says how long it wants to be left alone is left alone.
            let wait = wait(attempts, rand::random()).max(error.retry_after.unwrap_or_default());
            Verdict::Again(now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::hours(1)), error.text)
        }
    }
}

/// One round of delivery: the spool moves into the outbox, then everything that is due is sent, channels
/// side by side, the messages of one channel one after the other. `state` is absent when it cannot be
/// opened for writing; then the spool is sent as it is. Never fails: what went wrong stands in the result
/// and in the log.
pub async fn deliver(
    state: Option<&State>,
    state_dir: &Path,
    channels: &[Arc<Channel>],
    clock: Arc<dyn Clock>,
) -> Delivery {
    let mut done = Delivery::default();
    match state {
        Some(state) => {
            import_spool(state, state_dir, &clock, &mut done).await;
            deliver_outbox(state, channels, &clock, &mut done).await;
            match blocking(state, |s| s.pending_messages().map(|m| m.len() as u64)).await {
                Ok(pending) => done.pending += pending,
                Err(e) => problem(&mut done, format!("{:#}", anyhow::Error::from(e))),
            }
        }
        None => deliver_spool(state_dir, channels, clock.as_ref(), &mut done).await,
    }
    done
}

/// Tells at once, without the state: each message is put into the spool and sent from there. One that the
/// spool cannot keep is sent all the same; when that fails too, the result says that nobody was told.
pub async fn tell_without_state(
    state_dir: &Path,
    messages: &[NewMessage],
    channels: &[Arc<Channel>],
    clock: Arc<dyn Clock>,
) -> Delivery {
    let mut done = Delivery::default();
    let created = clock.now();
    for message in messages {
        let spooled = Spooled {
            created,
            attempts: 0,
            next_attempt: None,
            last_error: None,
            delivered: None,
            message: message.clone(),
        };
        let Err(error) = spool::write(state_dir, &spooled) else { continue };
        problem(&mut done, format!("{error:#}"));
        match send_spooled(&spooled, channels, created).await {
            Ok(()) => done.sent += 1,
            Err(error) => {
                done.given_up += 1;
                problem(&mut done, format!("nobody could be told: {:?} is lost: {error}", message.subject));
            }
        }
    }
    deliver_spool(state_dir, channels, clock.as_ref(), &mut done).await;
    done
}

/// Sends a test message to every receiver of a channel at once, past the outbox, and says how each went.
pub async fn send_test(channel: &Channel, facts: &TestFacts) -> Vec<(String, Result<(), SendError>)> {
    let rendered = channel.render(Content::Test(facts), facts.at);
    let mut results = Vec::new();
    for recipient in channel.recipients() {
        let letter = Letter {
            recipient: &recipient,
            message_id: &channel.message_id(&rendered, &recipient),
            created: facts.at,
            now: facts.at,
            kind: Kind::Test,
            subject: &rendered.subject,
            text: &rendered.text,
            html: &rendered.html,
            headers: &rendered.headers,
            data: &rendered.data,
            late: None,
        };
        let result = channel.send(&letter).await;
        results.push((recipient, result));
    }
    results
}

fn problem(done: &mut Delivery, text: String) {
    tracing::error!("{text}");
    if !done.problems.contains(&text) {
        done.problems.push(text);
    }
}

/// Runs a function of the state off the async threads.
async fn blocking<T: Send + 'static>(
    state: &State,
    f: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let state = state.clone();
    match tokio::task::spawn_blocking(move || f(&state)).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn find<'a>(channels: &'a [Arc<Channel>], name: &ChannelName) -> Result<&'a Arc<Channel>, SendError> {
    // Perhaps only this process has an older configuration: it is tried again, and given up in the end.
    channels.iter().find(|c| c.name == *name).ok_or_else(|| {
        SendError::new(
            Failure::Unreachable,
            format!("the channel {name} is not in the configuration any more"),
        )
    })
}

async fn deliver_outbox(
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

async fn send(
    channel: &Channel,
    recipient: &str,
    message_id: &str,
    payload: &str,
    created: DateTime<Utc>,
    last_error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), SendError> {
    let Payload { message, .. } = serde_json::from_str(payload).map_err(|e| {
        SendError::new(Failure::Permanent, format!("the message cannot be read from where it was kept: {e}"))
    })?;
    let (mut text, mut html) = (message.text, message.html);
    let late = message::late_notice(created, now, last_error).filter(|_| !channel.is_ping());
    if let Some(notice) = &late {
        (text, html) = message::with_notice(&text, &html, notice);
    }
    let letter = Letter {
        recipient,
        message_id,
        created,
        now,
        kind: message.kind,
        subject: &message.subject,
        text: &text,
        html: &html,
        headers: &message.headers,
        data: &message.data,
        late: late.as_deref(),
    };
    channel.send(&letter).await
}

async fn send_spooled(
    spooled: &Spooled,
    channels: &[Arc<Channel>],
    now: DateTime<Utc>,
) -> Result<(), SendError> {
    let m = &spooled.message;
    let channel = find(channels, &m.channel)?;
    send(
        channel,
        &m.recipient,
        &m.message_id,
        &m.payload,
        spooled.created,
        spooled.last_error.as_deref(),
        now,
    )
    .await
}

/// The spooled messages; what is wrong with the spool becomes a problem.
fn read_spool(state_dir: &Path, done: &mut Delivery) -> Vec<spool::Entry> {
    match spool::read(state_dir) {
        Ok((entries, broken)) => {
            for text in broken {
                problem(done, format!("a kept message cannot be read: {text}"));
            }
            entries
        }
        Err(e) => {
            problem(done, format!("{e:#}"));
            Vec::new()
        }
    }
}

/// Moves spooled messages into the outbox, with the time they were made, and marks those that were
/// accepted meanwhile.
async fn import_spool(state: &State, state_dir: &Path, clock: &Arc<dyn Clock>, done: &mut Delivery) {
    for entry in read_spool(state_dir, done) {
        let Spooled { created, delivered, message, .. } = entry.message.clone();
        let now = clock.now();
        let imported = blocking(state, move |s| {
            s.enqueue(std::slice::from_ref(&message), created)?;
            let Some(at) = delivered else { return Ok(()) };
            // Found among what waits; another process may have sent it once more meanwhile.
            let waiting = s.pending_messages()?;
            let row = waiting
                .iter()
                .find(|m| m.message_id == message.message_id && m.recipient == message.recipient);
            match row {
                Some(row) => {
                    s.message_delivered(row.id, at.min(now), "accepted while the state could not be written")
                }
                None => Ok(()),
            }
        })
        .await;
        match imported.map_err(anyhow::Error::from).and_then(|()| spool::remove(&entry)) {
            Ok(()) => {}
            Err(e) => {
                problem(done, format!("{e:#}"));
                done.pending += 1;
            }
        }
    }
}

/// Sends the spool while there is no state. What is accepted stays as a file, marked, until the state can
/// be told.
async fn deliver_spool(state_dir: &Path, channels: &[Arc<Channel>], clock: &dyn Clock, done: &mut Delivery) {
    let mut down: BTreeMap<ChannelName, SendError> = BTreeMap::new();
    for mut entry in read_spool(state_dir, done) {
        let now = clock.now();
        if entry.message.delivered.is_some() {
            continue;
        }
        if entry.message.next_attempt.is_some_and(|at| at > now) {
            done.pending += 1;
            continue;
        }
        let channel = entry.message.message.channel.clone();
        let result = match down.get(&channel) {
            Some(reason) => Err(reason.clone()),
            None => send_spooled(&entry.message, channels, now).await,
        };
        if let Err(error @ SendError { failure: Failure::Unreachable, .. }) = &result {
            down.insert(channel, error.clone());
        }
        let spooled = &mut entry.message;
        spooled.attempts += 1;
        let verdict = judge(result, u64::from(spooled.attempts), spooled.created, clock.now());
        let kept = match verdict {
            Verdict::Sent => {
                done.sent += 1;
                spooled.delivered = Some(clock.now());
                spool::write(state_dir, spooled).map(drop)
            }
            Verdict::Again(at, text) => {
                done.failed += 1;
                done.pending += 1;
                problem(done, text.clone());
                spooled.next_attempt = Some(at);
                spooled.last_error = Some(text);
                spool::write(state_dir, spooled).map(drop)
            }
            Verdict::GivenUp(text) | Verdict::Refused(text) => {
                done.given_up += 1;
                problem(done, format!("not told, and not tried again: {}: {text}", spooled.message.subject));
                spool::refuse(&entry)
            }
        };
        if let Err(e) = kept {
            problem(done, format!("{e:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let seconds = |attempts| wait(attempts, 0.5).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 8, 1000].map(seconds), [30, 60, 120, 960, 1920, 3600, 3600]);
        assert!(wait(1, 0.0) >= Duration::from_secs(24) && wait(1, 1.0) <= Duration::from_secs(36));
        assert_eq!(wait(u64::MAX, 1.0), LONGEST_WAIT);
    }

    #[test]
    fn a_message_is_given_up_after_three_days_or_when_refused_for_good() {
        let created: DateTime<Utc> = "2026-11-24T18:00:00Z".parse().unwrap();
        let fails = |failure| Err(SendError::new(failure, "the server said no"));
        let judge = |failure, after| judge(fails(failure), 3, created, created + after);
        assert!(matches!(judge(Failure::Transient, TimeDelta::hours(71)), Verdict::Again(..)));
        assert!(matches!(judge(Failure::Unreachable, TimeDelta::hours(-5)), Verdict::Again(..)));
        assert!(matches!(judge(Failure::Permanent, TimeDelta::zero()), Verdict::Refused(_)));
        assert_eq!(
            judge(Failure::Transient, TimeDelta::hours(72)),
            Verdict::GivenUp("given up after 3 days: the server said no".to_owned())
        );
    }
}
