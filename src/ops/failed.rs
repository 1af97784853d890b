//! Runs that failed outside of their steps: before they began, or because the state did not take their end.

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::{Agent, tell};
use crate::lock::ProcessIdentity;
use crate::model::{JobName, Outcome, RunId};
use crate::state::{EndedRun, NewRun, Run, RunTrigger, write_status};

/// Records and tells a run of `job` that ended with an error instead of an outcome: its row, if it has one, is
/// closed as a failure, else one is made. When the state cannot be used for that, the failure is told without
/// it. Returns what could not be told.
///
/// Only for the process that ran it, and only when nothing works for the run any more.
pub fn record(
    agent: &Agent,
    job: &JobName,
    trigger: RunTrigger,
    scheduled_for: Option<DateTime<Utc>>,
    error: &anyhow::Error,
) -> Vec<String> {
    let now = agent.now();
    let mut ended = EndedRun::new(RunId::generate(now), Outcome::Failure, now);
    ended.error = Some(format!("{error:#}"));
    match in_state(agent, job, trigger, scheduled_for, &mut ended) {
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

fn in_state(
    agent: &Agent,
    job: &JobName,
    trigger: RunTrigger,
    scheduled_for: Option<DateTime<Utc>>,
    ended: &mut EndedRun,
) -> Result<()> {
    let state = &agent.state;
    let own = ProcessIdentity::current();
    let run = match state.running(job)?.filter(|run| run.process.as_ref() == Some(&own)) {
        Some(run) => run,
        None => {
            let run_id = ended.run_id.clone();
            let started = ended.ended;
            state.begin_run(&NewRun {
                run_id,
                job: job.clone(),
                trigger,
                scheduled_for,
                process: own,
                started,
            })?;
            Run::begun(&ended.run_id, job, trigger, started)
        }
    };
    ended.run_id = run.run_id.clone();
    ended.failed_step = run.step;
    let messages = tell::plan_end(agent, &run, ended, None, Vec::new())?;
    state.end_run(ended, &[], &messages)?;
    write_status(state, ended.ended)?;
    Ok(())
}
