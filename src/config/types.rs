//! The configuration as the rest of the program sees it: typed, with every default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{
    AbsolutePath, CronLine, DurationText, HttpUrl, MailAddress, NiceLevel, PercentText, SecretFile, SizeText,
    SmtpUrl, SocketText, TemplateText, ZoneName,
};
use crate::model::{ByteSize, ChannelName, ComponentName, JobName, Secret, TargetName};

/// Everything the agent is told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// IANA time zone of schedules and folder names; the host's zone when absent.
    #[schemars(with = "ZoneName")]
    #[serde(with = "super::timezone")]
    pub timezone: Tz,
    /// Name of this host in manifests and mails; the kernel's host name when absent.
    pub host: Option<String>,
    /// Where the agent keeps its database, locks and run logs.
    #[schemars(with = "AbsolutePath")]
    pub state_dir: PathBuf,
    /// Address of the status page and `/metrics`.
    #[schemars(with = "SocketText")]
    pub listen: SocketAddr,
    /// Allows `listen` to be an address other machines reach.
    pub allow_remote: bool,
    /// How many jobs the daemon runs at once.
    #[schemars(range(min = 1))]
    pub max_parallel_jobs: usize,
    /// How long SIGTERM waits for a run to stop cleanly.
    #[serde(with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,
    /// How often the freshness loop looks at every job.
    #[serde(with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub check_interval: Duration,
    /// Log format and level.
    pub log: LogConfig,
    /// Metrics beside the HTTP endpoint.
    pub metrics: MetricsConfig,
    /// Places where backups are stored.
    pub target: BTreeMap<TargetName, TargetConfig>,
    /// What is backed up, and when.
    pub job: BTreeMap<JobName, JobConfig>,
    /// Who is told.
    pub notify: BTreeMap<ChannelName, NotifyConfig>,
}

/// Log format and level.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level (`info`) or tracing directives (`backup_agent=debug`).
    pub level: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Metrics beside the HTTP endpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// A file for node_exporter's textfile collector, written after each run and check.
    #[schemars(with = "Option<AbsolutePath>")]
    pub textfile: Option<PathBuf>,
}

/// One place where backups are stored.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Kind of target.
    #[serde(rename = "type")]
    pub kind: TargetKind,
    /// The folder, absolute.
    #[schemars(with = "AbsolutePath")]
    pub path: PathBuf,
    /// Folder of one backup below `path`: strftime in the job's zone, `{job}` and `{host}`.
    #[serde(default = "super::defaults::template")]
    #[schemars(with = "TemplateText")]
    pub template: String,
    /// Refuse to write unless `path` stands on a mounted file system of its own.
    #[serde(default)]
    pub require_mount: bool,
    /// What retention keeps here; everything when absent.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// Free space below which the target is reported.
    #[serde(default)]
    #[schemars(with = "Option<SizeText>")]
    pub min_free: Option<ByteSize>,
}

/// Kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A folder: local, or a mounted NAS.
    Directory,
}

/// How much retention keeps. A backup stays when any rule keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// Everything younger than this.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub within: Option<Duration>,
    /// What a job's backups may take here: beyond it the oldest go, though a rule keeps them.
    #[schemars(with = "Option<SizeText>")]
    pub max_bytes: Option<ByteSize>,
}

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobConfig {
    /// A crontab(5) line of five fields, or `@daily` and the like, in `timezone`.
    #[serde(default)]
    #[schemars(with = "Option<CronLine>")]
    pub schedule: Option<String>,
    /// Who starts runs: the daemon, or something else (cron) at the same schedule.
    #[serde(default)]
    pub trigger: Trigger,
    /// Zone of this job, when it is not the zone of the whole configuration.
    #[serde(default, with = "super::timezone::option")]
    #[schemars(with = "Option<ZoneName>")]
    pub timezone: Option<Tz>,
    /// How late a success may be before the job is overdue.
    #[serde(default = "super::defaults::grace", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub grace: Duration,
    /// Random delay added to each scheduled start, at most this.
    #[serde(default, with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub splay: Duration,
    /// A run longer than this is ended as a failure.
    #[serde(default, with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub max_runtime: Option<Duration>,
    /// A further lock file, shared with a script that uses `flock`.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub lock_file: Option<PathBuf>,
    /// Targets: the first is the primary, the others receive copies.
    pub targets: Vec<TargetName>,
    /// How long a run waits for its own copies.
    #[serde(default = "super::defaults::copy_wait", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub copy_wait: Duration,
    /// How long a copy may make no progress before it is given up and tried later.
    #[serde(default = "super::defaults::copy_stall", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub copy_stall: Duration,
    /// Names this job had before, so that older backups still belong to it.
    #[serde(default)]
    pub aliases: Vec<JobName>,
    /// A ready-made set of sources.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Folder of the application, for a preset that needs one.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub preset_path: Option<PathBuf>,
    /// What is backed up; databases before files, each kind in the order of names.
    #[serde(default)]
    pub source: BTreeMap<ComponentName, SourceConfig>,
    /// Compression and the load a run may put on the machine.
    #[serde(default)]
    pub engine: EngineConfig,
    /// Limits of the health checks.
    #[serde(default)]
    pub health: HealthConfig,
    /// Channels that tell about this job; all when absent.
    #[serde(default)]
    pub notify: Option<Vec<ChannelName>>,
}

/// Who starts runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The daemon.
    #[default]
    Internal,
    /// Something else, such as cron; the schedule then only says when runs are due.
    External,
}

/// A ready-made set of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A Laravel application: its files without caches, and the database named in its `.env`.
    Laravel,
}

/// One source.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// Files and folders.
    Files(FilesConfig),
    /// The standard output of a program.
    Command(CommandConfig),
    /// An SQLite database file.
    Sqlite(SqliteConfig),
    /// MySQL or MariaDB databases.
    Mysql(MysqlConfig),
    /// What the operating system needs to be set up again.
    System(SystemConfig),
}

/// Files and folders.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Absolute paths.
    #[schemars(with = "Vec<AbsolutePath>")]
    pub paths: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax, relative to each path.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Leave out folders with a valid `CACHEDIR.TAG`, except the tag.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Leave out folders that hold a file with one of these names, such as `.nobackup`.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Do not go into other file systems.
    #[serde(default)]
    pub one_file_system: bool,
    /// What an unreadable file does to the outcome.
    #[serde(default)]
    pub unreadable: Unreadable,
    /// Accept a source with no file in it.
    #[serde(default)]
    pub allow_empty: bool,
}

/// What an unreadable file does to the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unreadable {
    /// The run becomes `partial`.
    #[default]
    Fail,
    /// The run becomes `warning`, as with GNU tar's `--ignore-failed-read`.
    Warn,
}

/// The standard output of a program.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    /// File name extension of the component, without a dot.
    #[serde(default = "super::defaults::extension")]
    pub extension: String,
    /// Text the output must end with, white space aside.
    #[serde(default)]
    pub end_marker: Option<String>,
    /// Environment variables whose values are read from files.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretFile>")]
    pub env_file: BTreeMap<String, PathBuf>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long it may run.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Accept an output of no bytes.
    #[serde(default)]
    pub allow_empty: bool,
}

/// An SQLite database file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file, absolute.
    #[schemars(with = "AbsolutePath")]
    pub path: PathBuf,
    /// How long to wait for a writer to let go.
    #[serde(default = "super::defaults::sqlite_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// MySQL or MariaDB databases.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// Databases to dump; all when empty.
    #[serde(default)]
    pub databases: Vec<String>,
    /// A MySQL option file with the credentials; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub defaults_file: Option<PathBuf>,
    /// Host, when it is not in the option file.
    #[serde(default)]
    pub host: Option<String>,
    /// Port, when it is not in the option file.
    #[serde(default)]
    pub port: Option<u16>,
    /// Socket, when it is not in the option file.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub socket: Option<PathBuf>,
    /// User, when it is not in the option file.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// A Laravel `.env` to read host, port, user, password and database from.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub env_file: Option<PathBuf>,
    /// The dump program; `mariadb-dump` or `mysqldump`, whichever is found, when absent.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Further arguments for the dump program.
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// How long the dump may take.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// What the operating system needs to be set up again.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SystemConfig {
    /// Paths instead of the preset's; missing ones are passed over.
    #[schemars(with = "Option<Vec<AbsolutePath>>")]
    pub paths: Option<Vec<PathBuf>>,
    /// Paths beside the preset's.
    #[schemars(with = "Vec<AbsolutePath>")]
    pub extra_paths: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax.
    pub exclude: Vec<String>,
    /// What an unreadable file does to the outcome.
    pub unreadable: Unreadable,
}

/// Compression and the load a run may put on the machine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// `zstd`, or `gzip` for machines that have no zstd.
    pub codec: CodecName,
    /// Compression level; 3 for zstd and 6 for gzip when absent.
    pub level: Option<i32>,
    /// Compressing threads; half the cores when absent.
    #[schemars(range(min = 1, max = 256))]
    pub threads: Option<usize>,
    /// Added to the niceness of the engine's threads, 0 to 19.
    #[schemars(with = "NiceLevel")]
    pub nice: i32,
    /// I/O class of the engine's threads.
    pub ionice: IoNice,
    /// Bytes read from sources a second, at most.
    #[schemars(with = "Option<SizeText>")]
    pub read_limit: Option<ByteSize>,
}

/// Compression format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CodecName {
    /// zstd.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
}

/// I/O scheduling class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IoNice {
    /// Only when nobody else wants the disk.
    #[default]
    Idle,
    /// Like everybody else.
    BestEffort,
}

/// Limits of the health checks.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// How far a component may shrink against the median of good runs, in source bytes and entries.
    #[serde(with = "super::percent")]
    #[schemars(with = "PercentText")]
    pub max_shrink: f64,
    /// Whether a shrunken component fails the run before publication or is only reported.
    pub on_shrink: OnShrink,
    /// Lock contentions in a day before they are reported.
    pub max_contention: u64,
}

/// What a shrunken component does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnShrink {
    /// It is reported; the backup is kept.
    #[default]
    Warn,
    /// The run fails and nothing is published.
    Fail,
}

/// One channel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NotifyConfig {
    /// Mail over SMTP.
    Email(EmailConfig),
    /// A ping to a dead man's switch (healthchecks style): the address after a good run, address + `/fail` after a bad one.
    Heartbeat(HeartbeatConfig),
}

/// Mail over SMTP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// `smtps://host:465`, `smtp://host:587?tls=required`, or `smtp://127.0.0.1:25` without TLS on loopback.
    #[schemars(with = "SmtpUrl")]
    pub smtp: String,
    /// Login name.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// Sender.
    #[schemars(with = "MailAddress")]
    pub from: String,
    /// Receivers.
    #[schemars(with = "Vec<MailAddress>")]
    pub to: Vec<String>,
    /// Which ends of a run are told.
    #[serde(default = "super::defaults::notify_on")]
    pub on: Vec<NotifyOn>,
    /// Whether good runs are told: each one, once a day, or not.
    #[serde(default)]
    pub success: SuccessMail,
    /// How often a failure that lasts is told again.
    #[serde(default = "super::defaults::remind", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub remind: Duration,
    /// Labels put into the subject, by event (`failure = "backup-failure"`).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long one attempt may take.
    #[serde(default = "super::defaults::send_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// A PEM file with a further certificate authority.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub ca_file: Option<PathBuf>,
}

/// A ping to a dead man's switch.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// File with the address; it is a secret, so others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub url_file: Option<PathBuf>,
    /// The address, where it is no secret.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub url: Option<String>,
    /// How long one attempt may take.
    #[serde(default = "super::defaults::send_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// Which ends of a run are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NotifyOn {
    /// No new backup.
    Failure,
    /// A backup with something unreadable.
    Partial,
    /// A good backup, but a copy, retention or verification failed.
    Degraded,
    /// A run that died or was ended.
    Interrupted,
    /// Good again after a failure that was told.
    Recovery,
}

/// Whether good runs are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SuccessMail {
    /// Each one.
    Always,
    /// A digest once a day.
    Daily,
    /// Not.
    #[default]
    Never,
}
