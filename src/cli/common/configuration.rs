//! The configuration of a verb: read, made up where nobody wrote one, or the last good one.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::UsageError;
use crate::cli::args::Global;
use crate::cli::output;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, ConfigErrors, LoadOptions, Loaded};
use crate::ops::Agent;
use crate::ops::last_good::{self, Kept, LastGood};

/// Where backups made without a configuration keep their state.
pub(super) const ADHOC_STATE: &str = ".backup-agent";
/// Where `agent run --now` puts them.
const DEFAULT_BACKUPS: &str = "backups";

/// Loads the configuration. Files with secrets are not looked at: who needs one finds out.
pub fn load(global: &Global) -> Result<Config> {
    Ok(read(global, false)?.config().clone())
}

fn read(global: &Global, check_files: bool) -> Result<Begun> {
    if let Some(folder) = &global.backups {
        return adhoc(folder).map(Begun::AsIs);
    }
    let options = LoadOptions { check_files, ..LoadOptions::new(global.config.clone()) };
    match config::load(&options) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| tracing::debug!("{warning}"));
            Ok(Begun::Good(Box::new(loaded)))
        }
        // Beside the backups of `agent run --now` its own configuration is meant.
        Err(e)
            if e.missing
                && global.config.is_none()
                && Path::new(DEFAULT_BACKUPS).join(ADHOC_STATE).is_dir() =>
        {
            embedded().map(Begun::AsIs)
        }
        Err(e) => Err(config_error(global, &e).into()),
    }
}

/// How the configuration of a verb that does something came about.
pub enum Begun {
    /// Nobody wrote it, or it is not to be kept.
    AsIs(Config),
    /// It was read, and is good.
    Good(Box<Loaded>),
    /// It is wrong; the last good one is used instead.
    Kept { config: Config, at: DateTime<Utc>, reason: String },
}

impl Begun {
    /// The configuration.
    pub fn config(&self) -> &Config {
        match self {
            Begun::AsIs(config) | Begun::Kept { config, .. } => config,
            Begun::Good(loaded) => &loaded.config,
        }
    }

    /// Keeps a good configuration, and tells of a refused one.
    pub fn record(&self, agent: &Agent) -> Result<()> {
        match self {
            Begun::AsIs(_) => Ok(()),
            Begun::Good(loaded) => {
                loaded.file_problems.iter().for_each(|problem| tracing::error!("{}", problem.line()));
                last_good::keep(agent, loaded)
            }
            Begun::Kept { at, reason, .. } => {
                tracing::error!("the configuration is refused, the last good one, of {at}, is used");
                // One line for each problem, as `agent config check` shows them.
                reason
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .for_each(|line| tracing::error!("  {line}"));
                last_good::refuse(agent, reason, "Jobs go on with the last good configuration")
            }
        }
    }
}

/// Loads the configuration for a verb that does what is due: a backup by yesterday's configuration is better
/// than none because of a mistake in today's. When there is none either, whoever can be told is told.
pub fn begin(global: &Global) -> Result<Begun> {
    let error = match read(global, true) {
        Ok(begun) => return Ok(begun),
        Err(error) => error,
    };
    let options = LoadOptions::new(global.config.clone());
    let reason = format!("{error:#}");
    let unusable = match last_good::find(&options, SystemClock.now()) {
        Ok(Kept::Good(LastGood { config, at, .. })) => return Ok(Begun::Kept { config, at, reason }),
        Ok(Kept::None) => return Err(error),
        Ok(Kept::Unusable(unusable)) => unusable,
        Err(e) => return Err(UsageError(format!("{reason}\n{e:#}")).into()),
    };
    let reason = unusable.reason(&reason);
    // Beside the answer, on standard error: the log is begun by a configuration.
    let told = unusable.tell(&reason, &super::command(global), Arc::new(SystemClock));
    told.problems.iter().for_each(|problem| output::warn(&format!("not told: {problem}")));
    Err(UsageError(reason).into())
}

/// The error of a configuration that is missing or wrong, with what to do.
pub fn config_error(global: &Global, errors: &ConfigErrors) -> UsageError {
    if errors.missing && global.config.is_none() {
        return UsageError(format!(
            "there is no configuration at {}; write one with `agent config init`, or back up without one: \
             `agent backup --source DIR --to DIR`, `agent run --now`",
            config::DEFAULT_FILE
        ));
    }
    UsageError(errors.to_string().trim_end().to_owned())
}

/// The embedded configuration for the current folder.
pub fn embedded() -> Result<Config> {
    let folder = std::env::current_dir().context("asking for the current folder")?;
    Ok(config::embedded_default(&folder, None))
}

/// The configuration of a folder of backups made without one.
fn adhoc(folder: &Path) -> Result<Config> {
    // A folder that other means made, or whose state is lost, is looked through when it is read.
    if !folder.is_dir() {
        return Err(UsageError(format!(
            "{} is no folder, and holds no backups made by `agent backup --to` or `agent run --now`",
            folder.display()
        ))
        .into());
    }
    Ok(config::adhoc(&[], folder, None))
}
