//! The command line, as clap reads it and `--help` shows it.
//!
//! | file | the arguments of |
//! | --- | --- |
//! | `mod` | all verbs: their table, the common options |
//! | `making` | `backup`, `run`, `tend`, `copies` |
//! | `looking` | `check`, `doctor`, `list`, `show`, `status`, `history`, `schedule` |
//! | `proving` | `verify`, `repair`, `drill`, `key`; the keys that open backups |
//! | `restoring` | `restore`, `ls`, `cat`, `diff`, `export` |
//! | `keeping` | `prune`, `pin`, `unpin`, `pause`, `resume`, `ack` |
//! | `places` | `target`, `import` |
//! | `settings` | `notify`, `config` |

mod keeping;
mod looking;
mod making;
mod places;
mod proving;
mod restoring;
mod settings;

pub use self::keeping::{JobArg, Pause, Pin, Prune, Unpin};
pub use self::looking::{Check, Doctor, History, Json, List, Schedule, Show};
pub use self::making::{Backup, Copies, IfLocked, Run, Tend};
pub use self::places::{Import, Target, TargetHostKey, TargetInit, TargetScan, TargetVerb};
pub use self::proving::{Drill, Key, KeyCheck, KeyVerb, Keys, Repair, Verify};
pub use self::restoring::{Cat, Diff, Export, Ls, Of, Restore};
pub use self::settings::{Config, ConfigVerb, Notify, NotifyVerb, Which};

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Scheduled backups of this server: verified, watched, and told about.
///
/// Whatever fails, whenever it fails: there is an intact, verified backup, or somebody was told.
#[derive(Debug, Parser)]
#[command(name = "agent", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 success or warning, 1 failure, 2 usage or configuration, 3 partial, \
4 degraded, 75 locked, 130 interrupted; `check` and `doctor` exit like monitoring plugins (0 to 3).\n\
Start here: `agent config init`, or `agent run --now` in any folder.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Back up now: one job, several, or all
    Backup(Backup),
    /// Run the daemon: schedule, health checks, /metrics and status page
    Run(Run),
    /// Say whether all backups are as they should be, as a monitoring plugin
    ///
    /// Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. It needs no daemon, only the state, or for an ordinary
    /// user its `status.json`. Other backup tools call the check of their archives `check`: that is `verify`
    /// here, and this verb also answers to `monitor`.
    #[command(visible_alias = "monitor")]
    Check(Check),
    /// Find what will make backups fail: started twice, programs missing, nobody reachable
    ///
    /// Looks at everything around the backups: crontabs, timers and at jobs that start them twice, programs older
    /// than their servers, permissions, locks on network file systems, targets, mail servers and addresses (nothing
    /// is sent), clock, log rotation, and whether Prometheus asks. Each finding says what, where, why it matters, and
    /// what to do. Exit codes: 0 all is well, 1 warnings, 2 critical, 3 something could not be told.
    Doctor(Doctor),
    /// List the backups
    List(List),
    /// Show one backup or run: what is in it, warnings, log
    Show(Show),
    /// Read backups back and compare every byte with what was written
    Verify(Verify),
    /// Replace damaged copies by good ones from another target
    ///
    /// The fresh copy is read back before the damaged one goes. Without a good copy elsewhere nothing is touched.
    /// Exits with 1 when a copy could not be repaired.
    Repair(Repair),
    /// Bring files back
    Restore(Restore),
    /// Prove that a backup comes back: restore it into a scratch folder, compare, and remove it again
    ///
    /// Counts files and bytes, compares a sample with the live files, and makes the checks of [job.NAME.drill].
    /// Exits with 1 when a backup did not come back as it should.
    Drill(Drill),
    /// List what is in a backup, without restoring it
    Ls(Ls),
    /// Print a file out of a backup
    Cat(Cat),
    /// Show what changed between two backups
    ///
    /// Files are compared by kind, size, time of change, mode and what a link names; dumps by their digests. Exits
    /// with 0 also when something changed.
    Diff(Diff),
    /// Hand a whole backup over as one tar, digests and instructions inside
    Export(Export),
    /// Take in the archives of another backup program, to be listed, verified and restored, never changed
    ///
    /// Reads each archive once for its digest; when it was taken is read from the names of its folders and files, else
    /// from its time of change. Calling it again takes in what is new, and forgets what its program removed.
    Import(Import),
    /// Do what is due beside the runs, where no daemon does it: pending copies, messages, dead runs
    ///
    /// For hosts where cron starts everything: marks runs that died, makes pending copies (newest first), queues
    /// reminders and digests, sends messages. Exits with 1 when a copy or a message failed.
    Tend(Tend),
    /// Show the copies that are still to be made: since when they wait, why, and when they are tried again
    Copies(Copies),
    /// Let a job rest until a time: no scheduled runs, no alarms
    Pause(Pause),
    /// End a pause
    Resume(JobArg),
    /// Accept that a job's data shrank: the next runs are the new normal
    Ack(JobArg),
    /// Make a key for encrypted backups, or try the one you hold
    Key(Key),
    /// Remove what the retention policy lets expire
    ///
    /// By what the state knows, job by job. With --host or --all-hosts, where the configuration has no jobs, and for a
    /// target without a state here, it goes by the manifests at the target: each job of each host is kept by itself
    /// under the target's `keep`. Exits with 1 when something could not be removed.
    Prune(Prune),
    /// Keep a backup for ever, whatever the retention policy says
    Pin(Pin),
    /// Let the retention policy decide about a pinned backup again
    Unpin(Unpin),
    /// Prepare a target, or look at what it holds
    Target(Target),
    /// Show the state of every job
    Status(Json),
    /// Show the latest runs
    History(History),
    /// Show the next times each job runs
    Schedule(Schedule),
    /// Print the metrics in Prometheus' text format
    Metrics,
    /// Try the notification channels, or look at their queue
    Notify(Notify),
    /// Check, write, show or describe the configuration
    Config(Config),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Work on a target in a process of its own
    #[command(name = "internal-target-io", hide = true)]
    TargetIo,
}

/// Where `--help` lists the options of every verb.
const COMMON: &str = "Common options";

/// Options of every verb.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration file [default: /etc/backup-agent/config.toml]
    #[arg(long, short, global = true, value_name = "FILE", help_heading = COMMON)]
    pub config: Option<PathBuf>,
    /// Work with the backups in this folder, made by `agent backup --to` or `agent run --now`, without a
    /// configuration
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "config", help_heading = COMMON)]
    pub backups: Option<PathBuf>,
    /// More log lines (twice: still more)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = COMMON)]
    pub verbose: u8,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; for example 90s, 5min, 2h"))
}
