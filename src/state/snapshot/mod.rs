//! Everything the watchers need, of one moment; `take` reads it.

mod take;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::counters::Contention;
use super::facts::{Fact, HealthRow, Probe};
use super::history::{Baseline, RunBrief};
use super::run::Run;
use super::targets::TargetIdentity;
use super::{JobDrills, JobRow};
use crate::model::{ChannelName, ComponentName, JobName, RunId, TargetName, WarningCounts};

/// The version of the snapshot's JSON form.
pub const SNAPSHOT_VERSION: u32 = 1;

/// What metrics, health checks, the status page and `status.json` are views of. Holds no secrets, no
/// texts of messages, nothing of the configuration but names and schedules, and no paths of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this form, [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// When it was taken.
    pub written: DateTime<Utc>,
    /// Version of the program that took it.
    pub agent_version: String,
    /// The installation's random id.
    pub instance_id: String,
    /// Every job ever seen, by name, also those the configuration no longer has.
    pub jobs: Vec<JobState>,
    /// The last look at each target.
    pub targets: BTreeMap<TargetName, Probe>,
    /// What each target was when it was last the right one, where that is recorded.
    #[serde(default)]
    pub identities: BTreeMap<TargetName, TargetIdentity>,
    /// The channels that ever had a message.
    pub channels: BTreeMap<ChannelName, ChannelState>,
    /// The last results of the health checks.
    pub health: Vec<HealthRow>,
    /// The daemon and its loops.
    pub agent: AgentState,
}

impl Snapshot {
    /// One job.
    pub fn job(&self, job: &JobName) -> Option<&JobState> {
        self.jobs.iter().find(|state| state.row.job == *job)
    }
}

/// Everything about one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// Name, schedule, pauses, streaks.
    #[serde(flatten)]
    pub row: JobRow,
    /// The last run that ended.
    pub last_run: Option<Run>,
    /// The last good run.
    pub last_success: Option<Run>,
    /// The run in progress, or one that died unnoticed.
    pub running: Option<Run>,
    /// Persisted counters.
    pub counters: JobCounters,
    /// How often its lock was held.
    pub contention: Contention,
    /// Its backups at each target.
    pub targets: BTreeMap<TargetName, JobTargetState>,
    /// What each component usually holds, `last_run` left out.
    pub baselines: BTreeMap<ComponentName, Baseline>,
    /// The last 30 runs that ended, newest first.
    pub history: Vec<RunBrief>,
    /// Its drills.
    #[serde(default)]
    pub drills: JobDrills,
}

impl JobState {
    /// A job of which nothing is known but its row.
    pub fn new(row: JobRow) -> Self {
        Self {
            row,
            last_run: None,
            last_success: None,
            running: None,
            counters: JobCounters::default(),
            contention: Contention::default(),
            targets: BTreeMap::new(),
            baselines: BTreeMap::new(),
            history: Vec::new(),
            drills: JobDrills::default(),
        }
    }

    /// The newest verified backup at any target: start of its run, the run, the target.
    pub fn newest_verified(&self) -> Option<(DateTime<Utc>, &RunId, &TargetName)> {
        self.targets
            .iter()
            .filter_map(|(target, state)| {
                Some((state.newest_verified?, state.newest_verified_run.as_ref()?, target))
            })
            .max_by_key(|(started, _, _)| *started)
    }
}

/// A job's counters; 0 from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounters {
    /// Ended runs.
    pub runs: u64,
    /// Of these failures.
    pub failed: u64,
    /// Of these partials.
    pub partial: u64,
    /// Of these interrupted.
    pub interrupted: u64,
    /// File warnings by kind.
    pub warnings: WarningCounts,
}

/// A job's backups at one target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobTargetState {
    /// Complete or verified backups there.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Start of the run of the newest of them.
    pub newest: Option<DateTime<Utc>>,
    /// Start of the run of the newest verified one.
    pub newest_verified: Option<DateTime<Utc>>,
    /// That run.
    pub newest_verified_run: Option<RunId>,
    /// Backups there that were found damaged and not removed.
    pub corrupt: u64,
    /// Those of them of which no other target has a good copy.
    #[serde(default)]
    pub beyond_repair: u64,
    /// Copies still to be made.
    pub pending: u64,
    /// When the oldest of these was asked for.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// The error the last attempt at one of these met.
    pub last_error: Option<String>,
    /// Whether that error is one that trying again does not mend: somebody has to do something.
    #[serde(default)]
    pub stopped: bool,
    /// When the next attempt at one of these is due.
    #[serde(default)]
    pub next_attempt: Option<DateTime<Utc>>,
    /// Attempts that failed, ever.
    pub failures: u64,
    /// When a copy last succeeded.
    pub last_copy_success: Option<DateTime<Utc>>,
    /// When a backup there was last read back.
    pub last_verify: Option<DateTime<Utc>>,
    /// Whether it was equal.
    pub last_verify_ok: Option<bool>,
    /// When retention last went over it without an error.
    pub last_retention: Option<DateTime<Utc>>,
    /// What kept retention from it the last time.
    pub retention_error: Option<String>,
}

/// One channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Messages accepted, ever.
    pub delivered: u64,
    /// Attempts that failed, ever.
    pub failures: u64,
    /// Messages that wait.
    pub pending: u64,
    /// When the oldest of these was queued.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// The error the last attempt at one of these met.
    pub last_error: Option<String>,
    /// Messages given up in the last 30 days.
    pub given_up: u64,
    /// When the last of these was given up.
    #[serde(default)]
    pub last_given_up: Option<DateTime<Utc>>,
    /// Messages refused for good, ever.
    #[serde(default)]
    pub refused: u64,
    /// When the last of these was refused, within the last 30 days.
    #[serde(default)]
    pub last_refused: Option<DateTime<Utc>>,
    /// Why that was.
    #[serde(default)]
    pub refusal: Option<String>,
    /// What is wrong with the channel's settings, so that it cannot be used, or not as it should be.
    #[serde(default)]
    pub problem: Option<String>,
}

/// The daemon and its loops.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// When the daemon last started.
    pub started: Option<DateTime<Utc>>,
    /// When it last ended as asked.
    pub stopped: Option<DateTime<Utc>>,
    /// Its last sign of life.
    pub heartbeat: Option<DateTime<Utc>>,
    /// The scheduler's last turn.
    pub scheduler_tick: Option<DateTime<Utc>>,
    /// When the health checks were last made.
    pub health_checked: Option<DateTime<Utc>>,
    /// When a configuration was last loaded.
    pub config_loaded: Option<DateTime<Utc>>,
    /// When one was refused, if the last load was.
    pub config_refused: Option<DateTime<Utc>>,
    /// Since when the last good one cannot be used either, so that no run is made.
    #[serde(default)]
    pub config_unusable: Option<DateTime<Utc>>,
    /// The last jump of the clock, and how far.
    pub clock_jump: Option<Fact>,
    /// What is wrong with the log files, and since when.
    pub log_trouble: Option<Fact>,
    /// What is wrong with the text file of metrics, and since when.
    pub textfile_trouble: Option<Fact>,
    /// When `/metrics` was last fetched, and by whom.
    #[serde(default)]
    pub metrics_scraped: Option<Fact>,
}
