//! The configuration of the daemon: loaded at the start, loaded again on SIGHUP, and kept when it was good.
//!
//! Every good configuration is kept in the state. A reload that meets a bad one changes nothing; a start that
//! meets one goes on with the one that was kept. Both are told: an error in the log, a metric, the check
//! `config`, and a mail, once for as long as the configuration is wrong in the same way.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::context::Shared;
use super::{Options, Source};
use crate::config::{self, Config, LoadOptions, Loaded, Problem};
use crate::ops::last_good::{self, Kept, LastGood, NoneUsable};
use crate::ops::{Agent, channels, tell, touch_job};
use crate::state::State;

/// What a start begins with.
pub(super) struct Begun {
    /// The agent.
    pub agent: Agent,
    /// What is to be logged, recorded and told, once that is possible.
    pub found: Found,
}

/// What was found while the configuration was loaded.
#[derive(Default)]
pub(super) struct Found {
    /// What is worth a line in the log.
    warnings: Vec<String>,
    /// The configuration that was read, to be kept.
    good: Option<Loaded>,
    /// Why the last good configuration is used instead.
    refused: Option<String>,
}

impl Found {
    /// Logs, records and tells it.
    pub(super) fn record(&self, shared: &Shared) {
        self.warnings.iter().for_each(|warning| tracing::warn!("configuration: {warning}"));
        if let Some(loaded) = &self.good {
            keep(shared, loaded);
        }
        if let Some(reason) = &self.refused {
            refuse(shared, reason, "The daemon has started with the last good configuration");
        }
    }
}

/// Loads the configuration and opens the state, which is made if there is none.
pub(super) fn start(options: &Options) -> Result<Begun> {
    match &options.source {
        Source::Fixed(config) => {
            let state = open_state(config, options)?;
            let agent = assemble(Config::clone(config), state, options);
            Ok(Begun { agent, found: Found::default() })
        }
        Source::Files(load) => match config::load(load) {
            Err(errors) => last_good(options, load, errors.into()),
            Ok(loaded) => {
                let state = open_state(&loaded.config, options)?;
                // A channel that cannot work is no reason to start without the rest.
                let agent = assemble(loaded.config.clone(), state, options);
                let mut warnings = loaded.warnings.clone();
                warnings.extend(loaded.file_problems.iter().map(Problem::line));
                Ok(Begun { agent, found: Found { warnings, good: Some(loaded), refused: None } })
            }
        },
    }
}

/// What became of a reload.
pub(super) enum Reloaded {
    /// The new configuration is in use.
    Good,
    /// It is not, for this reason.
    Refused,
}

/// Reads the configuration again. Runs in progress end with what they began with.
pub(super) fn reload(shared: &Shared, load: &LoadOptions) -> Reloaded {
    let made = config::load(load).map_err(anyhow::Error::from).and_then(|loaded| {
        loaded.strictly()?;
        let channels = channels::strictly(&loaded.config)?;
        Ok((loaded, channels))
    });
    let (loaded, channels) = match made {
        Ok(made) => made,
        Err(error) => {
            refuse(shared, &format!("{error:#}"), "The daemon goes on with the configuration it had");
            return Reloaded::Refused;
        }
    };
    loaded.warnings.iter().for_each(|warning| tracing::warn!("configuration: {warning}"));
    let mut config = loaded.config.clone();
    let state_dir = shared.state.dir();
    if config.state_dir != state_dir {
        tracing::warn!(
            "state_dir is now {}: that counts from the next start on, until then the state stays in {}",
            config.state_dir.display(),
            state_dir.display()
        );
        config.state_dir = state_dir.to_owned();
    }
    shared.watcher.reconfigured(&config);
    shared.exchange_agent(Agent {
        config: Arc::new(config),
        channels: Arc::new(channels),
        ..Agent::clone(&shared.agent())
    });
    keep(shared, &loaded);
    touch_jobs(shared);
    tracing::info!("the configuration was loaded: {}", sources(&loaded));
    Reloaded::Good
}

/// Notes the jobs there are, and which schedules changed.
pub(super) fn touch_jobs(shared: &Shared) {
    let agent = shared.agent();
    for (name, job) in &agent.config.job {
        if let Err(error) = touch_job(&agent, name, job) {
            tracing::error!("{error:#}");
        }
    }
}

/// Queues a message about the agent itself to every channel with readers.
pub(super) fn tell_agent(shared: &Shared, title: &str, meaning: &str, details: &str, advice: &str) {
    if let Err(error) = tell::agent_trouble(&shared.agent(), title, meaning, details, advice) {
        tracing::error!("a message ({title}) could not be queued: {error:#}");
    }
    shared.messages.wake();
}

fn open_state(config: &Config, options: &Options) -> Result<State> {
    let dir = &config.state_dir;
    State::open(dir, options.clock.now()).with_context(|| format!("opening the state in {}", dir.display()))
}

fn assemble(config: Config, state: State, options: &Options) -> Agent {
    let channels = Arc::new(channels::channels(&config));
    channels::problems(&channels).iter().for_each(|problem| tracing::error!("{problem}"));
    let clock = Arc::clone(&options.clock);
    Agent { config: Arc::new(config), state, clock, channels, command: options.command.clone() }
}

/// The start with the configuration kept in the state. Without one the start fails for the reason that made
/// it necessary.
fn last_good(options: &Options, load: &LoadOptions, reason: anyhow::Error) -> Result<Begun> {
    let text = format!("{reason:#}");
    let kept = last_good::find(load, options.clock.now());
    match kept {
        Ok(Kept::None) => Err(reason),
        Ok(Kept::Good(LastGood { state, config, at, mut warnings })) => {
            let agent = assemble(config, state, options);
            warnings.push(format!("the last good configuration, of {at}, is used"));
            Ok(Begun { agent, found: Found { warnings, good: None, refused: Some(text) } })
        }
        Ok(Kept::Unusable(unusable)) => {
            let text = unusable.reason(&text);
            let told = unusable.tell(&text, &options.command, Arc::clone(&options.clock));
            told.problems.iter().for_each(|problem| tracing::error!("not told: {problem}"));
            Err(NoneUsable(text).into())
        }
        Err(error) => Err(NoneUsable(format!("{text}\n{error:#}")).into()),
    }
}

fn keep(shared: &Shared, loaded: &Loaded) {
    if let Err(error) = last_good::loaded_anew(&shared.agent(), loaded) {
        tracing::error!("the configuration could not be kept for a start that finds a broken one: {error:#}");
    }
}

fn refuse(shared: &Shared, reason: &str, meaning: &str) {
    tracing::error!("the configuration was refused. {meaning}");
    // One line for each problem, as `agent config check` shows them.
    reason.lines().filter(|line| !line.trim().is_empty()).for_each(|line| tracing::error!("  {line}"));
    if let Err(error) = last_good::refuse(&shared.agent(), reason, meaning) {
        tracing::error!("{error:#}");
    }
    shared.messages.wake();
    shared.health.wake();
}

fn sources(loaded: &Loaded) -> String {
    let names: Vec<String> = loaded.sources.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
