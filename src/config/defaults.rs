//! What a key means when nobody sets it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::limits::HealthConfig;
use super::types::*;

/// The configuration file when none is named.
pub const DEFAULT_FILE: &str = "/etc/backup-agent/config.toml";

/// Sorts by day, and keeps several runs of a day apart.
pub(super) fn template() -> String {
    "daily/%Y/%m/%d/%H%M".to_owned()
}

/// How long a server may be silent.
pub(super) fn silence() -> Duration {
    Duration::from_secs(60)
}

/// What stores without regions expect.
pub(super) fn s3_region() -> String {
    "us-east-1".to_owned()
}

pub(super) fn grace() -> Duration {
    Duration::from_secs(60 * 60)
}

pub(super) fn copy_wait() -> Duration {
    Duration::from_secs(30 * 60)
}

pub(super) fn copy_stall() -> Duration {
    Duration::from_secs(5 * 60)
}

/// Long enough for any dump that fits between two runs; what it stops is a dump that hangs.
pub(super) fn dump_timeout() -> Duration {
    Duration::from_secs(4 * 60 * 60)
}

/// Two keep both cores of a small machine busy, and the database server is not asked for more.
pub(super) fn parallel() -> usize {
    2
}

pub(super) fn yes() -> bool {
    true
}

/// Every server has it, unless somebody dropped it.
pub(super) fn maintenance_db() -> String {
    "postgres".to_owned()
}

/// Long enough for a snapshot or a maintenance mode; what it stops is a command that hangs.
pub(super) fn hook_timeout() -> Duration {
    Duration::from_secs(5 * 60)
}

pub(super) fn sqlite_timeout() -> Duration {
    Duration::from_secs(30)
}

pub(super) fn send_timeout() -> Duration {
    Duration::from_secs(30)
}

pub(super) fn remind() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

pub(super) fn extension() -> String {
    "out".to_owned()
}

pub(super) fn notify_on() -> Vec<NotifyOn> {
    NotifyOn::ALL.to_vec()
}

pub(super) fn ping_on() -> Vec<PingOn> {
    vec![PingOn::Start, PingOn::Success, PingOn::Failure]
}

impl NotifyOn {
    /// All ends of a run a channel can be told about.
    pub const ALL: [NotifyOn; 5] =
        [NotifyOn::Failure, NotifyOn::Partial, NotifyOn::Degraded, NotifyOn::Interrupted, NotifyOn::Recovery];
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timezone: super::timezone::host_timezone().unwrap_or(chrono_tz::UTC),
            host: None,
            state_dir: PathBuf::from("/var/lib/backup-agent"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9736)),
            status_url: None,
            allow_remote: false,
            max_parallel_jobs: 1,
            // Below systemd's 90 seconds between SIGTERM and SIGKILL.
            shutdown_timeout: Duration::from_secs(60),
            check_interval: Duration::from_secs(60),
            log: LogConfig::default(),
            metrics: MetricsConfig::default(),
            health: HealthConfig::default(),
            encryption: None,
            legacy: Vec::new(),
            target: Default::default(),
            job: Default::default(),
            notify: Default::default(),
        }
    }
}

impl Default for JobConfig {
    fn default() -> Self {
        Self {
            schedule: None,
            trigger: Trigger::default(),
            timezone: None,
            grace: grace(),
            splay: Duration::ZERO,
            max_runtime: None,
            lock_file: None,
            targets: Vec::new(),
            copy_wait: copy_wait(),
            copy_stall: copy_stall(),
            aliases: Vec::new(),
            preset: None,
            preset_path: None,
            source: Default::default(),
            hook: Default::default(),
            engine: EngineConfig::default(),
            encryption: None,
            health: HealthConfig::default(),
            drill: None,
            legacy: Vec::new(),
            notify: None,
        }
    }
}

impl Default for CommandConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            extension: extension(),
            end_marker: None,
            check: Vec::new(),
            run_as: None,
            env_file: Default::default(),
            env: Default::default(),
            timeout: dump_timeout(),
            allow_empty: false,
        }
    }
}

impl Default for MysqlConfig {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            exclude_databases: Vec::new(),
            split: false,
            users: false,
            parallel: parallel(),
            allow_empty: false,
            defaults_file: None,
            host: None,
            port: None,
            socket: None,
            user: None,
            password_file: None,
            password: None,
            env_file: None,
            program: None,
            extra_args: Vec::new(),
            timeout: dump_timeout(),
        }
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            exclude_databases: Vec::new(),
            globals: true,
            parallel: parallel(),
            allow_empty: false,
            host: None,
            port: None,
            socket: None,
            user: None,
            password_file: None,
            password: None,
            passfile: None,
            run_as: None,
            maintenance_db: maintenance_db(),
            bin_dir: None,
            extra_args: Vec::new(),
            timeout: dump_timeout(),
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: None,
            socket: None,
            user: None,
            password_file: None,
            password: None,
            tls: false,
            ca_file: None,
            program: None,
            timeout: dump_timeout(),
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        // A backup at eleven in the morning must not be felt by the web server beside it.
        Self {
            codec: CodecName::default(),
            level: None,
            threads: None,
            nice: 10,
            ionice: IoNice::Idle,
            read_limit: None,
        }
    }
}

/// A drill takes hours and happens weekly: a day late is soon enough to know.
pub(super) fn drill_grace() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

/// Enough to notice a mix-up, few enough to cost nothing.
pub(super) fn drill_sample() -> u32 {
    20
}

pub(super) fn check_timeout() -> Duration {
    Duration::from_secs(10 * 60)
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            schedule: None,
            grace: drill_grace(),
            target: None,
            sample: drill_sample(),
            scratch: None,
            identity_file: None,
            check: Default::default(),
        }
    }
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self { enabled: true, schedule: "@weekly".to_owned(), budget: None, repair: false }
    }
}
