//! Delivery: what the outbox and the spool hold goes out, again and again until it is accepted.
//!
//! At least once, always under the same Message-ID: a message is claimed for a lease, sent, and marked. A
//! process that dies in between leaves a lease that runs out, and the message is sent again. Daemon and
//! `agent tend` may deliver at the same time.
//!
//! Nothing here fails a backup, and nothing is silent: every failed attempt is counted by the state,
//! logged, and kept with the message; `agent check` and the metrics show what waits and what was given up.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | one round of delivery, and what it did |
//! | `attempts` | what follows from an attempt: when the next one is, and when there is none |
//! | `queue` | what the state keeps goes out |
//! | `spooled` | what the spool keeps goes out, or into the state |
//! | `send` | one message to one receiver |

mod attempts;
mod queue;
mod send;
mod spooled;

pub use self::attempts::GIVE_UP_AFTER;
pub use self::send::send_test;
pub use self::spooled::tell_without_state;

use std::path::Path;
use std::sync::Arc;

use self::queue::deliver_outbox;
use self::spooled::{deliver_spool, import_spool};
use super::Channel;
use crate::clock::Clock;
use crate::state::{State, StateError};

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
