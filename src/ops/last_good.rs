//! The last good configuration, kept in the state for a start that finds a broken one.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use chrono::{DateTime, Utc};

use super::{Agent, tell};
use crate::config::{self, Config, LoadOptions, Loaded};
use crate::state::{DATABASE_FILE, FactKey, State};

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

/// Looks for the configuration kept in place of the one that `load` could not read. `None` when there never
/// was a good one.
pub fn find(load: &LoadOptions, now: DateTime<Utc>) -> Result<Option<LastGood>> {
    let dir = state_dir(load);
    if !dir.join(DATABASE_FILE).exists() {
        return Ok(None);
    }
    let state = State::open(&dir, now)?;
    let Some(fact) = state.fact(FactKey::LastGoodConfig)? else { return Ok(None) };
    let loaded = config::load_text(&fact.value, &load.env)
        .map_err(|errors| anyhow!("the last good configuration cannot be used either: {errors}"))?;
    let mut config = loaded.config;
    config.state_dir = dir;
    Ok(Some(LastGood { state, config, at: fact.at, warnings: loaded.warnings }))
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
