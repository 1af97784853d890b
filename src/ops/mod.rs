//! What runs, daemon and verbs share: each file one thing that is done with backups.

pub mod at_work;
pub mod browse;
pub mod capture;
pub mod channels;
pub mod clock;
pub mod copies;
pub mod drill;
pub mod export;
pub mod failed;
pub mod hooks;
pub mod import;
pub mod isolate;
pub mod key_check;
pub mod keys;
pub mod last_good;
pub mod limits;
pub mod load;
pub mod locks;
pub mod looks;
pub mod panics;
pub mod pins;
pub mod preflight;
pub mod prune;
pub mod publish;
pub mod reap;
pub mod repair;
pub mod restore;
pub mod restore_text;
pub mod rounds;
mod sample;
pub mod scan;
pub mod sentinel;
pub mod shrink;
pub mod starts;
pub mod stored;
pub mod tell;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use crate::archive;
use crate::clock::Clock;
use crate::config::{CodecName, Config, EngineConfig, IoNice, JobConfig, TargetConfig};
use crate::event::Progress;
use crate::health;
use crate::model::{JobName, TargetName};
use crate::notify::Channel;
use crate::schedule::Schedule;
use crate::state::State;
use crate::target::{self, Target};

/// What everything here works with: the configuration, the state, and the time.
#[derive(Clone)]
pub struct Agent {
    /// The configuration.
    pub config: Arc<Config>,
    /// The state database.
    pub state: State,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The ways to tell somebody.
    pub channels: Arc<Vec<Arc<Channel>>>,
    /// How this program is called on this host, for the commands in messages: `agent`, or
    /// `agent --config /etc/other.toml`.
    pub command: String,
}

impl Agent {
    /// The current instant.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A job of the configuration; the error names those there are.
    pub fn job(&self, name: &JobName) -> Result<&JobConfig> {
        self.config.job.get(name).with_context(|| {
            let known: Vec<&str> = self.config.job.keys().map(JobName::as_str).collect();
            format!("there is no job {name} in the configuration; it has: {}", known.join(", "))
        })
    }

    /// A target of the configuration.
    pub fn target(&self, name: &TargetName) -> Result<&TargetConfig> {
        self.config.target.get(name).with_context(|| {
            let known: Vec<&str> = self.config.target.keys().map(TargetName::as_str).collect();
            format!("there is no target {name} in the configuration; it has: {}", known.join(", "))
        })
    }

    /// A target of the configuration, opened by this process; refused whenever another stands in its place.
    pub fn open_target(&self, name: &TargetName) -> Result<Box<dyn Target>> {
        let scratch = self.scratch_folder();
        let config = self.target(name)?;
        let target = target::open(name, config, self.state.target_identity(name)?, Some(&scratch))?;
        Ok(target::limited(target, config.bandwidth()))
    }

    /// The same for a child process: a folder at a target.
    pub fn at(&self, name: &TargetName, location: impl Into<String>) -> Result<isolate::At> {
        let at = isolate::At::new(name, self.target(name)?, location);
        Ok(at.expecting(self.state.target_identity(name)?))
    }

    /// Where sources put down what they need on the way, when it cannot be beside the backup: in a folder named like
    /// the run while it goes to a store, or as [`Agent::scratch_path`] says.
    pub fn scratch_folder(&self) -> PathBuf {
        self.config.state_dir.join("scratch")
    }

    /// Where sources of a job put down what they need on the way, when its backups are encrypted.
    pub fn scratch_path(&self, job: &JobName) -> PathBuf {
        self.scratch_folder().join(job.as_str())
    }

    /// Where a job's private lock stands.
    pub fn lock_path(&self, job: &JobName) -> PathBuf {
        self.config.state_dir.join("locks").join(format!("{job}.lock"))
    }
}

/// Records that the configuration has this job, and with which schedule. A due time that passed unmet under
/// the old schedule is kept: an edit neither makes nor clears an overdue.
pub fn touch_job(agent: &Agent, name: &JobName, job: &JobConfig) -> Result<()> {
    let (state, now) = (&agent.state, agent.now());
    if let Some(row) = state.job(name)?
        && row.schedule != job.schedule
        && let Some(old) = row.schedule.as_deref().and_then(|line| Schedule::parse(line).ok())
    {
        let last_success = state.last_success(name)?.map(|run| run.started);
        let due = health::due(&old, agent.config.job_timezone(job), last_success, &row);
        if let Some(due) = due.filter(|due| *due <= now) {
            state.keep_due(name, due, now)?;
        }
    }
    Ok(state.touch_job(name, job.schedule.as_deref(), now)?)
}

/// Makes a target from its configuration, for reading: that what stands there is the right one shows by what
/// is read. Whoever writes asks [`Agent::open_target`].
pub fn open_target(name: &TargetName, config: &TargetConfig) -> Result<Box<dyn Target>> {
    target::open(name, config, None, None)
}

/// The engine's options for a job, without encryption. `fast` asks for all cores and no restraint.
pub fn engine_options(config: &EngineConfig, fast: bool, progress: Arc<Progress>) -> archive::Options {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let codec = match config.codec {
        CodecName::Zstd => archive::Codec::Zstd(config.level.unwrap_or(3)),
        CodecName::Gzip => archive::Codec::Gzip(config.level.unwrap_or(6)),
    };
    archive::Options {
        codec,
        threads: if fast { cores } else { config.threads.unwrap_or(cores.div_ceil(2)) },
        nice: if fast { 0 } else { config.nice },
        idle_io: !fast && config.ionice == IoNice::Idle,
        read_limit: if fast { None } else { config.read_limit.map(|l| l.0) },
        seal: None,
        progress,
    }
}
