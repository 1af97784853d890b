//! From what happened to rows of the outbox: what each channel was told before, what is due now, and the
//! rendered messages, one row a receiver.
//!
//! Every plan may be made again: the same message has the same Message-ID, and the outbox keeps it once.
//! [`periodic`] uses that: whatever should have been told about the newest run and was not, because a
//! process died in between, is queued by the next look.
//!
//! | file | what it plans, or holds |
//! | --- | --- |
//! | `mod` | what a plan is, and how it comes into the outbox |
//! | `run` | what is due at the end of a run |
//! | `ping` | what dead man's switches hear of runs |
//! | `periodic` | what is due by the passing of time: reminders, digests, what was not queued |
//! | `found` | what was found beside the runs: checks, the agent itself, copies read back |
//! | `past` | what a channel was told about the runs before |
//! | `rows` | rendered messages as rows of the outbox |

mod found;
mod past;
mod periodic;
mod ping;
mod rows;
mod run;

pub use self::found::{agent, check, verified};
pub use self::periodic::periodic;
pub use self::ping::run_began;
pub use self::run::{run_ended, without_state};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::message::Rendered;
use super::transitions::Trouble;
use crate::state::{NewMessage, State, StateError};

/// What is to be written into the outbox, all of it in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// New rows.
    pub messages: Vec<NewMessage>,
    /// Rows that are withdrawn: the new ones say what they would have said.
    pub supersedes: Vec<i64>,
}

impl Plan {
    /// True when nothing is to be told.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.supersedes.is_empty()
    }

    /// Writes the plan into the outbox, where no end of a run carries it.
    pub fn enqueue(&self, state: &State, now: DateTime<Utc>) -> Result<(), StateError> {
        if !self.is_empty() {
            state.supersede(&self.supersedes, &self.messages, now)?;
        }
        Ok(())
    }
}

/// What the outbox keeps of a message, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The message.
    pub message: Rendered,
    /// The troubles it tells, by which later runs are compared.
    #[serde(default)]
    pub about: Vec<Trouble>,
}
