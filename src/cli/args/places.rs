//! Where backups lie: `target`, and `import` of what lies there already.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;
use crate::model::{JobName, TargetName};

#[derive(Debug, Args)]
pub struct Target {
    #[command(subcommand)]
    pub verb: TargetVerb,
}

#[derive(Debug, Subcommand)]
pub enum TargetVerb {
    /// Give a target a sentinel file, so that another share in its place is noticed
    ///
    /// Writes `.backup-agent-target.json` with a random id, or takes the one that is there (made by another host
    /// that uses the target too), and records the id. From then on nothing is written, copied or removed there
    /// unless the same id and type of file system are found.
    Init(TargetInit),
    /// List the backups at a target by their manifests alone, of all hosts, and make lost ones known again
    ///
    /// Needs no state: what is there is read from the target. With `--adopt`, backups of this host that the state
    /// does not know are recorded: list, freshness, retention and restore know them again, though every byte of
    /// them counts as unverified until `agent verify`.
    Scan(TargetScan),
    /// Show the host keys of an SFTP target's server, as lines for the configuration
    ///
    /// Asks the server over the network, which proves nothing: compare the fingerprints with those the server itself
    /// shows, then put one line into the configuration of the target.
    HostKey(TargetHostKey),
}

#[derive(Debug, Args)]
pub struct TargetInit {
    /// The target
    pub name: TargetName,
    /// Take what stands there now, though another one was known until today
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TargetScan {
    /// The target [default: the only one there is]
    pub name: Option<TargetName>,
    /// Record the backups that the state does not know
    #[arg(long)]
    pub adopt: bool,
    /// Take what the state knows and the target no longer has out of the list of backups
    #[arg(long)]
    pub forget: bool,
    /// Only those of this host; with --adopt: of this host instead of this one
    #[arg(long)]
    pub host: Option<String>,
    /// Only those of this job
    #[arg(long, conflicts_with_all = ["adopt", "forget"])]
    pub job: Option<JobName>,
    /// Say as a monitoring plugin whether each job of each host has a good backup younger than this
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with_all = ["adopt", "forget"])]
    pub max_age: Option<Duration>,
    /// With --max-age: HOST or HOST/JOB must be there, too [may be repeated]
    #[arg(long, value_name = "HOST", requires = "max_age")]
    pub expect: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TargetHostKey {
    /// The target
    pub name: TargetName,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Import {
    /// The folder with the archives; it must lie in the folder of a target
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The job they become backups of
    #[arg(long)]
    pub job: JobName,
    /// The target they lie in [default: the innermost around DIR]
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Only say what would be taken in
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
