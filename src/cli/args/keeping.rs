//! What stays, and what rests: `prune`, `pin`, `unpin`, `pause`, `resume`, `ack`.

use clap::Args;

use crate::config::Keep;
use crate::model::{JobName, TargetName};

#[derive(Debug, Args)]
pub struct Prune {
    /// Only this job
    pub job: Option<JobName>,
    /// Only at this target
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Of this host, by the manifests at the target
    #[arg(long, conflicts_with = "all_hosts")]
    pub host: Option<String>,
    /// Of every host that has backups at the target, by the manifests there
    #[arg(long)]
    pub all_hosts: bool,
    /// Another policy than the target's `keep`: "last=3, daily=7, within=30days, max_bytes=1 TiB"
    #[arg(long, value_name = "POLICY", value_parser = Keep::parse)]
    pub keep: Option<Keep>,
    /// Somebody has looked at this machine's clock, and it is right
    #[arg(long)]
    pub clock_is_right: bool,
    /// Only say what would be removed, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Pin {
    #[command(flatten)]
    pub which: Unpin,
    /// Why, for those who find it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Unpin {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// Only at this target [default: every one that has it]
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
}

#[derive(Debug, Args)]
pub struct Pause {
    /// The job
    pub job: JobName,
    /// Until when: a duration (2h, 3days), a date (2026-12-01), or a time (2026-12-01T08:00)
    #[arg(long, value_name = "WHEN")]
    pub until: String,
}

#[derive(Debug, Args)]
pub struct JobArg {
    /// The job
    pub job: JobName,
}
