//! Limits of the health checks: what they are, what they are when nobody sets them, and whose word counts.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{DurationText, PercentText};
use super::types::{Config, JobConfig, OnShrink};

/// Limits of the health checks, as `[health]` sets them for all jobs and `[job.NAME.health]` for one. What
/// is absent in both is as in [`LIMITS`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// How far a component may shrink against the median of good runs, in source bytes and entries.
    #[serde(with = "super::percent::option")]
    #[schemars(with = "Option<PercentText>")]
    pub max_shrink: Option<f64>,
    /// Whether a shrunken component fails the run before publication or is only reported.
    pub on_shrink: Option<OnShrink>,
    /// Lock contentions in a day before they are reported.
    pub max_contention: Option<u64>,
    /// Files that may change, vanish or be unreadable in one run before that is reported; ten times the
    /// usual, and at least 100, when absent.
    pub max_warnings: Option<u64>,
    /// How long a late run may be under way and still count as such, where no `max_runtime` says so.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub late_run: Option<Duration>,
    /// How far beyond `max_runtime` a run that was ended must be to count as hung.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub hang_after: Option<Duration>,
    /// How long a copy may wait before it is reported.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub copies_warning: Option<Duration>,
    /// How long a copy may wait before that is critical.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub copies_critical: Option<Duration>,
    /// How old the last read-back at each target may be; not looked at when absent.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub max_verify_age: Option<Duration>,
    /// How long the scheduler may stand still.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub scheduler_late: Option<Duration>,
    /// How old the last look at a target may be.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub probe_age: Option<Duration>,
    /// The share of `min_free` below which free space is critical.
    #[serde(with = "super::percent::option")]
    #[schemars(with = "Option<PercentText>")]
    pub free_critical: Option<f64>,
    /// How long a message may wait before it is reported.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub message_late: Option<Duration>,
    /// How long a message that was given up is reported.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub given_up_told: Option<Duration>,
    /// How long a jump of the clock is reported.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub clock_told: Option<Duration>,
}

/// The limits that hold for one job, or for the agent. Keys are those of [`HealthConfig`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // each is described where it is configured
pub struct Limits {
    pub max_shrink: f64,
    pub on_shrink: OnShrink,
    pub max_contention: u64,
    pub max_warnings: Option<u64>,
    pub late_run: Duration,
    pub hang_after: Duration,
    pub copies_warning: Duration,
    pub copies_critical: Duration,
    pub max_verify_age: Option<Duration>,
    pub scheduler_late: Duration,
    pub probe_age: Duration,
    pub free_critical: f64,
    pub message_late: Duration,
    pub given_up_told: Duration,
    pub clock_told: Duration,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_shrink: 0.5,
            on_shrink: OnShrink::Warn,
            max_contention: 3,
            max_warnings: None,
            late_run: Duration::from_secs(24 * HOUR),
            // A run this much beyond its time did not obey when it was ended.
            hang_after: Duration::from_secs(10 * MINUTE),
            // A NAS that is off at night is normal; a second copy missing for days is an emergency.
            copies_warning: Duration::from_secs(6 * HOUR),
            copies_critical: Duration::from_secs(3 * DAY),
            max_verify_age: None,
            scheduler_late: Duration::from_secs(2 * MINUTE),
            // Longer than a day, for hosts where only a daily run looks.
            probe_age: Duration::from_secs(26 * HOUR),
            free_critical: 0.1,
            // Mail servers grey-list.
            message_late: Duration::from_secs(15 * MINUTE),
            // So that a check once a day meets it.
            given_up_told: Duration::from_secs(2 * DAY),
            clock_told: Duration::from_secs(DAY),
        }
    }
}

/// What a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// A job: it may stand in `[health]` and in `[job.NAME.health]`.
    Job,
    /// The agent as a whole: it may stand in `[health]` only.
    Agent,
}

/// One limit, for documents and for the table of checks.
#[derive(Debug, Clone, Copy)]
pub struct LimitInfo {
    /// Its key.
    pub key: &'static str,
    /// What it is about.
    pub scope: LimitScope,
    /// What it is when nobody sets it, as it would be written.
    pub default: &'static str,
}

const fn job(key: &'static str, default: &'static str) -> LimitInfo {
    LimitInfo { key, scope: LimitScope::Job, default }
}

const fn agent(key: &'static str, default: &'static str) -> LimitInfo {
    LimitInfo { key, scope: LimitScope::Agent, default }
}

/// Every limit, in the order of the documents.
pub const LIMITS: &[LimitInfo] = &[
    job("max_shrink", "50%"),
    job("on_shrink", "warn"),
    job("max_contention", "3"),
    job("max_warnings", "10 times the usual"),
    job("late_run", "1day"),
    job("hang_after", "10m"),
    job("copies_warning", "6h"),
    job("copies_critical", "3days"),
    job("max_verify_age", "none"),
    agent("scheduler_late", "2m"),
    agent("probe_age", "1day 2h"),
    agent("free_critical", "10%"),
    agent("message_late", "15m"),
    agent("given_up_told", "2days"),
    agent("clock_told", "1day"),
];

impl Limits {
    /// What `own` says, else what `general` says, else the default.
    pub fn of(general: &HealthConfig, own: &HealthConfig) -> Self {
        let default = Self::default();
        macro_rules! pick {
            ($key:ident) => {
                own.$key.or(general.$key).unwrap_or(default.$key)
            };
        }
        Self {
            max_shrink: pick!(max_shrink),
            on_shrink: pick!(on_shrink),
            max_contention: pick!(max_contention),
            max_warnings: own.max_warnings.or(general.max_warnings),
            late_run: pick!(late_run),
            hang_after: pick!(hang_after),
            copies_warning: pick!(copies_warning),
            copies_critical: pick!(copies_critical),
            max_verify_age: own.max_verify_age.or(general.max_verify_age),
            scheduler_late: pick!(scheduler_late),
            probe_age: pick!(probe_age),
            free_critical: pick!(free_critical),
            message_late: pick!(message_late),
            given_up_told: pick!(given_up_told),
            clock_told: pick!(clock_told),
        }
    }
}

impl Config {
    /// The limits of the health checks for a job.
    pub fn limits_of(&self, job: &JobConfig) -> Limits {
        Limits::of(&self.health, &job.health)
    }

    /// The limits of the health checks of the agent as a whole.
    pub fn agent_limits(&self) -> Limits {
        Limits::of(&self.health, &HealthConfig::default())
    }
}

impl HealthConfig {
    /// The durations that are set, with their keys.
    pub(super) fn durations(&self) -> [(&'static str, Option<Duration>); 10] {
        [
            ("late_run", self.late_run),
            ("hang_after", self.hang_after),
            ("copies_warning", self.copies_warning),
            ("copies_critical", self.copies_critical),
            ("max_verify_age", self.max_verify_age),
            ("scheduler_late", self.scheduler_late),
            ("probe_age", self.probe_age),
            ("message_late", self.message_late),
            ("given_up_told", self.given_up_told),
            ("clock_told", self.clock_told),
        ]
    }

    /// Whether a key is set.
    pub(super) fn sets(&self, key: &str) -> bool {
        let duration = self.durations().iter().any(|(name, value)| *name == key && value.is_some());
        duration || (key == "free_critical" && self.free_critical.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_the_last_word_then_the_host_then_the_default() {
        let general: HealthConfig = toml::from_str("copies_warning = \"1h\"\nmax_contention = 9").unwrap();
        let own: HealthConfig = toml::from_str("max_contention = 1\nmax_shrink = \"80%\"").unwrap();
        let limits = Limits::of(&general, &own);
        assert_eq!((limits.max_contention, limits.max_shrink), (1, 0.8));
        assert_eq!(limits.copies_warning, Duration::from_secs(HOUR));
        assert_eq!(limits.copies_critical, Limits::default().copies_critical);
    }

    #[test]
    fn the_table_names_each_key_and_its_default_as_it_is() {
        let schema = serde_json::to_value(schemars::schema_for!(HealthConfig)).unwrap();
        let mut keys: Vec<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut named: Vec<&str> = LIMITS.iter().map(|limit| limit.key).collect();
        keys.sort_unstable();
        named.sort_unstable();
        assert_eq!(keys, named);
        // What the table says is the default is read as the default.
        let text: String = LIMITS
            .iter()
            .filter(|limit| !matches!(limit.key, "max_warnings" | "max_verify_age" | "max_contention"))
            .map(|limit| format!("{} = \"{}\"\n", limit.key, limit.default))
            .collect();
        let said: HealthConfig = toml::from_str(&text).unwrap();
        assert_eq!(Limits::of(&said, &HealthConfig::default()), Limits::default());
        for limit in LIMITS {
            let agent_key = limit.scope == LimitScope::Agent;
            assert!(!agent_key || said.sets(limit.key), "{} is not known to sets()", limit.key);
        }
    }
}
