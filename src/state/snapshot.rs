//! Everything the watchers need, read in one transaction.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use super::counters::{Contention, Counter, all_counters, contention, names};
use super::facts::{Fact, FactKey, HEALTH_CHECKED, HealthRow, Probe, all_health, all_probes, get_fact};
use super::history::{Baseline, RunBrief, baselines, history, last_run, last_success, running};
use super::jobs::all_jobs;
use super::run::Run;
use super::sql::{get_word, opt_time, time, uint};
use super::targets::{TargetIdentity, all_identities};
use super::{JobDrills, JobRow, State, StateError, drills};
use crate::model::{ChannelName, ComponentName, JobName, RunId, TargetName, WarningCounts};

/// The version of the snapshot's JSON form.
pub const SNAPSHOT_VERSION: u32 = 1;
/// How many runs of each job's history a snapshot carries.
const HISTORY: usize = 30;

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
    /// Copies still to be made.
    pub pending: u64,
    /// When the oldest of these was asked for.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// The error the last attempt at one of these met.
    pub last_error: Option<String>,
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

impl Snapshot {
    /// One job.
    pub fn job(&self, job: &JobName) -> Option<&JobState> {
        self.jobs.iter().find(|state| state.row.job == *job)
    }
}

impl JobState {
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

impl State {
    /// Everything the watchers need, of one moment.
    pub fn snapshot(&self, now: DateTime<Utc>) -> Result<Snapshot, StateError> {
        self.read("take a snapshot", |tx| {
            let counters = all_counters(tx)?;
            let mut targets = job_targets(tx, &counters)?;
            let mut jobs = Vec::new();
            for row in all_jobs(tx)? {
                let targets = targets.remove(&row.job).unwrap_or_default();
                jobs.push(job_state(tx, row, &counters, targets, now)?);
            }
            Ok(Snapshot {
                version: SNAPSHOT_VERSION,
                written: now,
                agent_version: env!("CARGO_PKG_VERSION").into(),
                instance_id: self.inner.instance_id.clone(),
                jobs,
                targets: all_probes(tx)?.into_iter().collect(),
                identities: all_identities(tx)?,
                channels: channels(tx, &counters)?,
                health: all_health(tx)?,
                agent: agent_state(tx)?,
            })
        })
    }
}

fn job_state(
    tx: &Transaction<'_>,
    row: JobRow,
    counters: &[Counter],
    targets: BTreeMap<TargetName, JobTargetState>,
    now: DateTime<Utc>,
) -> rusqlite::Result<JobState> {
    let last_run = last_run(tx, &row.job, Run::without_paths)?;
    let exclude = last_run.as_ref().map(|run| &run.run_id);
    Ok(JobState {
        last_success: last_success(tx, &row.job, Run::without_paths)?,
        running: running(tx, Some(&row.job))?.into_iter().next(),
        counters: job_counters(counters, &row.job),
        contention: contention(tx, &row.job, now)?,
        targets,
        baselines: baselines(tx, &row.job, row.baseline_ack_at, exclude)?,
        history: history(tx, &row.job, HISTORY)?,
        drills: drills::of_job(tx, &row.job)?,
        last_run,
        row,
    })
}

fn job_counters(counters: &[Counter], job: &JobName) -> JobCounters {
    let mut sum = JobCounters::default();
    for c in counters.iter().filter(|c| c.job == job.as_str()) {
        let slot = match (c.name.as_str(), c.label.as_str()) {
            (names::RUNS, _) => &mut sum.runs,
            (names::RUNS_FAILED, _) => &mut sum.failed,
            (names::RUNS_PARTIAL, _) => &mut sum.partial,
            (names::RUNS_INTERRUPTED, _) => &mut sum.interrupted,
            (names::WARNINGS, "changed") => &mut sum.warnings.changed,
            (names::WARNINGS, "vanished") => &mut sum.warnings.vanished,
            (names::WARNINGS, "unreadable") => &mut sum.warnings.unreadable,
            _ => continue,
        };
        *slot = c.value;
    }
    sum
}

type TargetsByJob = BTreeMap<JobName, BTreeMap<TargetName, JobTargetState>>;

fn job_targets(tx: &Transaction<'_>, counters: &[Counter]) -> rusqlite::Result<TargetsByJob> {
    let mut all = TargetsByJob::new();
    let mut statement = tx.prepare_cached("SELECT * FROM job_targets")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state = JobTargetState {
            last_copy_success: opt_time(row, "last_copy_success")?,
            last_verify: opt_time(row, "last_verify")?,
            last_verify_ok: row.get("last_verify_ok")?,
            last_retention: opt_time(row, "last_retention")?,
            retention_error: row.get("retention_error")?,
            ..JobTargetState::default()
        };
        all.entry(get_word(row, "job")?).or_default().insert(get_word(row, "target")?, state);
    }
    // With max() SQLite takes the bare columns from the row that holds the maximum.
    let mut statement = tx.prepare_cached(
        "SELECT job, target, status, count(*) AS n, sum(bytes) AS bytes, max(started) AS newest, run_id
         FROM copies WHERE status <> 'expired' GROUP BY job, target, status",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state =
            all.entry(get_word(row, "job")?).or_default().entry(get_word(row, "target")?).or_default();
        let (n, newest) = (uint(row, "n")?, time(row, "newest")?);
        match row.get_ref("status")?.as_str().map_err(rusqlite::Error::from)? {
            "pending" => state.pending = n,
            "corrupt" => state.corrupt = n,
            status => {
                state.kept += n;
                state.kept_bytes += uint(row, "bytes")?;
                state.newest = state.newest.max(Some(newest));
                if status == "verified" {
                    state.newest_verified = Some(newest);
                    state.newest_verified_run = Some(get_word(row, "run_id")?);
                }
            }
        }
    }
    let mut statement = tx.prepare_cached(
        "SELECT job, target, queued_at, last_error FROM copies WHERE status = 'pending' ORDER BY queued_at DESC",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state =
            all.entry(get_word(row, "job")?).or_default().entry(get_word(row, "target")?).or_default();
        state.oldest_pending = Some(time(row, "queued_at")?);
        state.last_error = state.last_error.take().or(row.get("last_error")?);
    }
    for c in counters.iter().filter(|c| c.name == names::COPY_FAILURES) {
        if let (Ok(job), Ok(target)) = (c.job.parse::<JobName>(), c.label.parse::<TargetName>()) {
            all.entry(job).or_default().entry(target).or_default().failures = c.value;
        }
    }
    Ok(all)
}

fn channels(
    tx: &Transaction<'_>,
    counters: &[Counter],
) -> rusqlite::Result<BTreeMap<ChannelName, ChannelState>> {
    let mut all = BTreeMap::<ChannelName, ChannelState>::new();
    for c in counters {
        let Ok(channel) = c.label.parse::<ChannelName>() else { continue };
        match c.name.as_str() {
            names::NOTIFICATIONS => all.entry(channel).or_default().delivered = c.value,
            names::NOTIFICATION_FAILURES => all.entry(channel).or_default().failures = c.value,
            names::NOTIFICATIONS_REFUSED => all.entry(channel).or_default().refused = c.value,
            _ => {}
        }
    }
    let mut statement = tx.prepare_cached(
        "SELECT channel, status, created_at, last_error, closed_at FROM outbox WHERE status IN ('pending', 'failed', 'refused') ORDER BY id DESC",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state = all.entry(get_word(row, "channel")?).or_default();
        match row.get_ref("status")?.as_str().map_err(rusqlite::Error::from)? {
            "failed" => {
                state.given_up += 1;
                state.last_given_up = state.last_given_up.max(opt_time(row, "closed_at")?);
                continue;
            }
            "refused" => {
                let at = opt_time(row, "closed_at")?;
                if at > state.last_refused {
                    (state.last_refused, state.refusal) = (at, row.get("last_error")?);
                }
                continue;
            }
            _ => {}
        }
        state.pending += 1;
        state.oldest_pending = Some(time(row, "created_at")?);
        state.last_error = state.last_error.take().or(row.get("last_error")?);
    }
    let broken = get_fact(tx, FactKey::ChannelsBroken.as_str())?
        .and_then(|fact| serde_json::from_str::<BTreeMap<ChannelName, String>>(&fact.value).ok());
    for (channel, problem) in broken.into_iter().flatten() {
        all.entry(channel).or_default().problem = Some(problem);
    }
    Ok(all)
}

fn agent_state(tx: &Transaction<'_>) -> rusqlite::Result<AgentState> {
    let at = |key: &str| -> rusqlite::Result<_> { Ok(get_fact(tx, key)?.map(|fact| fact.at)) };
    Ok(AgentState {
        started: at(FactKey::AgentStarted.as_str())?,
        stopped: at(FactKey::AgentStopped.as_str())?,
        heartbeat: at(FactKey::AgentHeartbeat.as_str())?,
        scheduler_tick: at(FactKey::SchedulerTick.as_str())?,
        health_checked: at(HEALTH_CHECKED)?,
        config_loaded: at(FactKey::ConfigLoaded.as_str())?,
        config_refused: at(FactKey::ConfigRefused.as_str())?,
        clock_jump: get_fact(tx, FactKey::ClockJump.as_str())?,
        log_trouble: get_fact(tx, FactKey::LogTrouble.as_str())?,
        textfile_trouble: get_fact(tx, FactKey::TextfileTrouble.as_str())?,
        metrics_scraped: get_fact(tx, FactKey::MetricsScraped.as_str())?,
    })
}
