//! A snapshot, read in one transaction.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rusqlite::Transaction;

use super::{AgentState, ChannelState, JobCounters, JobState, JobTargetState, SNAPSHOT_VERSION, Snapshot};
use crate::model::{ChannelName, JobName, TargetName};
use crate::state::counters::{Counter, all_counters, contention, names};
use crate::state::facts::{FactKey, HEALTH_CHECKED, all_health, all_probes, get_fact};
use crate::state::history::{baselines, history, last_run, last_success, running};
use crate::state::jobs::all_jobs;
use crate::state::run::Run;
use crate::state::sql::{get_word, opt_time, time, uint};
use crate::state::targets::all_identities;
use crate::state::{JobRow, State, StateError, drills};

/// How many runs of each job's history a snapshot carries.
const HISTORY: usize = 30;

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
        "SELECT job, target, status, count(*) AS n, sum(bytes) AS bytes, max(started) AS newest, run_id,
             sum(status = 'corrupt' AND NOT EXISTS (
                 SELECT 1 FROM copies AS other WHERE other.run_id = copies.run_id
                 AND other.status IN ('complete', 'verified'))) AS alone
         FROM copies WHERE status <> 'expired' GROUP BY job, target, status",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state =
            all.entry(get_word(row, "job")?).or_default().entry(get_word(row, "target")?).or_default();
        let (n, newest) = (uint(row, "n")?, time(row, "newest")?);
        match row.get_ref("status")?.as_str().map_err(rusqlite::Error::from)? {
            "pending" => state.pending = n,
            "corrupt" => (state.corrupt, state.beyond_repair) = (n, uint(row, "alone")?),
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
        "SELECT job, target, queued_at, last_error, permanent, next_attempt FROM copies WHERE status = 'pending'
         ORDER BY queued_at DESC",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state =
            all.entry(get_word(row, "job")?).or_default().entry(get_word(row, "target")?).or_default();
        state.oldest_pending = Some(time(row, "queued_at")?);
        if let (None, Some(error)) = (&state.last_error, row.get("last_error")?) {
            (state.last_error, state.stopped) = (Some(error), row.get("permanent")?);
        }
        let next = opt_time(row, "next_attempt")?;
        state.next_attempt = state.next_attempt.into_iter().chain(next).min();
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
        config_unusable: at(FactKey::ConfigUnusable.as_str())?,
        clock_jump: get_fact(tx, FactKey::ClockJump.as_str())?,
        log_trouble: get_fact(tx, FactKey::LogTrouble.as_str())?,
        textfile_trouble: get_fact(tx, FactKey::TextfileTrouble.as_str())?,
        metrics_scraped: get_fact(tx, FactKey::MetricsScraped.as_str())?,
    })
}
