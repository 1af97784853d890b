//! What a message is made of: plain facts, gathered by the layers above.
//!
//! Nothing here is rendered yet. Texts may hold whatever a hostile file name, a log line or another
//! program's error output holds: [`super::text`] and [`super::html`] make it harmless.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::event::Step;
use crate::manifest::FileWarning;
use crate::model::{ComponentName, JobName, Outcome, RunId, TargetName, WarningCounts};

/// All a message about one run may say.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// The job.
    pub job: JobName,
    /// This host's name, as it stands in manifests.
    pub host: String,
    /// The run.
    pub run_id: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed beside the outcome, a sentence each; what stands before the first `": "` is its name
    /// (`copy nas: the mount is gone`).
    pub degraded: Vec<String>,
    /// The step that failed, for a failure.
    pub failed_step: Option<Step>,
    /// The component that was being worked on when it failed.
    pub failed_component: Option<ComponentName>,
    /// The error chain as text, without secrets; several lines are allowed.
    pub error: Option<String>,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// End of the run.
    pub ended: DateTime<Utc>,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// The components that were captured, in order.
    pub components: Vec<ComponentFacts>,
    /// Warnings of all components.
    pub warning_counts: WarningCounts,
    /// The first warnings; a message shows at most [`super::body::SHOWN_WARNINGS`].
    pub first_warnings: Vec<FileWarning>,
    /// The last lines of the run's log, oldest first; a message shows at most
    /// [`super::body::SHOWN_LOG_LINES`].
    pub log_tail: Vec<String>,
    /// The newest backup of the job that was read back and found good.
    pub newest_verified: LastGood,
    /// When the job runs next; absent without a schedule.
    pub next_run: Option<DateTime<Utc>>,
    /// Where this run's backup stands.
    pub copies: Vec<CopyFacts>,
    /// How the program is called on this host, `agent` or `agent --config /etc/other.toml`.
    pub command: String,
}

/// One component of a run.
#[derive(Debug, Clone)]
pub struct ComponentFacts {
    /// Its name.
    pub name: ComponentName,
    /// Bytes read from the source.
    pub source_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Archive entries; 0 for a plain stream.
    pub entries: u64,
    /// Warnings met.
    pub warning_counts: WarningCounts,
}

/// The newest verified backup of a job, or why there is none to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastGood {
    /// There is one.
    Backup(GoodBackup),
    /// None was read back, and this is the newest that was stored.
    Unread(GoodBackup),
    /// There is no good backup at all.
    Nothing,
    /// The state could not be read.
    Unknown,
}

/// A backup with all its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoodBackup {
    /// The run that made it.
    pub run_id: RunId,
    /// When that run started: the data is this old.
    pub taken: DateTime<Utc>,
    /// Where it stands.
    pub target: TargetName,
    /// Its folder, for people.
    pub location: Option<String>,
}

/// A backup at one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFacts {
    /// The target.
    pub target: TargetName,
    /// `pending`, `complete`, `verified`, `corrupt`, `expired`.
    pub state: String,
    /// Why it is not there yet, or why it was not read back, in words.
    pub detail: Option<String>,
}

/// A row of runs of one job, each of them bad, before the run a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streak {
    /// End of the first bad run.
    pub since: DateTime<Utc>,
    /// How many bad runs, the current one not counted when it is good.
    pub runs: u64,
    /// How the first one ended.
    pub outcome: Outcome,
    /// The step at which the first one failed.
    pub step: Option<Step>,
    /// Its component.
    pub component: Option<ComponentName>,
    /// Its error, one line is enough.
    pub error: Option<String>,
    /// False when no message about it was accepted by anybody: the recovery then says so.
    pub told: bool,
}

/// The good runs since the last digest.
#[derive(Debug, Clone)]
pub struct DigestFacts {
    /// This host's name.
    pub host: String,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// Start of the time told about.
    pub from: DateTime<Utc>,
    /// Its end.
    pub until: DateTime<Utc>,
    /// One line a job that had runs or should have had them.
    pub jobs: Vec<DigestJob>,
    /// How the program is called on this host.
    pub command: String,
}

/// One job in a digest.
#[derive(Debug, Clone)]
pub struct DigestJob {
    /// The job.
    pub job: JobName,
    /// Runs that ended in `success` or `warning`.
    pub good_runs: u64,
    /// All other runs.
    pub bad_runs: u64,
    /// Start of the newest good run.
    pub last_good: Option<DateTime<Utc>>,
    /// Bytes stored by it.
    pub stored_bytes: u64,
    /// Warnings of all these runs.
    pub warnings: u64,
    /// The newest verified backup.
    pub newest_verified: LastGood,
    /// What a person should know although the runs were good: `shrank by 40 %`, `3 copies pending at nas`.
    pub notes: Vec<String>,
}

/// The result of the health checks, for hosts without a monitoring system.
#[derive(Debug, Clone)]
pub struct CheckFacts {
    /// This host's name.
    pub host: String,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// When the checks were made.
    pub at: DateTime<Utc>,
    /// `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`: the worst of the findings.
    pub status: String,
    /// What was found, worst first.
    pub findings: Vec<FindingFacts>,
    /// How the program is called on this host.
    pub command: String,
}

/// One finding of the health checks.
#[derive(Debug, Clone)]
pub struct FindingFacts {
    /// `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`.
    pub status: String,
    /// The job it is about, if it is about one.
    pub job: Option<JobName>,
    /// The check that found it: `overdue`.
    pub check: String,
    /// What is wrong, in a sentence.
    pub text: String,
}

/// What reading a stored copy back found.
#[derive(Debug, Clone)]
pub struct VerifyFacts {
    /// The job.
    pub job: JobName,
    /// This host's name.
    pub host: String,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// When it was read back.
    pub at: DateTime<Utc>,
    /// Whether the copy is as it was written.
    pub ok: bool,
    /// The run that made the backup.
    pub run_id: RunId,
    /// When that run started: the data is this old.
    pub taken: DateTime<Utc>,
    /// Where the copy stands.
    pub target: TargetName,
    /// Its folder, for people.
    pub location: String,
    /// What is wrong with it, a sentence each.
    pub problems: Vec<String>,
    /// The newest backup of the job that was read back and found good.
    pub newest_verified: LastGood,
    /// When the copy was read back before, which tells one discovery from another of the same copy.
    pub before: Option<DateTime<Utc>>,
    /// How the program is called on this host.
    pub command: String,
}

/// What a test message says.
#[derive(Debug, Clone)]
pub struct TestFacts {
    /// This host's name.
    pub host: String,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// When the test was asked for.
    pub at: DateTime<Utc>,
    /// The channel that is tried.
    pub channel: crate::model::ChannelName,
    /// What the channel tells about, in words: `failure, partial, recovery`.
    pub tells: String,
}

/// Something about the agent itself that a person should know: a broken configuration, a state that cannot
/// be written, a clock that jumped.
#[derive(Debug, Clone)]
pub struct AgentFacts {
    /// This host's name.
    pub host: String,
    /// The zone times are shown in.
    pub timezone: Tz,
    /// When it was noticed.
    pub at: DateTime<Utc>,
    /// What is wrong, in a few words: `the configuration is broken`.
    pub title: String,
    /// What that means: what still works, and what does not.
    pub meaning: String,
    /// The errors, line by line.
    pub details: Vec<String>,
    /// What to do, in a sentence.
    pub advice: Option<String>,
    /// How the program is called on this host.
    pub command: String,
}
