//! The command line, as clap reads it and `--help` shows it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::{ChannelName, ComponentName, JobName, TargetName};

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
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
pub struct Restore {
    /// The backup: an id as for `show`, or `latest`
    pub id: String,
    /// The folder to restore into; new or empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["in_place", "into"])]
    pub to: Option<PathBuf>,
    /// Load a dump into this database, which is made, at the server the job's source names; with --force one
    /// that exists is dropped first
    #[arg(long, value_name = "DATABASE", conflicts_with_all = ["to", "in_place", "path"])]
    pub into: Option<String>,
    /// The database of the dump [default: the only one in it]
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
    /// Restore into a folder that is not empty, and replace files there; or drop a database first
    #[arg(long)]
    pub force: bool,
    /// Keep set-uid and set-gid bits of files
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

#[derive(Debug, Args)]
pub struct JobArg {
    /// The job
    pub job: JobName,
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
    #[arg(long, value_name = "POLICY", value_parser = crate::config::Keep::parse)]
    pub keep: Option<crate::config::Keep>,
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
pub struct TargetHostKey {
    /// The target
    pub name: TargetName,
    /// Print JSON
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

#[derive(Debug, Args)]
pub struct Notify {
    #[command(subcommand)]
    pub verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
pub enum NotifyVerb {
    /// Send a test message now
    Test {
        /// Only through this channel
        channel: Option<ChannelName>,
    },
    /// Try messages again at once: those that wait, were refused or given up
    Retry {
        /// Number of a message in `agent notify queue`, or `all`
        #[arg(value_name = "ID")]
        which: Which,
    },
    /// Take messages that wait out of the queue for good
    Drop {
        /// Number of a message in `agent notify queue`, or `all`
        #[arg(value_name = "ID")]
        which: Which,
    },
    /// Show messages that wait, failed or went out
    Queue {
        /// Only those that wait, were refused or given up
        #[arg(long)]
        open: bool,
        /// How many
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// One message, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with this number.
    One(i64),
    /// All.
    All,
}

impl std::str::FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Which::All),
            _ => text
                .parse()
                .map(Which::One)
                .map_err(|_| "a number of `agent notify queue`, or all".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Report everything that is wrong with the configuration
    Check,
    /// Write a commented example
    Init {
        /// Where to [default: the configuration file]; `-` prints it
        file: Option<PathBuf>,
    },
    /// Print the effective values, secrets left out
    Show,
    /// Print the JSON Schema, for editors
    Schema,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; for example 90s, 5min, 2h"))
}
