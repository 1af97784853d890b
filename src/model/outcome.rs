//! How a run ended, and what files made trouble in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was read and stored.
    Success,
    /// Files changed or vanished while they were read: normal on a live system.
    Warning,
    /// Something could not be read. What could be is kept, but this is no success.
    Partial,
    /// There is no new backup.
    Failure,
    /// The run was ended from outside: a signal, a crash, a power cut.
    Interrupted,
}

impl Outcome {
    /// All outcomes, best first.
    pub const ALL: [Outcome; 5] =
        [Outcome::Success, Outcome::Warning, Outcome::Partial, Outcome::Failure, Outcome::Interrupted];

    /// True when the run counts as a good backup: `success` or `warning`.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Success | Outcome::Warning)
    }

    /// The word stored and shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Warning => "warning",
            Outcome::Partial => "partial",
            Outcome::Failure => "failure",
            Outcome::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Outcome::ALL
            .into_iter()
            .find(|o| o.as_str() == value)
            .ok_or_else(|| InvalidValue { value: value.to_owned(), expected: "an outcome" })
    }
}

/// What went wrong with one file, or why it was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarningKind {
    /// The file changed while it was read; what is stored is a mixture of before and after.
    Changed,
    /// The file was listed by its folder but gone when it was opened.
    Vanished,
    /// The file could not be opened or read.
    Unreadable,
    /// A socket, FIFO or device: listed for the record, never opened, no warning.
    Skipped,
}

impl WarningKind {
    /// The kinds that count as warnings, in the order they are reported.
    pub const COUNTED: [WarningKind; 3] =
        [WarningKind::Changed, WarningKind::Vanished, WarningKind::Unreadable];

    /// The word stored and shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WarningKind::Changed => "changed",
            WarningKind::Vanished => "vanished",
            WarningKind::Unreadable => "unreadable",
            WarningKind::Skipped => "skipped",
        }
    }
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many files of each kind a component or run met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarningCounts {
    /// Files that changed while they were read.
    pub changed: u64,
    /// Files that were gone when they were opened.
    pub vanished: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Sockets, FIFOs and devices; not a warning.
    pub skipped: u64,
}

impl WarningCounts {
    /// Counts one more of `kind`.
    pub fn add(&mut self, kind: WarningKind) {
        match kind {
            WarningKind::Changed => self.changed += 1,
            WarningKind::Vanished => self.vanished += 1,
            WarningKind::Unreadable => self.unreadable += 1,
            WarningKind::Skipped => self.skipped += 1,
        }
    }

    /// The count of `kind`.
    pub fn get(&self, kind: WarningKind) -> u64 {
        match kind {
            WarningKind::Changed => self.changed,
            WarningKind::Vanished => self.vanished,
            WarningKind::Unreadable => self.unreadable,
            WarningKind::Skipped => self.skipped,
        }
    }

    /// All that count as warnings; `skipped` does not.
    pub fn total(&self) -> u64 {
        self.changed + self.vanished + self.unreadable
    }

    /// Adds the counts of another component.
    pub fn merge(&mut self, other: &WarningCounts) {
        self.changed += other.changed;
        self.vanished += other.vanished;
        self.unreadable += other.unreadable;
        self.skipped += other.skipped;
    }
}
