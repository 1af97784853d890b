//! Health checks: what the state, the configuration and the time say about each job and about the agent.
//!
//! Pure: nothing here opens a file or asks a clock, so `agent check`, the daemon's freshness loop and the
//! status page come to the same answers, and no check can hang. What only a look at the disk can tell
//! (whether a run is dead, whether the newest backup is still there) is handed in as [`Extra`].
//!
//! | file | what it holds |
//! | --- | --- |
//! | `checks` | THE table of checks, and who calls them |
//! | `job` | the checks of one job |
//! | `drill` | the checks of a job's drills |
//! | `agent` | the checks of the daemon, targets, channels and configuration |
//! | `due` | when a job is due, overdue, and run next; shared with metrics and pages |
//! | `shrink` | a component's size against what it usually is |
//! | `report` | monitoring-plugin output and JSON |
//! | `words` | durations and moments for people |

mod agent;
mod checks;
mod drill;
mod due;
mod job;
mod report;
mod shrink;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use checks::{CHECKS, Check, Scope, findings};
pub use drill::next_drill;
pub use due::{allowance, due, next_due, next_run, overdue_at};
pub use report::{Format, Perf, Report, Unit};
pub use shrink::{Shrink, measured_run, shrunk};
pub use words::{moment, since, words};

use crate::model::{JobName, RunId, TargetName};
use crate::state::{HealthRow, HealthStatus};

/// What only a look at the machine can tell. Whoever looks must not be able to hang: the lock files are
/// local, and the files of a backup are looked at only where the target stands on no further mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Runs whose row says `running` although nobody holds their private lock.
    pub dead_runs: BTreeSet<RunId>,
    /// For each job that was looked at: whether manifest and files of its newest good backup are at the
    /// primary target, else what is wrong. A job that is absent was not looked at, and gets no finding.
    pub backup_files: BTreeMap<JobName, Result<(), String>>,
    /// Targets that could not be looked at just now, and why.
    pub targets_away: BTreeMap<TargetName, String>,
    /// Why the state database cannot be used by anybody, where `status.json` was read in its place.
    pub state_broken: Option<String>,
    /// For each job that was looked at: what would start it twice, if anything would.
    pub duplicates: BTreeMap<JobName, Option<Duplicate>>,
    /// Files with secrets that jobs need and that cannot be used.
    pub secret_files: BTreeMap<JobName, Vec<SecretFile>>,
}

/// A file with a secret that is missing, or open to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// What fails by it.
    pub fails: Fails,
    /// What is wrong with it, and how it is put right; one line without a full stop.
    pub text: String,
}

/// What of a job fails for want of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fails {
    /// Its runs.
    Runs,
    /// Its copies to a further target.
    Copies(TargetName),
    /// Its drills.
    Drills,
}

/// Several things that start the backup of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Whether some of them start at the same moment.
    pub at_once: bool,
    /// What they are; one line without a full stop.
    pub text: String,
    /// What to do; one line.
    pub hint: String,
}

/// The answer of one check about one job, or (without a job) about the agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The job.
    pub job: Option<JobName>,
    /// Name of the check, one of [`CHECKS`].
    pub check: &'static str,
    /// Its answer.
    pub status: HealthStatus,
    /// What, and since when; one line without a full stop.
    pub message: String,
    /// What to do about it; one line.
    pub hint: Option<String>,
    /// Figures for monitoring systems that draw them.
    pub perfdata: Vec<Perf>,
}

impl Finding {
    /// Message and hint in one line.
    pub fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}. {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// The form in which the state keeps it.
    pub fn to_row(&self) -> HealthRow {
        HealthRow {
            job: self.job.clone(),
            check: self.check.to_owned(),
            status: self.status,
            message: self.text(),
        }
    }
}

/// The worst of several answers: critical, then warning, then unknown, then ok; ok when there are none.
///
/// Unknown stands below warning because what is known to be wrong must not be hidden by what could not be
/// told.
pub fn worst(statuses: impl IntoIterator<Item = HealthStatus>) -> HealthStatus {
    statuses.into_iter().max_by_key(|status| rank(*status)).unwrap_or(HealthStatus::Ok)
}

fn rank(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Ok => 0,
        HealthStatus::Unknown => 1,
        HealthStatus::Warning => 2,
        HealthStatus::Critical => 3,
    }
}
