//! What every verb needs first: the configuration, the state, logging.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::args::Global;
use super::{code, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, ConfigErrors, LoadOptions, Loaded, LogFormat};
use crate::model::{JobName, RunId, TargetName};
use crate::ops::isolate::At;
use crate::ops::last_good::{self, LastGood};
use crate::ops::{Agent, channels, isolate, scan, tell};
use crate::state::{Copy, CopyStatus, Run, State, StateError};
use crate::{log, metrics};

/// An error of usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Where backups made without a configuration keep their state.
const ADHOC_STATE: &str = ".backup-agent";
/// Where `agent run --now` puts them.
pub const DEFAULT_BACKUPS: &str = "backups";

/// Loads the configuration. `secrets` are looked at only by verbs that may need them: an ordinary user's
/// check must not fail on files it need not read.
pub fn load(global: &Global, secrets: bool) -> Result<Config> {
    Ok(read(global, secrets)?.config().clone())
}

fn read(global: &Global, secrets: bool) -> Result<Begun> {
    if let Some(folder) = &global.backups {
        return adhoc(folder).map(Begun::AsIs);
    }
    let options = LoadOptions { check_files: secrets, ..LoadOptions::new(global.config.clone()) };
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
                loaded.channel_problems.iter().for_each(|problem| tracing::error!("{problem}"));
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
/// than none because of a mistake in today's.
pub fn begin(global: &Global) -> Result<Begun> {
    let error = match read(global, true) {
        Ok(begun) => return Ok(begun),
        Err(error) => error,
    };
    let options = LoadOptions::new(global.config.clone());
    match last_good::find(&options, SystemClock.now()) {
        Ok(Some(LastGood { config, at, .. })) => Ok(Begun::Kept { config, at, reason: format!("{error:#}") }),
        Ok(None) => Err(error),
        Err(e) => Err(error.context(format!("{e:#}"))),
    }
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

fn without_state(folder: &Path, what: &str) -> UsageError {
    UsageError(format!(
        "{} holds no backups made by `agent backup --to` or `agent run --now` (there is no {ADHOC_STATE} in it, {what})",
        folder.display()
    ))
}

/// What a person at a terminal sees of the log: the end of a run says what went wrong in it.
pub const BESIDE_ANSWER: &str = "warn,backup_agent::run=off,backup_agent::notify=off";

/// Sets up logging for a verb that ends. `quiet_level` is what standard error shows without `-v` and without a
/// level in the configuration; log files hold what the daemon would log.
pub fn start_log(global: &Global, config: Option<&Config>, quiet_level: &str) -> Result<()> {
    init_log(&log_settings(global.verbose, config, quiet_level))
}

/// Sets up logging as it is asked for.
pub fn init_log(settings: &log::Settings) -> Result<()> {
    log::init(settings, output::colour_on_stderr(), super::progress::AboveBars)
        .map_err(|e| UsageError(e.to_string()).into())
}

/// What is logged, by the configuration and `-v`.
pub fn log_settings(verbose: u8, config: Option<&Config>, quiet_level: &str) -> log::Settings {
    let configured = config.and_then(|c| c.log.level.clone());
    let level = |otherwise: &str| match verbose {
        0 => configured.clone().unwrap_or_else(|| otherwise.to_owned()),
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    let format = match config.map(|c| c.log.format) {
        Some(LogFormat::Json) => log::Format::Json,
        _ => log::Format::Text,
    };
    log::Settings {
        format,
        level: Some(level(quiet_level)),
        file_level: Some(level("info")),
        run_file: config.and_then(|c| c.log.run_file.clone()),
        health_file: config.and_then(|c| c.log.health_file.clone()),
    }
}

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

fn no_state(global: &Global, config: &Config, missing: &StateError) -> anyhow::Error {
    let agent = command(global);
    // The backups may be there all the same: of a state that was lost, or on a new machine.
    let scan = config.target.keys().next().map_or_else(String::new, |target| {
        format!(", and those that a target holds already are made known by: {agent} target scan {target}")
    });
    anyhow!("{missing}; the first backup is made by: {agent} backup{scan}")
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

/// As [`open_backups`], for verbs that record something.
pub fn open_backups_to_change(
    global: &Global,
    config: Config,
    target: Option<&TargetName>,
    id: Option<&str>,
) -> Result<Agent> {
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

/// How this program is called here, for the commands in messages.
pub fn command(global: &Global) -> String {
    let quoted = |path: &PathBuf| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        if absolute.contains(char::is_whitespace) { format!("'{absolute}'") } else { absolute }
    };
    match (&global.config, &global.backups) {
        (Some(config), _) => format!("agent --config {}", quoted(config)),
        (_, Some(folder)) => format!("agent --backups {}", quoted(folder)),
        _ => "agent".to_owned(),
    }
}

/// A text whose commands (`` `agent …` ``) name the configuration that is in use here.
pub fn as_called(global: &Global, text: &str) -> String {
    text.replace("`agent ", &format!("`{} ", command(global)))
}

/// The job that is meant when none is named.
pub fn only_job(config: &Config) -> Result<JobName> {
    let mut jobs = config.job.keys();
    match (jobs.next(), jobs.next()) {
        (Some(job), None) => Ok(job.clone()),
        (None, _) => Err(UsageError("the configuration has no job".to_owned()).into()),
        _ => {
            let names: Vec<&str> = config.job.keys().map(JobName::as_str).collect();
            Err(UsageError(format!("which job? Name one, or say --all: {}", names.join(", "))).into())
        }
    }
}

/// Checks that a job named on the command line exists.
pub fn known_job(config: &Config, job: &JobName) -> Result<()> {
    if config.job.contains_key(job) {
        return Ok(());
    }
    let names: Vec<&str> = config.job.keys().map(JobName::as_str).collect();
    Err(UsageError(format!("there is no job {job} in the configuration; it has: {}", names.join(", ")))
        .into())
}

/// As [`find_run`]; with a target, `latest` is the latest good backup that stands there: its copy of the very latest
/// may still be to come.
pub fn find_run_at(
    agent: &Agent,
    id: &str,
    job: Option<&JobName>,
    target: Option<&TargetName>,
) -> Result<Run> {
    let (Some(target), "latest") = (target, id) else { return find_run(agent, id, job) };
    let copies = agent.state.copies(job, Some(target))?;
    let good = |copy: &&Copy| copy.status.is_kept() && copy.outcome.is_good() && !copy.imported;
    let Some(newest) = copies.iter().find(good) else {
        // What was asked for is not there; the very latest says what is the matter with it.
        return find_run(agent, id, job);
    };
    let mut jobs: Vec<&str> = copies.iter().filter(good).map(|copy| copy.job.as_str()).collect();
    jobs.sort_unstable();
    jobs.dedup();
    if jobs.len() > 1 {
        return Err(UsageError(format!("`latest` of which job? Say --job: {}", jobs.join(", "))).into());
    }
    agent.state.run(&newest.run_id)?.with_context(|| format!("the state has lost run {}", newest.run_id))
}

/// The run an id means: whole, its beginning, its last six characters, or `latest` good backup.
pub fn find_run(agent: &Agent, id: &str, job: Option<&JobName>) -> Result<Run> {
    if id == "latest" {
        let jobs: Vec<JobName> = match job {
            Some(job) => vec![job.clone()],
            None => agent.state.jobs()?.into_iter().map(|row| row.job).collect(),
        };
        let mut found = Vec::new();
        for job in &jobs {
            found.extend(agent.state.last_success(job)?);
        }
        if job.is_none() && found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|run| run.job.as_str()).collect();
            return Err(UsageError(format!("`latest` of which job? Say --job: {}", names.join(", "))).into());
        }
        return found.pop().context("there is no good backup yet");
    }
    let found: Vec<Run> =
        agent.state.find_runs(id)?.into_iter().filter(|run| job.is_none_or(|job| run.job == *job)).collect();
    match found.len() {
        1 => found.into_iter().next().context("a run was found and lost"),
        0 => {
            let near: Vec<String> = agent.state.nearest_ids(id, 3)?.iter().map(RunId::to_string).collect();
            let hint = if near.is_empty() {
                "there are no runs yet".to_owned()
            } else {
                format!("the nearest are: {}", near.join(", "))
            };
            bail!("there is no run {id}; {hint}")
        }
        n => {
            let first: Vec<String> = found.iter().take(5).map(|run| run.run_id.to_string()).collect();
            let more = if n > first.len() { ", …" } else { "" };
            Err(UsageError(format!("{n} runs begin with {id}: {}{more}", first.join(", "))).into())
        }
    }
}

/// The copy to read from: the one asked for, else a verified one, the primary first.
pub fn nearest(agent: &Agent, run: &Run, target: Option<&TargetName>) -> Result<Copy> {
    let mut copies: Vec<Copy> = agent.state.copies_of(&run.run_id)?;
    if let Some(target) = target {
        copies.retain(|c| c.target == *target);
    }
    let pending = copies.iter().find(|c| c.status == CopyStatus::Pending).map(|c| c.target.clone());
    copies.retain(|c| c.status.is_kept() || c.status == CopyStatus::Corrupt);
    // What cannot be read from here comes last of all: it is asked for its reason only.
    let write_only = |c: &Copy| agent.config.target.get(&c.target).is_some_and(|target| target.write_only());
    copies.sort_by_key(|c| {
        (write_only(c), c.status == CopyStatus::Corrupt, c.status != CopyStatus::Verified, !c.primary)
    });
    copies.into_iter().next().ok_or_else(|| {
        if let Some(target) = pending {
            return anyhow!(
                "the copy of run {} at {target} is still to be made; `{} copies` says what it waits for",
                run.run_id,
                agent.command
            );
        }
        let at = target.map_or_else(String::new, |t| format!(" at {t}"));
        let ended = run.outcome.map_or("still runs".to_owned(), |outcome| format!("ended with {outcome}"));
        anyhow!(
            "run {} has no backup{at} any more: it {ended}; `{} list` shows those there are",
            run.run_id,
            agent.command
        )
    })
}

/// The child's side of work on a target.
pub fn target_io() -> Result<u8> {
    isolate::serve(&mut io::stdin().lock(), &mut io::stdout())?;
    Ok(code::OK)
}

/// Asks `progress` to stop at SIGINT, SIGTERM or SIGHUP; a second signal ends the process at once.
pub fn stop_on_signals(progress: &Arc<crate::event::Progress>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let progress = Arc::clone(progress);
    let (ready, installed) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let listening = tell::block_on(async {
            let mut signals = (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            );
            let _ = ready.send(());
            for count in 1.. {
                tokio::select! {
                    _ = signals.0.recv() => {}
                    _ = signals.1.recv() => {}
                    _ = signals.2.recv() => {}
                }
                if count > 1 {
                    #[allow(clippy::disallowed_methods)] // asked for twice: nothing is waited for any more
                    std::process::exit(i32::from(code::INTERRUPTED));
                }
                tracing::warn!("stopping; leftovers are removed (again: stop at once)");
                progress.cancel();
            }
            io::Result::Ok(())
        });
        if let Ok(Err(e)) | Err(e) = listening.map(|r| r.map_err(anyhow::Error::from)) {
            tracing::error!("listening for signals: {e:#}");
        }
    })?;
    // A signal that comes before this would end the process the hard way.
    let _ = installed.recv_timeout(std::time::Duration::from_secs(5));
    Ok(())
}
