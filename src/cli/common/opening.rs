//! What is known of backups, opened: the state, or what manifests say in its place.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};

use super::configuration::{ADHOC_STATE, load};
use super::finding::known_target;
use super::logs::{BESIDE_ANSWER, start_log};
use super::{UsageError, command};
use crate::cli::args::Global;
use crate::cli::output;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::metrics;
use crate::model::TargetName;
use crate::ops::isolate::At;
use crate::ops::{Agent, channels, scan};
use crate::state::{State, StateError};

/// Opens the state for writing and puts everything together.
pub fn open(global: &Global, config: Config) -> Result<Agent> {
    if let Some(folder) = &global.backups
        && !config.state_dir.is_dir()
    {
        return Err(without_state(folder, "so that it can be read only").into());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let state = State::open(&config.state_dir, clock.now())?;
    assemble(global, config, state, clock)
}

/// Opens the state for writing, where there is one: a verb that looks at backups begins none.
pub fn open_existing(global: &Global, config: Config) -> Result<Agent> {
    let reading = open_reading(global, config.clone())?;
    // Only one made for this call can be written.
    if reading.state.is_read_only() { open(global, config) } else { Ok(reading) }
}

/// Opens the state for reading only.
pub fn open_reading(global: &Global, config: Config) -> Result<Agent> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let Some(folder) = &global.backups
        && !config.state_dir.is_dir()
        && let Some((name, target)) = config.target.first_key_value()
    {
        let at = At::new(name, target, "");
        let state = scan::state_of(at, &config.host_name(), None, clock.now())?
            .ok_or_else(|| without_state(folder, "nor any manifest below it"))?;
        return assemble(global, config, state, clock);
    }
    let state = State::open_read_only(&config.state_dir).map_err(|e| match e {
        StateError::NotFound { .. } => no_state(global, &config, &e),
        e => e.into(),
    })?;
    assemble(global, config, state, clock)
}

/// Opens what is known of backups, for verbs that look into them: the state or, on a host that has none, what the
/// manifests say at `target`, or at the only target of the configuration. What was read so can be written to, and
/// is gone with the call. `id` is the run that is meant, where one is: at a target of several hosts it says which.
pub fn open_backups(
    global: &Global,
    config: Config,
    target: Option<&TargetName>,
    id: Option<&str>,
) -> Result<Agent> {
    let missing = match State::open_read_only(&config.state_dir) {
        Err(e @ StateError::NotFound { .. }) if global.backups.is_none() => e,
        _ => return open_reading(global, config),
    };
    let named = match (target, config.target.first_key_value()) {
        (Some(name), _) => config.target.get_key_value(name),
        (None, only) if config.target.len() == 1 => only,
        _ => None,
    };
    let Some((name, settings)) = named else { return Err(no_state(global, &config, &missing)) };
    let at = At::new(name, settings, "");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match scan::state_of(at, &config.host_name(), id.filter(|id| *id != "latest"), clock.now()) {
        Ok(Some(state)) => {
            output::warn(&format!("there is no state here; this is what the manifests at target {name} say"));
            assemble(global, config, state, clock)
        }
        Ok(None) => Err(no_state(global, &config, &missing)),
        Err(e) if target.is_some() || config.job.is_empty() => Err(e),
        Err(e) => {
            tracing::warn!("looking for backups at target {name}: {e:#}");
            Err(no_state(global, &config, &missing))
        }
    }
}

/// As [`open_backups`], for verbs that bring something out of the backup `id`: their log stands beside their answer.
pub fn open_backup(global: &Global, target: Option<&TargetName>, id: &str) -> Result<Agent> {
    let config = load(global)?;
    known_target(&config, target)?;
    start_log(global, Some(&config), BESIDE_ANSWER)?;
    open_backups(global, config, target, Some(id))
}

/// As [`open_backups`], for verbs that record something.
pub fn open_backups_to_change(
    global: &Global,
    config: Config,
    target: Option<&TargetName>,
    id: Option<&str>,
) -> Result<Agent> {
    known_target(&config, target)?;
    let reading = match open_backups(global, config.clone(), target, id) {
        // Whoever may write brings it up to date.
        Err(e) if matches!(e.downcast_ref(), Some(StateError::NeedsMigration { .. })) => {
            return open(global, config);
        }
        other => other?,
    };
    if reading.state.is_read_only() { open(global, config) } else { Ok(reading) }
}

fn assemble(global: &Global, config: Config, state: State, clock: Arc<dyn Clock>) -> Result<Agent> {
    let channels = if state.is_read_only() { Vec::new() } else { channels::channels(&config) };
    channels::problems(&channels).iter().for_each(|problem| tracing::error!("{problem}"));
    let command = command(global);
    Ok(Agent { config: Arc::new(config), state, clock, channels: Arc::new(channels), command })
}

fn no_state(global: &Global, config: &Config, missing: &StateError) -> anyhow::Error {
    let agent = command(global);
    // The backups may be there all the same: of a state that was lost, or on a new machine.
    let scan = config.target.keys().next().map_or_else(String::new, |target| {
        format!(", and those that a target holds already are made known by: {agent} target scan {target}")
    });
    anyhow!("{missing}; the first backup is made by: {agent} backup{scan}")
}

fn without_state(folder: &Path, what: &str) -> UsageError {
    UsageError(format!(
        "{} holds no backups made by `agent backup --to` or `agent run --now` (there is no {ADHOC_STATE} in it, {what})",
        folder.display()
    ))
}

/// Shows those who watch from outside what a verb changed: `status.json`, the text file of metrics.
pub fn publish(agent: &Agent) -> Result<()> {
    // What was read from manifests for this call says nothing about this host.
    if agent.state.is_temporary() {
        return Ok(());
    }
    if let Some(trouble) = metrics::publish(&agent.state, &agent.config, Default::default(), agent.now())? {
        tracing::warn!("{trouble}");
    }
    Ok(())
}
