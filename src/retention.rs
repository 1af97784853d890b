//! Which backups of a target stay and which go. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model::{Outcome, RunId};

/// How much is kept; a backup stays when any rule keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// Everything younger than this.
    pub within: Option<Duration>,
}

/// What is known about the bytes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Written in full, never read back.
    Complete,
    /// Read back and found to be what was written.
    Verified,
    /// Read back and found to be something else.
    Corrupt,
}

/// One backup at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The run that made it.
    pub run_id: RunId,
    /// Start of that run.
    pub started: DateTime<Utc>,
    /// Outcome of that run.
    pub outcome: Outcome,
    /// State of the bytes at this target.
    pub status: Status,
    /// Kept by a person, whatever the rules say.
    pub pinned: bool,
    /// Stored bytes.
    pub bytes: u64,
}

/// What happens to one copy, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The run that made it.
    pub run_id: RunId,
    /// True when it stays.
    pub keep: bool,
    /// The rules that keep it, or why it goes. Never empty.
    pub reasons: Vec<String>,
}
