//! What there is, and whether all is well: `check`, `doctor`, `list`, `show`, `status`, `history`, `schedule`.

use std::path::PathBuf;

use clap::Args;

use crate::model::{JobName, TargetName};

#[derive(Debug, Args)]
pub struct Check {
    /// Only this job
    pub job: Option<JobName>,
    /// Print nothing when all is well
    #[arg(long, short)]
    pub quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Mail what is wrong through the configured channels
    #[arg(long)]
    pub mail: bool,
    /// Write the answers down, as the daemon does: in the state, status.json, and metrics.textfile
    ///
    /// Where no daemon runs this is what moves `backup_health_last_check_timestamp_seconds`, by which
    /// Prometheus sees that somebody still looks. It needs the right to write to the state.
    #[arg(long)]
    pub record: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Only what is wrong; nothing when all is well
    #[arg(long, short)]
    pub quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Look for crontabs, timers, log rotation and the time zone below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only of this job
    pub job: Option<JobName>,
    /// Only at this target
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Also expired ones
    #[arg(long)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The run: its id, the beginning or the last six characters of it, or `latest`
    pub id: String,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
    /// The log of the run too
    #[arg(long)]
    pub log: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct History {
    /// Only this job
    pub job: Option<JobName>,
    /// How many runs
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Schedule {
    /// Only this job
    pub job: Option<JobName>,
    /// How many times
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 10)]
    pub count: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
