//! The configuration as the rest of the program sees it: typed, with every default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::HealthConfig;
use super::schema::{
    AbsolutePath, CronLine, DurationText, NiceLevel, PageUrl, SizeText, SocketText, ZoneName,
};
use crate::model::{ByteSize, ChannelName, ComponentName, HookName, JobName, TargetName};

pub use super::types_drill::*;
pub use super::types_encryption::*;
pub use super::types_hook::*;
pub use super::types_notify::*;
pub use super::types_source::*;
pub use super::types_target::*;

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
    /// Address under which people reach the status page; messages link to it.
    #[schemars(with = "Option<PageUrl>")]
    pub status_url: Option<String>,
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
    /// Format, level and files of the log.
    pub log: LogConfig,
    /// Metrics beside the HTTP endpoint.
    pub metrics: MetricsConfig,
    /// Limits of the health checks, for all jobs that set none of their own, and for the agent.
    pub health: HealthConfig,
    /// What the backups of all jobs are encrypted to that say nothing of their own; not at all when absent.
    pub encryption: Option<EncryptionConfig>,
    /// Programs that made backups before this one, by path or name: what starts them is reported.
    pub legacy: Vec<String>,
    /// Places where backups are stored.
    pub target: BTreeMap<TargetName, TargetConfig>,
    /// What is backed up, and when.
    pub job: BTreeMap<JobName, JobConfig>,
    /// Who is told.
    pub notify: BTreeMap<ChannelName, NotifyConfig>,
}

/// Format, level and files of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level (`info`) or tracing directives (`backup_agent=debug`).
    pub level: Option<String>,
    /// A file to which everything the agent does is appended: runs, copies, messages, the daemon.
    #[schemars(with = "Option<AbsolutePath>")]
    pub run_file: Option<PathBuf>,
    /// A file to which what the health checks find is appended.
    #[schemars(with = "Option<AbsolutePath>")]
    pub health_file: Option<PathBuf>,
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
    /// A file for node_exporter's textfile collector, written after each run, check and change; ends in `.prom`.
    #[schemars(with = "Option<AbsolutePath>")]
    pub textfile: Option<PathBuf>,
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
    /// Commands run before and after a run, or around a single source.
    #[serde(default)]
    pub hook: BTreeMap<HookName, HookConfig>,
    /// Compression and the load a run may put on the machine.
    #[serde(default)]
    pub engine: EngineConfig,
    /// What backups are encrypted to; as `[encryption]` says when absent.
    #[serde(default)]
    pub encryption: Option<EncryptionConfig>,
    /// Limits of the health checks.
    #[serde(default)]
    pub health: HealthConfig,
    /// Trial restores; none when absent.
    #[serde(default)]
    pub drill: Option<DrillConfig>,
    /// Programs that made this backup before, by path or name, beside those for the whole host.
    #[serde(default)]
    pub legacy: Vec<String>,
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
