//! What the spool keeps: sent as it is while there is no state, else moved into the outbox.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::attempts::{Verdict, judge};
use super::send::{find, send};
use super::{Delivery, blocking, problem};
use crate::clock::{Clock, waits};
use crate::model::ChannelName;
use crate::notify::spool::{self, Spooled};
use crate::notify::{Channel, Failure, SendError};
use crate::state::{LONGEST_PAUSE, NewMessage, State};

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
pub(super) async fn import_spool(
    state: &State,
    state_dir: &Path,
    clock: &Arc<dyn Clock>,
    done: &mut Delivery,
) {
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
pub(super) async fn deliver_spool(
    state_dir: &Path,
    channels: &[Arc<Channel>],
    clock: &dyn Clock,
    done: &mut Delivery,
) {
    let mut down: BTreeMap<ChannelName, SendError> = BTreeMap::new();
    for mut entry in read_spool(state_dir, done) {
        let now = clock.now();
        if entry.message.delivered.is_some() {
            continue;
        }
        if entry.message.next_attempt.is_some_and(|at| waits(at, now, LONGEST_PAUSE)) {
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
