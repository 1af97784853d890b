//! Whether backups are good, and can be opened: `verify`, `repair`, `drill`, `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::model::{JobName, TargetName};

#[derive(Debug, Args)]
pub struct Verify {
    /// The backup: an id as for `show`, or `latest`
    #[arg(default_value = "latest")]
    pub id: String,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
    /// Only at this target [default: every one that has it]
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Every backup there is
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// What is due by the schedules of the targets, within their budgets: for cron, where no daemon runs
    #[arg(long, conflicts_with_all = ["id", "all", "job", "target", "deep"])]
    pub due: bool,
    /// Also decompress everything and walk through the archives
    #[arg(long)]
    pub deep: bool,
    #[command(flatten)]
    pub keys: Keys,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Repair {
    /// The backup: an id as for `show`, or `latest` [default: every damaged one]
    pub id: Option<String>,
    /// Of this job, for `latest`
    #[arg(long, requires = "id")]
    pub job: Option<JobName>,
    /// Only at this target
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Drill {
    /// The job [default: the only one there is]
    #[arg(conflicts_with = "due")]
    pub job: Option<JobName>,
    /// Restore from this target [default: that of the configuration, else the primary]
    #[arg(long, conflicts_with = "due")]
    pub target: Option<TargetName>,
    /// Every drill that is due by its schedule: for cron, where no daemon runs
    #[arg(long)]
    pub due: bool,
    #[command(flatten)]
    pub keys: Keys,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Key {
    #[command(subcommand)]
    pub verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a new pair of keys: the private one into a file, as age-keygen writes it, the public one to be shown
    ///
    /// Do this on a machine you trust, not on the server: the server needs the public key only.
    Generate {
        /// The file for the private key, which must not exist [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Try whether the key you hold opens the newest backup of each job
    ///
    /// Opens every component, reads its index, some of its frames from the first to the last, and its end. Nothing of
    /// the key is kept. Exits with 1 when a backup was not opened.
    Check(KeyCheck),
}

#[derive(Debug, Args)]
pub struct KeyCheck {
    /// Only this job
    pub job: Option<JobName>,
    /// At this target [default: the nearest that has the backup]
    #[arg(long)]
    pub target: Option<TargetName>,
    #[command(flatten)]
    pub keys: Keys,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What encrypted backups are opened with.
#[derive(Debug, Args)]
pub struct Keys {
    /// A file with a private key that opens encrypted backups: of age, or of SSH (may be repeated)
    #[arg(long, short, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// A file with the passphrase that opens encrypted backups [default: the one the job encrypts with]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}
