//! Making backups and their copies: `backup`, `run`, `tend`, `copies`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;
use crate::model::{JobName, TargetName};

#[derive(Debug, Args)]
pub struct Backup {
    /// The jobs [default: the only one there is]
    #[arg(value_name = "JOB", conflicts_with_all = ["all", "source"])]
    pub jobs: Vec<JobName>,
    /// All jobs of the configuration
    #[arg(long, conflicts_with = "source")]
    pub all: bool,
    /// Back up this folder without any configuration (may be repeated)
    #[arg(long, value_name = "DIR", requires = "to")]
    pub source: Vec<PathBuf>,
    /// Where `--source` goes
    #[arg(long, value_name = "DIR", requires = "source")]
    pub to: Option<PathBuf>,
    /// All cores, and no restraint towards the machine's other work
    #[arg(long)]
    pub fast: bool,
    /// Wait this long for another run's lock
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub lock_wait: Option<Duration>,
    /// What a held lock means: `fail` exits with 75, `skip` with 0
    #[arg(long, value_enum, value_name = "WHAT", default_value = "fail", hide_possible_values = true)]
    pub if_locked: IfLocked,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `agent backup` does when another run holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IfLocked {
    Fail,
    Skip,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Also back up every job at once; without a configuration: this folder into ./backups
    #[arg(long)]
    pub now: bool,
    /// Serve status page and /metrics here instead of at `listen`; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct Tend {
    /// How long to begin copies at the most; what is being copied then is finished
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub copy_wait: Duration,
    /// Try copies and messages again at once that wait for their next attempt
    #[arg(long)]
    pub retry: bool,
}

#[derive(Debug, Args)]
pub struct Copies {
    /// Only this job
    pub job: Option<JobName>,
    /// Only this target
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
