//! The configuration of the daemon: loaded at the start, loaded again on SIGHUP, and kept when it was good.
//!
//! Every good configuration is kept in the state. A reload that meets a bad one changes nothing; a start that
//! meets one goes on with the one that was kept. Both are told: an error in the log, a metric, the check
//! `config`, and a mail, once for as long as the configuration is wrong in the same way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::context::Shared;
use super::{Options, Source};
use crate::config::{self, Config, LoadOptions, Loaded};
use crate::notify::facts::AgentFacts;
use crate::notify::plan;
use crate::ops::{Agent, tell, touch_job};
use crate::state::{DATABASE_FILE, FactKey, State};

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
            let agent = assemble(Config::clone(config), state, options)?;
            Ok(Begun { agent, found: Found::default() })
        }
        Source::Files(load) => match config::load(load) {
            Err(errors) => last_good(options, load, errors.into()),
            Ok(loaded) => {
                let state = open_state(&loaded.config, options)?;
                match assemble(loaded.config.clone(), state, options) {
                    Ok(agent) => {
                        let warnings = loaded.warnings.clone();
                        Ok(Begun { agent, found: Found { warnings, good: Some(loaded), refused: None } })
                    }
                    // A channel that cannot work is as wrong as a misspelt key.
                    Err(error) => last_good(options, load, error),
                }
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
        let channels = tell::channels(&loaded.config)?;
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
    let agent = shared.agent();
    let now = agent.now();
    let facts = AgentFacts {
        host: agent.config.host_name(),
        timezone: agent.config.timezone,
        at: now,
        title: title.to_owned(),
        meaning: meaning.to_owned(),
        details: details.lines().map(str::to_owned).collect(),
        advice: Some(advice.to_owned()),
        command: agent.command.clone(),
    };
    if let Err(error) = plan::agent(&agent.channels, &facts, now).enqueue(&agent.state, now) {
        tracing::error!("a message ({title}) could not be queued: {error}");
    }
    shared.messages.wake();
}

fn open_state(config: &Config, options: &Options) -> Result<State> {
    let dir = &config.state_dir;
    State::open(dir, options.clock.now()).with_context(|| format!("opening the state in {}", dir.display()))
}

fn assemble(config: Config, state: State, options: &Options) -> Result<Agent> {
    let channels = Arc::new(tell::channels(&config)?);
    let clock = Arc::clone(&options.clock);
    Ok(Agent { config: Arc::new(config), state, clock, channels, command: options.command.clone() })
}

/// The start with the configuration kept in the state. Without one the start fails for the reason that made
/// it necessary.
fn last_good(options: &Options, load: &LoadOptions, reason: anyhow::Error) -> Result<Begun> {
    let dir = state_dir(load);
    if !dir.join(DATABASE_FILE).exists() {
        return Err(reason);
    }
    let text = format!("{reason:#}");
    let kept = State::open(&dir, options.clock.now()).map_err(anyhow::Error::from).and_then(|state| {
        let Some(fact) = state.fact(FactKey::LastGoodConfig)? else { return Ok(None) };
        let loaded = config::load_text(&fact.value, &load.env)
            .map_err(|errors| anyhow!("the last good configuration cannot be used either: {errors}"))?;
        Ok(Some((state, loaded, fact.at)))
    });
    match kept {
        Ok(None) => Err(reason),
        Ok(Some((state, loaded, at))) => {
            let mut config = loaded.config;
            // It is used with the state it was found in, wherever it says that the state is.
            config.state_dir = dir;
            let agent = assemble(config, state, options)?;
            let mut warnings = loaded.warnings;
            warnings.push(format!("the last good configuration, of {at}, is used"));
            Ok(Begun { agent, found: Found { warnings, good: None, refused: Some(text) } })
        }
        Err(error) => Err(reason.context(format!("{error:#}"))),
    }
}

fn keep(shared: &Shared, loaded: &Loaded) {
    if let Err(error) = shared.state.config_loaded(&sources(loaded), &loaded.text, shared.now()) {
        tracing::error!("the configuration could not be kept for a start that finds a broken one: {error}");
    }
}

fn refuse(shared: &Shared, reason: &str, meaning: &str) {
    tracing::error!("the configuration was refused. {meaning}. {reason}");
    let now = shared.now();
    let known = shared.state.fact(FactKey::ConfigRefused).ok().flatten();
    if let Err(error) = shared.state.set_fact(FactKey::ConfigRefused, reason, now) {
        tracing::error!("{error}");
    }
    if known.is_none_or(|fact| fact.value != reason) {
        let advice =
            "Mend it, look at it with `agent config check`, then reload: `systemctl reload backup-agent`";
        tell_agent(shared, "the configuration was refused", meaning, reason, advice);
    }
    shared.health.wake();
}

fn sources(loaded: &Loaded) -> String {
    let names: Vec<String> = loaded.sources.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// Where a configuration that cannot be read as a whole has its state: looked for line by line, since a
/// mistake somewhere else must not hide it.
fn state_dir(load: &LoadOptions) -> PathBuf {
    let from_env = load
        .env
        .iter()
        .find(|(name, _)| name == "BACKUP_AGENT__STATE_DIR")
        .map(|(_, value)| PathBuf::from(value));
    let file = load.file.clone().unwrap_or_else(|| PathBuf::from(config::DEFAULT_FILE));
    let conf_d = load.conf_d.clone().unwrap_or_else(|| file.parent().unwrap_or(Path::new("")).join("conf.d"));
    let mut further: Vec<PathBuf> = std::fs::read_dir(conf_d)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    further.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    further.sort();
    let in_files = || {
        // Later files win.
        further
            .iter()
            .rev()
            .chain([&file])
            .find_map(|path| state_dir_in(&std::fs::read_to_string(path).ok()?))
    };
    from_env.or_else(in_files).unwrap_or_else(|| Config::default().state_dir)
}

/// The value of the key `state_dir` before the first table.
fn state_dir_in(text: &str) -> Option<PathBuf> {
    text.lines().take_while(|line| !line.trim_start().starts_with('[')).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        if key.trim() != "state_dir" {
            return None;
        }
        let parsed: toml::Table = toml::from_str(&format!("value = {value}")).ok()?;
        parsed.get("value")?.as_str().map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_state_is_found_in_a_broken_file() {
        let text = "listen = oops\nstate_dir = '/srv/state' # here\n[job.web]\nstate_dir = \"/no\"\n";
        assert_eq!(state_dir_in(text), Some(PathBuf::from("/srv/state")));
        assert_eq!(state_dir_in("[job.web]\nstate_dir = \"/no\"\n"), None);
        assert_eq!(state_dir_in("state_dir = 7\n"), None);
    }
}
