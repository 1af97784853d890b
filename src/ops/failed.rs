//! Runs that failed outside of their steps: before they began, or because the state did not take their end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::{Agent, at_work, reap, tell};
use crate::lock::{FileLock, LockMode, ProcessIdentity};
use crate::model::{JobName, Outcome, RunId};
use crate::state::{EndedRun, NewRun, Run, RunTrigger, write_status};

/// How long the job's lock is waited for: somebody may look at the run already.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Records and tells a run of `job` that ended with an error instead of an outcome. `begun` is its row in the state,
/// if it came so far. Where its backup was published, that is looked at and counts; else the row is closed as a
/// failure. A run without a row gets one. When the state cannot be used for that, the failure is told without it.
/// Returns what could not be told.
///
/// Only for the process that ran it, and only when nothing works for the run any more.
pub fn record(
    agent: &Agent,
    job: &JobName,
    trigger: RunTrigger,
    scheduled_for: Option<DateTime<Utc>>,
    begun: Option<&RunId>,
    error: &anyhow::Error,
) -> Vec<String> {
    let recorded = match begun {
        Some(run) => end(agent, run, error),
        None => begin_and_end(agent, job, trigger, scheduled_for, error),
    };
    match recorded.and_then(|()| Ok(write_status(&agent.state, agent.now()).map(drop)?)) {
        Ok(()) => tell::deliver(agent).problems,
        Err(e) => {
            tracing::error!(
                job = job.as_str(),
                "the failure could not be recorded, it is told without the state: {e:#}"
            );
            match tell::run_without_state(agent, job, error) {
                Ok(delivery) => delivery.problems,
                Err(e) => vec![format!("{e:#}")],
            }
        }
    }
}

/// Ends a run whose row says that it runs. What fails here is left to the reaper.
fn end(agent: &Agent, run_id: &RunId, error: &anyhow::Error) -> Result<()> {
    let of_run = || format!("run {run_id} is not in the state any more");
    let job = agent.state.run(run_id)?.with_context(of_run)?.job;
    let path = agent.lock_path(&job);
    let _lock = FileLock::acquire_wait(&path, LockMode::Private, Instant::now() + LOCK_WAIT, &|| false)?
        .with_context(|| format!("{} stays locked by somebody else", path.display()))?;
    let run = agent.state.run(run_id)?.with_context(of_run)?;
    // Whoever held the lock may have dealt with it, and told it.
    if !run.is_running() {
        return Ok(());
    }
    if let Some(outcome) = reap::take_over(agent, &run, &format!("{error:#}"))? {
        tracing::warn!(job = job.as_str(), "the backup of run {run_id} is there and counts ({outcome})");
        return Ok(());
    }
    fail(agent, &run, error)
}

/// Gives a run that could not begin a row of its own.
fn begin_and_end(
    agent: &Agent,
    job: &JobName,
    trigger: RunTrigger,
    scheduled_for: Option<DateTime<Utc>>,
    error: &anyhow::Error,
) -> Result<()> {
    let started = agent.now();
    let run_id = RunId::generate(started);
    let _at_work = at_work::begin(run_id.as_str());
    agent.state.begin_run(&NewRun {
        run_id: run_id.clone(),
        job: job.clone(),
        trigger,
        scheduled_for,
        process: ProcessIdentity::current(),
        started,
    })?;
    fail(agent, &Run::begun(&run_id, job, trigger, started), error)
}

fn fail(agent: &Agent, run: &Run, error: &anyhow::Error) -> Result<()> {
    let mut ended = EndedRun::new(run.run_id.clone(), Outcome::Failure, agent.now());
    ended.error = Some(format!("{error:#}"));
    ended.failed_step = run.step;
    let messages = tell::plan_end(agent, run, &mut ended, None, Vec::new())?;
    agent.state.end_run(&ended, &[], &messages)?;
    Ok(())
}
