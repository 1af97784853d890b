//! What cannot be kept, since the state fails: through the spool, and straight.

use std::sync::Arc;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::run::copies_of;
use super::{block_on, context_of};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{JobName, Outcome, RunId};
use crate::notify::facts::RunFacts;
use crate::notify::outbox::{self, Delivery};
use crate::notify::{gather, plan};
use crate::ops::Agent;
use crate::ops::channels::channels;
use crate::state::EndedRun;

/// Tells of a run whose state failed under it.
pub fn run_without_state(agent: &Agent, job: &JobName, error: &anyhow::Error) -> Result<Delivery> {
    run_without_agent(&agent.config, &agent.command, job, error, Arc::clone(&agent.clock))
}

/// Tells of a run whose end was recorded before the state failed: what is told is how it ended, not the
/// state's trouble. A good one is told as degraded.
pub fn ended_without_state(
    agent: &Agent,
    job: &JobName,
    started: DateTime<Utc>,
    ended: &EndedRun,
    error: &anyhow::Error,
) -> Result<Delivery> {
    let now = agent.now();
    let context = context_of(&agent.config, &agent.command, job, now);
    let mut ended = ended.clone();
    if ended.outcome.is_good() {
        ended.degraded.push(format!("state: {error:#}"));
    }
    let mut facts = gather::ended(None, &context, started, &ended, None);
    if ended.outcome.is_good() {
        facts.copies = copies_of(agent, job, &ended);
    }
    without_state(&agent.config, &facts, now, Arc::clone(&agent.clock))
}

/// Tells of a run that could not begin, since the state could not even be opened.
pub fn run_without_agent(
    config: &Config,
    command: &str,
    job: &JobName,
    error: &anyhow::Error,
    clock: Arc<dyn Clock>,
) -> Result<Delivery> {
    let now = clock.now();
    let context = context_of(config, command, job, now);
    let mut ended = EndedRun::new(RunId::generate(now), Outcome::Failure, now);
    ended.error = Some(format!("{error:#}"));
    let facts = gather::ended(None, &context, now, &ended, None);
    without_state(config, &facts, now, clock)
}

/// Tells of a run without the state, which cannot be opened or written: through the spool, and straight.
pub fn without_state(
    config: &Config,
    facts: &RunFacts,
    now: DateTime<Utc>,
    clock: Arc<dyn Clock>,
) -> Result<Delivery> {
    let wanted = config.channels_for(&facts.job);
    let mut channels = channels(config);
    channels.retain(|channel| wanted.iter().any(|(name, _)| **name == channel.name));
    let due = plan::without_state(&channels, facts, now);
    block_on(outbox::tell_without_state(&config.state_dir, &due.messages, &channels, clock))
}
