//! The last good configuration, kept in the state for a start that finds a broken one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};

use super::{Agent, channels, tell};
use crate::clock::Clock;
use crate::config::{self, Config, LoadOptions, Loaded};
use crate::notify::outbox::Delivery;
use crate::state::{DATABASE_FILE, FactKey, State};

/// How often it is told that no configuration can be used; a little less than from one night to the next.
const TELL_AGAIN: TimeDelta = TimeDelta::hours(23);

/// A configuration that was kept, with the state it was found in.
pub struct LastGood {
    /// The state.
    pub state: State,
    /// The configuration; its `state_dir` is where that state is, wherever it says.
    pub config: Config,
    /// When it was kept.
    pub at: DateTime<Utc>,
    /// What is worth a line in the log.
    pub warnings: Vec<String>,
}

/// What was kept for a start that finds a broken configuration.
pub enum Kept {
    /// Nothing: there never was a good one.
    None,
    /// One that can be used.
    Good(LastGood),
    /// One that cannot be used any more.
    Unusable(Unusable),
}

/// A kept configuration that cannot be used any more: a secret that it needs is not in the environment, or this
/// version of the program reads it otherwise.
pub struct Unusable {
    state: State,
    /// What is left of it: the channels that can be had, and nothing to back up.
    config: Config,
    why: String,
}

/// No configuration can be used, and why.
#[derive(Debug)]
pub struct NoneUsable(pub String);

impl fmt::Display for NoneUsable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoneUsable {}

/// Looks for the configuration kept in place of the one that `load` could not read.
pub fn find(load: &LoadOptions, now: DateTime<Utc>) -> Result<Kept> {
    let dir = state_dir(load);
    if !dir.join(DATABASE_FILE).exists() {
        return Ok(Kept::None);
    }
    let state = State::open(&dir, now)?;
    let Some(fact) = state.fact(FactKey::LastGoodConfig)? else { return Ok(Kept::None) };
    match config::load_text(&fact.value, &load.env) {
        Ok(loaded) => {
            let config = Config { state_dir: dir, ..loaded.config };
            Ok(Kept::Good(LastGood { state, config, at: fact.at, warnings: loaded.warnings }))
        }
        Err(errors) => {
            let config = Config { state_dir: dir, ..channels_of(&fact.value, &load.env) };
            Ok(Kept::Unusable(Unusable { state, config, why: errors.to_string() }))
        }
    }
}

impl Unusable {
    /// Why no configuration can be used, the one that was refused first.
    pub fn reason(&self, refused: &str) -> String {
        format!("{refused}\nThe last good configuration, which is kept, cannot be used either:\n{}", self.why)
    }

    /// Tells that no backup is made, through what channels there are: at once, and again each day.
    pub fn tell(self, reason: &str, command: &str, clock: Arc<dyn Clock>) -> Delivery {
        let agent = Agent {
            channels: Arc::new(channels::channels(&self.config)),
            config: Arc::new(self.config),
            state: self.state,
            clock,
            command: command.to_owned(),
        };
        let told = || -> Result<Delivery> {
            let known = agent.state.fact(FactKey::ConfigRefused)?;
            let told = known.is_some_and(|fact| {
                fact.value == reason && agent.now() - fact.at < TELL_AGAIN && fact.at <= agent.now()
            });
            if !told {
                agent.state.clear_fact(FactKey::ConfigRefused)?;
                refuse(&agent, reason, "No backup is made until it is mended")?;
                agent.state.set_fact(FactKey::ConfigUnusable, "", agent.now())?;
            }
            Ok(tell::deliver(&agent))
        };
        told().unwrap_or_else(|e| Delivery { problems: vec![format!("{e:#}")], ..Delivery::default() })
    }
}

/// The channels of a configuration, as far as each can be read by itself, and what messages say of the host.
fn channels_of(text: &str, env: &[(String, String)]) -> Config {
    let kept: toml::Table = toml::from_str(text).unwrap_or_default();
    let load = |table: &toml::Table| config::load_text(&table.to_string(), env).ok();
    let mut host = kept.clone();
    host.retain(|key, _| matches!(key, "host" | "timezone" | "status_url"));
    let mut found = load(&host).map(|loaded| loaded.config).unwrap_or_default();
    let channels = kept.get("notify").and_then(toml::Value::as_table);
    for (name, channel) in channels.into_iter().flatten() {
        let mut channel = channel.clone();
        // The jobs it is for are not there.
        channel.as_table_mut().map(|channel| channel.remove("jobs"));
        let notify = toml::Table::from_iter([(name.clone(), channel)]);
        let alone = toml::Table::from_iter([("notify".to_owned(), toml::Value::Table(notify))]);
        found.notify.extend(load(&alone).into_iter().flat_map(|loaded| loaded.config.notify));
    }
    found
}

/// Keeps a configuration that is good for a start that finds a broken one. Writes only what is new.
pub fn keep(agent: &Agent, loaded: &Loaded) -> Result<()> {
    let state = &agent.state;
    let kept = state.fact(FactKey::LastGoodConfig)?.is_some_and(|fact| fact.value == loaded.text);
    if kept && state.fact(FactKey::ConfigRefused)?.is_none() {
        return Ok(());
    }
    loaded_anew(agent, loaded)
}

/// Keeps a configuration that was loaded on purpose, by a start or a reload of the daemon. When that was is
/// worth knowing, also where nothing in it is new.
pub fn loaded_anew(agent: &Agent, loaded: &Loaded) -> Result<()> {
    let state = &agent.state;
    let names: Vec<String> = loaded.sources.iter().map(|path| path.display().to_string()).collect();
    Ok(state.config_loaded(&names.join(", "), &loaded.text, agent.now())?)
}

/// Records and tells that a configuration was refused, and what that means. The mail goes out once for as
/// long as it is wrong in the same way.
pub fn refuse(agent: &Agent, reason: &str, meaning: &str) -> Result<()> {
    let known = agent.state.fact(FactKey::ConfigRefused)?;
    agent.state.clear_fact(FactKey::ConfigUnusable)?;
    // Told before it counts as told: what cannot be queued is queued by the next refusal.
    if known.is_none_or(|fact| fact.value != reason) {
        let advice = format!(
            "Mend it, and look at it with `{} config check`. A daemon is told by `systemctl reload backup-agent`",
            agent.command
        );
        tell::agent_trouble(agent, "the configuration was refused", meaning, reason, &advice)?;
    }
    Ok(agent.state.set_fact(FactKey::ConfigRefused, reason, agent.now())?)
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
