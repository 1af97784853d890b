//! Who is told: the configuration's channels, and what of a run or of passing time goes into the outbox.
//!
//! What is due is decided and rendered in [`crate::notify`]; here it gets its context.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `mod` | by the passing of time; which channels a job has, what they say of it, and how messages are sent |
//! | `run` | that a run begins, and how it ended |
//! | `copies` | what becomes of a run's copies: missing, late, damaged, whole again |
//! | `found` | what the checks found, and troubles of the agent itself |
//! | `stateless` | what cannot be kept, since the state fails |

mod copies;
mod found;
mod run;
mod stateless;

pub use self::copies::{
    copy_came_after_all, copy_missing, copy_stopped, degraded, is_copy_trouble, verified,
};
pub use self::found::{agent_trouble, findings, refused_to_be_read, state_unusable};
pub use self::run::{Beginning, begun, plan_end};
pub use self::stateless::{ended_without_state, run_without_agent, run_without_state};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::Agent;
use crate::config::Config;
use crate::model::{JobName, TargetName};
use crate::notify::outbox::{self, Delivery};
use crate::notify::{Channel, gather, plan};

impl Agent {
    /// The channels that tell about a job. One that the configuration no longer has is told by all.
    pub(super) fn channels_for(&self, job: &JobName) -> Vec<Arc<Channel>> {
        let wanted = self.config.job.get(job).and_then(|j| j.notify.as_ref());
        let all = self.channels.iter();
        all.filter(|c| wanted.is_none_or(|names| names.contains(&c.name)))
            .filter(|c| c.tells(job))
            .cloned()
            .collect()
    }

    /// What messages about a job say beside what the state knows.
    pub fn job_context(&self, job: &JobName) -> gather::JobContext {
        let now = self.now();
        let paused = self
            .state
            .job(job)
            .ok()
            .flatten()
            .and_then(|row| row.paused_until)
            .is_some_and(|until| until > now);
        gather::JobContext { paused, ..context_of(&self.config, &self.command, job, now) }
    }
}

/// What messages about a job say when the state cannot be asked.
fn context_of(config: &Config, command: &str, job: &JobName, now: DateTime<Utc>) -> gather::JobContext {
    let of_job = config.job.get(job);
    let timezone = of_job.map_or(config.timezone, |j| config.job_timezone(j));
    gather::JobContext {
        job: job.clone(),
        host: config.host_name(),
        timezone,
        command: command.to_owned(),
        next_run: of_job.and_then(|j| j.schedule()).and_then(|s| s.next_after(timezone, now)),
        target_paths: target_paths(config),
        not_read_back: not_read_back(config),
        channels: Some(config.channels_for(job).into_iter().map(|(name, _)| name.clone()).collect()),
        paused: false,
        notes: Vec::new(),
    }
}

fn not_read_back(config: &Config) -> BTreeMap<TargetName, &'static str> {
    config.target.iter().filter_map(|(name, t)| Some((name.clone(), t.not_read_back()?))).collect()
}

fn target_paths(config: &Config) -> BTreeMap<TargetName, String> {
    config.target.iter().map(|(name, t)| (name.clone(), t.address(""))).collect()
}

/// Puts into the outbox what is due by the passing of time or was not queued yet: reminders, digests,
/// degradations, recoveries after late copies.
pub fn by_time(agent: &Agent) -> Result<()> {
    let now = agent.now();
    found::broken_channels(agent)?;
    let jobs: Vec<_> = agent.config.job.keys().map(|job| agent.job_context(job)).collect();
    plan::periodic(&agent.state, &agent.channels, &jobs, now)?.enqueue(&agent.state, now)?;
    Ok(())
}

/// Sends what the outbox holds. What goes wrong is in the result, with the messages, and in the log.
pub fn deliver(agent: &Agent) -> Delivery {
    let sending = outbox::deliver(
        Some(&agent.state),
        &agent.config.state_dir,
        &agent.channels,
        Arc::clone(&agent.clock),
    );
    block_on(sending).unwrap_or_else(|e| {
        tracing::error!("delivering messages: {e:#}");
        Delivery { problems: vec![format!("{e:#}")], ..Delivery::default() }
    })
}

/// Runs network code to its end on this thread, which must not be one of a runtime's own.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime for network work")?;
    let result = runtime.block_on(future);
    // A look-up of a name may hang in the system's resolver; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result)
}
