//! What comes out of backups: `restore`, `ls`, `cat`, `diff`, `export`.

use std::path::PathBuf;

use clap::Args;

use super::Keys;
use crate::model::{ComponentName, JobName, TargetName};

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// The folder to restore into; new or empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["in_place", "into"])]
    pub to: Option<PathBuf>,
    /// Load a dump into this database, which is made, at the server the job's source names; with --force in the
    /// place of one that exists
    #[arg(long, value_name = "DATABASE", conflicts_with_all = ["to", "in_place", "path"])]
    pub into: Option<String>,
    /// The database of the backup [default: the one called as that of --into, or the only one]
    #[arg(long, value_name = "NAME", requires = "into")]
    pub database: Option<String>,
    /// Log in by this file instead of the source's: a MySQL option file, or a pgpass file
    #[arg(long, value_name = "FILE", requires = "into")]
    pub login_file: Option<PathBuf>,
    /// Log in as this user instead of the source's
    #[arg(long, value_name = "USER", requires = "into")]
    pub login_user: Option<String>,
    /// Give everything in the database to the login, for servers that do not know its owners (PostgreSQL)
    #[arg(long, requires = "into")]
    pub no_owner: bool,
    /// Restore to where the files were captured from, replacing what is there; needs --force
    #[arg(long, conflicts_with = "to", requires = "force")]
    pub in_place: bool,
    /// Only this component
    #[arg(long, value_name = "NAME")]
    pub component: Option<ComponentName>,
    /// Only paths that match, as they stand in the archive (without a leading /), with * ? and **; a folder
    /// means all below it (may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub path: Vec<String>,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
    /// From this target [default: the nearest that has it]
    #[arg(long)]
    pub target: Option<TargetName>,
    /// Restore into a folder that is not empty, and replace files there; or replace a database
    #[arg(long)]
    pub force: bool,
    /// Keep set-uid and set-gid bits and capabilities of files
    #[arg(long)]
    pub allow_setid: bool,
    /// Make devices and FIFOs, which only archives of other programs hold
    #[arg(long)]
    pub allow_devices: bool,
    /// Take owners by number, without looking up names
    #[arg(long)]
    pub numeric_owner: bool,
    /// Wait until everything is durable, as with --in-place; without it the kernel writes it out later, as
    /// after tar or cp
    #[arg(long)]
    pub sync: bool,
    /// Go on behind damage: restore everything else, and name what is lost
    #[arg(long)]
    pub keep_going: bool,
    #[command(flatten)]
    pub keys: Keys,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// The folder, as it stands in the archive (with or without a leading /)
    #[arg(default_value = "")]
    pub path: String,
    /// Everything below it, not only the first level
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// Mode, size and time too
    #[arg(long, short)]
    pub long: bool,
    #[command(flatten)]
    pub of: Of,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cat {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// The file, as it stands in the archive (with or without a leading /); without it, the component itself,
    /// which must be a dump
    #[arg(required_unless_present = "component")]
    pub path: Option<String>,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// The earlier backup: an id as for `show`, or `latest`
    pub earlier: String,
    /// The later one [default: the latest of the same job]
    pub later: Option<String>,
    /// Only at or below this path
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
    #[command(flatten)]
    pub of: Of,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// Which part of a backup is looked at, and where.
#[derive(Debug, Args)]
pub struct Of {
    /// Only this component
    #[arg(long, value_name = "NAME")]
    pub component: Option<ComponentName>,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
    /// At this target [default: the nearest that has it]
    #[arg(long)]
    pub target: Option<TargetName>,
    #[command(flatten)]
    pub keys: Keys,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// The tar to write; `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace the file when it is there
    #[arg(long)]
    pub force: bool,
    /// Of this job, for `latest`
    #[arg(long)]
    pub job: Option<JobName>,
    /// From this target [default: the nearest that has it]
    #[arg(long)]
    pub target: Option<TargetName>,
}
