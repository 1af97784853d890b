//! That a run begins, and how it ended.

use std::thread;

use anyhow::Result;

use super::deliver;
use crate::config::TargetConfig;
use crate::event::Looked;
use crate::model::{ComponentName, JobName, RunId, TargetName};
use crate::notify::facts::CopyFacts;
use crate::notify::{gather, plan};
use crate::ops::{Agent, drill};
use crate::state::{CopyStatus, EndedRun, NewMessage, Run};

/// Tells the switches that want to hear of it that a run begins: queued here, and sent by a thread of its
/// own, since a backup does not wait for the network. [`Beginning::wait`] before the end is told, so that a
/// switch hears of the end last.
pub fn begun(agent: &Agent, job: &JobName, run: &RunId) -> Beginning {
    let queued = || {
        let now = agent.now();
        let due = plan::run_began(&agent.state, &agent.channels_for(job), job, run, now)?;
        due.enqueue(&agent.state, now)?;
        anyhow::Ok(!due.is_empty())
    };
    match queued() {
        Ok(false) => Beginning(None),
        Ok(true) => {
            let agent = agent.clone();
            let sending = move || drop(deliver(&agent));
            Beginning(thread::Builder::new().name("tell".to_owned()).spawn(sending).ok())
        }
        Err(e) => {
            // No reason to make no backup; and should nothing come of it, the switch raises the alarm.
            tracing::warn!("the beginning of run {run} is not told: {e:#}");
            Beginning(None)
        }
    }
}

/// The beginning of a run on its way to those who want to hear of it.
#[derive(Debug)]
pub struct Beginning(Option<thread::JoinHandle<()>>);

impl Beginning {
    /// Waits until it was sent, or given up for now: no longer than a channel's timeout.
    pub fn wait(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("telling the beginning of the run ended unexpectedly");
        }
    }
}

/// The messages due at the end of a run, for the transaction that records it; what they replace is put into
/// `ended`. `log_tail` are the last lines of the run's log.
pub fn plan_end(
    agent: &Agent,
    run: &Run,
    ended: &mut EndedRun,
    failed_component: Option<ComponentName>,
    log_tail: Vec<String>,
) -> Result<Vec<NewMessage>> {
    // A new backup does not make good what a drill found: only a good drill does.
    if ended.outcome.is_good() {
        ended.degraded.extend(drill::standing(agent, &run.job)?);
    }
    let context = agent.job_context(&run.job);
    let mut facts = gather::ended(Some(&agent.state), &context, run.started, ended, failed_component);
    facts.log_tail = log_tail;
    facts.copies = copies_of(agent, &run.job, ended);
    let due = plan::run_ended(&agent.state, &agent.channels_for(&run.job), &facts, agent.now())?;
    ended.supersedes = due.supersedes;
    Ok(due.messages)
}

/// The copies of a run that is about to be recorded, as messages show them.
pub(super) fn copies_of(agent: &Agent, job: &JobName, ended: &EndedRun) -> Vec<CopyFacts> {
    let Some(config) = agent.config.job.get(job).filter(|_| ended.stored_bytes > 0) else {
        return Vec::new();
    };
    let copy = |(place, target): (usize, &TargetName)| {
        let not_read_back = agent.config.target.get(target).and_then(TargetConfig::not_read_back);
        let state = match (place, not_read_back) {
            (0, None) => CopyStatus::Verified,
            (0, Some(_)) => CopyStatus::Complete,
            _ => CopyStatus::Pending,
        };
        let detail = not_read_back.filter(|_| state == CopyStatus::Complete);
        CopyFacts {
            target: target.clone(),
            state: state.as_str().to_owned(),
            detail: detail.map(|why| Looked::NotAt(why).to_string()),
        }
    };
    config.targets.iter().enumerate().map(copy).collect()
}
