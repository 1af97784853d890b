//! `agent run`: the daemon, and the start without a configuration.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::args::{Global, Run};
use super::common::UsageError;
use super::progress::{BackupBar, above_bars};
use super::{common, output};
use crate::clock::SystemClock;
use crate::config::{Config, DEFAULT_FILE, Keep, LoadOptions};
use crate::daemon::{self, Options, Source, Watcher};
use crate::event::{Event, Observer, Progress};
use crate::log;
use crate::model::{ByteSize, JobName, Outcome};
use crate::ops::last_good::NoneUsable;
use crate::run::End;

/// The variable that sets `listen`.
const LISTEN: &str = "BACKUP_AGENT__LISTEN";

pub fn run(global: &Global, args: &Run) -> Result<u8> {
    if global.backups.is_some() {
        return Err(UsageError(
            "--backups is for looking at backups; without a configuration say `agent run --now` in the folder \
             that is to be backed up"
                .to_owned(),
        )
        .into());
    }
    let interactive = std::io::stderr().is_terminal();
    let without_file = args.now && global.config.is_none() && !Path::new(DEFAULT_FILE).exists();
    let source = if without_file {
        let mut config = common::embedded()?;
        if let Some(address) = args.listen {
            config.listen = on_this_machine(address)?;
        }
        prepare(&config)?;
        Source::Fixed(Box::new(config))
    } else {
        let mut load = LoadOptions::new(global.config.clone());
        if let Some(address) = args.listen {
            // As from the environment: checked like the file's, and still there after a reload.
            load.env.retain(|(name, _)| name != LISTEN);
            load.env.push((LISTEN.to_owned(), address.to_string()));
        }
        Source::Files(load)
    };
    let watcher =
        Terminal { fixed: without_file, interactive: interactive || args.now, verbose: global.verbose };
    let options = Options {
        source,
        clock: Arc::new(SystemClock),
        command: common::command(global),
        now: args.now,
        interactive: args.now,
        watcher: Arc::new(watcher),
    };
    match daemon::run(options) {
        Ok(reason) => Ok(reason.code()),
        Err(e) if e.is::<NoneUsable>() => Err(UsageError(format!("{e:#}")).into()),
        Err(e) => match e.downcast_ref::<crate::config::ConfigErrors>() {
            Some(errors) => Err(common::config_error(global, errors).into()),
            None => Err(e),
        },
    }
}

/// Without a configuration nobody has allowed others to see the page.
fn on_this_machine(address: SocketAddr) -> Result<SocketAddr> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(UsageError(format!(
        "{address} can be reached by other machines; without a configuration only 127.0.0.1 and [::1] are served \
         (`agent config init` writes one, for `allow_remote = true`)"
    ))
    .into())
}

/// The folder of backups made without a configuration is made here: nobody else may make targets.
fn prepare(config: &Config) -> Result<()> {
    for target in config.target.values() {
        if let Some(folder) = target.folder() {
            std::fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
        }
    }
    Ok(())
}

/// What a person sees of the daemon.
struct Terminal {
    fixed: bool,
    interactive: bool,
    verbose: u8,
}

impl Terminal {
    /// The daemon's log goes to the journal; a person in front of it sees lines of the program instead.
    fn log_level(&self) -> &'static str {
        if self.fixed && self.interactive { "warn" } else { "info" }
    }
}

impl Watcher for Terminal {
    fn configured(&self, config: &Config) {
        let settings = common::log_settings(self.verbose, Some(config), self.log_level());
        if let Err(e) = common::init_log(&settings) {
            output::error(&e);
        }
        if self.fixed {
            output::print(&introduction(config));
        }
    }

    fn reconfigured(&self, config: &Config) {
        let settings = common::log_settings(self.verbose, Some(config), self.log_level());
        if let Err(error) = log::change(&settings) {
            tracing::error!("{error}");
        }
    }

    fn listening(&self, address: SocketAddr) {
        if self.interactive {
            let end = if self.fixed { "   Ctrl-C ends" } else { "" };
            let line = format!("status page http://{address}/   metrics http://{address}/metrics{end}\n");
            above_bars(|| output::print(&line));
        }
    }

    fn begins(&self, _: &JobName, progress: &Arc<Progress>) -> Box<dyn Observer> {
        if self.interactive { Box::new(Drawn::start(progress)) } else { Box::new(crate::event::Silent) }
    }

    fn ended(&self, job: &JobName, end: &Result<End>) {
        if self.interactive {
            above_bars(|| output::print(&outcome(job, end, self.fixed)));
        }
    }
}

/// What happens here and where: two lines, before the one of the status page.
fn introduction(config: &Config) -> String {
    let mut text = String::new();
    for (name, job) in &config.job {
        let Some((_, target)) = config.primary_target(job) else { continue };
        let paths: Vec<String> = job
            .source
            .values()
            .filter_map(|s| match s {
                crate::config::SourceConfig::Files(files) => Some(&files.paths),
                _ => None,
            })
            .flatten()
            .map(|p| p.display().to_string())
            .collect();
        let below = target.folder().and_then(|folder| config.state_dir.strip_prefix(folder).ok());
        let state = below.map_or_else(
            || config.state_dir.display().to_string(),
            |below| format!("{} there", below.display()),
        );
        text.push_str(&format!(
            "job {name}: {} into {}, state in {state}\nnow, and at {} ({}){}\n",
            paths.join(", "),
            target.address(""),
            job.schedule.as_deref().unwrap_or("no other time"),
            config.job_timezone(job),
            kept(target.keep.as_ref())
        ));
    }
    text
}

/// `; keeps the newest 3, and one of each of 7 days`, or nothing where everything is kept.
fn kept(keep: Option<&Keep>) -> String {
    let Some(keep) = keep else { return String::new() };
    let newest = keep.last.map(|n| format!("the newest {n}"));
    let daily = keep.daily.map(|n| format!("one of each of {n} days"));
    let parts: Vec<String> = newest.into_iter().chain(daily).collect();
    if parts.is_empty() { String::new() } else { format!("; keeps {}", parts.join(", and ")) }
}

fn outcome(job: &JobName, end: &Result<End>, fixed: bool) -> String {
    match end {
        Err(e) => format!("{} job {job}: {e:#}\n", output::tinted("failure", 8)),
        Ok(End::Locked(held)) => {
            format!("locked   job {job}: {} holds {}\n", held.holder, held.path.display())
        }
        Ok(End::Ran(ran)) => {
            let took = output::took(ran.duration);
            let word = output::tinted(ran.outcome.as_str(), 8);
            let mut text = format!("{word} job {job}, run {}, {took}", ran.run_id);
            if let Some(backup) = &ran.backup {
                text.push_str(&format!(
                    ": {} read, {} stored in {}\n",
                    ByteSize(backup.manifest.source_bytes()),
                    ByteSize(backup.manifest.stored_bytes()),
                    backup.location
                ));
            } else {
                text.push('\n');
            }
            if let Some(error) = &ran.error {
                text.push_str(&format!("  {error}\n"));
            }
            ran.degraded.iter().for_each(|why| text.push_str(&format!("  degraded {why}\n")));
            if fixed && ran.outcome != Outcome::Failure {
                text.push_str(
                    "  look: agent list, agent show latest; bring back: agent restore latest --to DIR\n",
                );
            }
            text
        }
    }
}

/// A bar that ends with the run it draws.
struct Drawn(std::sync::Mutex<Option<BackupBar>>);

impl Drawn {
    fn start(progress: &Arc<Progress>) -> Self {
        Self(std::sync::Mutex::new(Some(BackupBar::start(progress))))
    }
}

impl Observer for Drawn {
    fn event(&self, event: &Event) {
        let mut bar = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Event::RunEnded { .. } = event {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
        } else if let Some(bar) = bar.as_ref() {
            bar.event(event);
        }
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        if let Some(bar) = self.0.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            bar.finish();
        }
    }
}
